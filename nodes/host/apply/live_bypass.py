"""Layers whose weight a model uses without calling them: the adapter is added to the weight that is handed out.

Some blocks multiply with a layer's weight themselves, to fuse it with what is around: an activation with an int8
product, a norm with a rotation. They ask the host's `cast_bias_weight` for it, which applies the layer's
``weight_function`` and ``bias_function``; a forward hook sees nothing of that. So these lists are extended by
functions that answer only while the layer is not being called: when it is, its hook adds the same to the output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .uncopied import UncopiedHook

_LISTS = ("weight_function", "bias_function")


@dataclass(frozen=True, eq=False)
class Change:
    """What is done to a parameter that is handed out: ``changed`` never works in place, and acts while ``acts``."""

    changed: Callable[[Tensor], Tensor]
    acts: Callable[[], bool]

    def __call__(self, parameter: Tensor) -> Tensor:
        return self.changed(parameter)


def may_be_bypassed(module: object) -> bool:
    """Whether the host hands out this layer's weight, and has a reason to: it is quantized, or that of a norm."""
    return hands_out(module) and (not _is_product(module) or hasattr(getattr(module, "weight", None), "_qdata"))


def hands_out(module: object) -> bool:
    """Whether the host's `cast_bias_weight` serves this layer."""
    return all(hasattr(module, name) for name in _LISTS)


def _is_product(module: object) -> bool:
    return hasattr(module, "in_features") or hasattr(module, "kernel_size")


class Bypass:
    """Changes the weight and the bias of a module for whoever asks for them without calling it.

    Args:
        module: one for which `hands_out` is true.
        weight, bias: what is done to them.
    """

    def __init__(self, module: torch.nn.Module, weight: Change, bias: Change) -> None:
        self._added = [(_extended(module, name), ours) for name, ours in zip(_LISTS, (weight, bias), strict=True)]
        for functions, ours in self._added:
            functions.ours.append(ours)

    def remove(self) -> None:
        """Put back what was there."""
        for functions, ours in self._added:
            functions.ours.remove(ours)
            if not functions.ours:
                functions.put_back()


def _extended(module: torch.nn.Module, name: str) -> _WhileNotCalled:
    functions = getattr(module, name)
    return functions if isinstance(functions, _WhileNotCalled) else _WhileNotCalled(module, name)


class _WhileNotCalled(list[Callable[[Tensor], Tensor]]):
    """The host's functions, and after them ours while the module is not in a call; it takes the place of the list."""

    def __init__(self, module: torch.nn.Module, name: str) -> None:
        super().__init__(getattr(module, name))
        self.ours: list[Change] = []
        self._module, self._name, self._was_own, self._called = module, name, name in vars(module), False
        self._handles = [
            module.register_forward_pre_hook(UncopiedHook(self._enter)),
            module.register_forward_hook(UncopiedHook(self._leave)),
        ]
        setattr(module, name, self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Callable[[Tensor], Tensor]]:
        """In a copy of the module, the host's functions alone."""
        return copy.deepcopy(list(super().__iter__()), memo)

    def __len__(self) -> int:
        return super().__len__() + len(self._acting())

    def __iter__(self) -> Iterator[Callable[[Tensor], Tensor]]:
        yield from super().__iter__()
        yield from self._acting()

    def _acting(self) -> list[Change]:
        # Whoever replaced forward, as training does, asks for the weight in order to call the module.
        if self._called or "forward" in vars(self._module):
            return []
        return [change for change in self.ours if change.acts()]

    def _enter(self, *_: object) -> None:
        self._called = True

    def _leave(self, *_: object) -> None:
        self._called = False

    def put_back(self) -> None:
        """Make room for a plain list again, with what the host added meanwhile."""
        for handle in self._handles:
            handle.remove()
        if vars(self._module).get(self._name) is not self:
            return
        functions = list(super().__iter__())
        if functions or self._was_own:
            setattr(self._module, self._name, functions)
        else:
            delattr(self._module, self._name)
