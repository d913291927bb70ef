"""What a network does between its blocks: there too, something may be saved for backward and changed afterwards.

Wan's injectors of sound write into the stream that a norm, or a block of their own, has just had. Wan Animate 2 runs
its blocks' layers by itself and keeps keys and values of all blocks in one buffer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from .modules import is_floating

_Function = Callable[..., Any]


@dataclass
class Overwritten:
    """Who had what is changed later.

    Attributes:
        blocks: kinds of blocks, by a change between blocks: a block that runs again in backward needs its arguments.
        modules: dotted names of modules that ran between blocks and saved it, by a change anywhere.
        functions: functions that were called there and saved it, by a change anywhere.
    """

    blocks: set[type] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    functions: set[_Function] = field(default_factory=set)


class _Held:
    """Tensors by who had them, with versions: every change in place raises one, with and without a graph."""

    def __init__(self) -> None:
        self._held: list[tuple[Any, Tensor, int]] = []

    def note(self, who: Any, values: Iterable[Tensor]) -> None:
        self._held += [(who, value, value._version) for value in values]

    def changed(self) -> set[Any]:
        return {who for who, value, version in self._held if value._version != version}

    def forgive(self) -> None:
        """What was changed until now is no matter."""
        self._held = [(who, value, value._version) for who, value, _ in self._held]


class _Saved(TorchFunctionMode):
    """Within the context, notes what is saved for backward: by a module if one is named, else by a function.

    Functions that change what they are given are left out: a copy would take the change.
    """

    def __init__(self) -> None:
        super().__init__()
        self.module = ""
        self.by_modules, self.by_functions = _Held(), _Held()
        self._by_this: list[Tensor] = []

    def __torch_function__(self, func: _Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._by_this.clear()
        given = [(value, value._version) for value in _tracked(args)]
        result = func(*args, **(kwargs or {}))
        if all(value._version == version for value, version in given):
            self.by_functions.note(func, self._by_this)
        self._by_this.clear()
        return result

    def save(self, tensor: Tensor) -> Tensor:
        """For `saved_tensors_hooks`."""
        if self.module:
            self.by_modules.note(self.module, _tracked(tensor))
        else:
            self._by_this += _tracked(tensor)
        return tensor


@contextlib.contextmanager
def watched(network: torch.nn.Module, blocks: Iterable[torch.nn.Module]) -> Iterator[Overwritten]:
    """Within the context, one run of a network is watched, with a graph between its blocks alone.

    What is yielded is filled at the end.
    """
    found, saved, to_blocks = Overwritten(), _Saved(), _Held()

    def enter_block(block: torch.nn.Module, args: Any, kwargs: Any) -> None:
        found.blocks.update(to_blocks.changed())
        to_blocks.note(type(block), _tracked([args, kwargs]))
        torch.set_grad_enabled(False)

    def leave_block(_block: Any, _args: Any, output: Any) -> Any:
        torch.set_grad_enabled(True)
        to_blocks.forgive()  # what blocks change of their arguments, they change in copies while training
        return tree_map(_differentiable, output)

    def enter(name: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            saved.module = name

        return note

    def leave(*_: Any) -> None:
        saved.module = ""

    with contextlib.ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(enter_block, with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(leave_block).remove)
        for name, module in network.named_modules():
            if next(module.children(), None) is None:
                stack.callback(module.register_forward_pre_hook(enter(name)).remove)
                stack.callback(module.register_forward_hook(leave).remove)
        with torch.enable_grad(), saved, torch.autograd.graph.saved_tensors_hooks(saved.save, lambda tensor: tensor):
            yield found
    found.blocks |= to_blocks.changed()
    found.modules |= saved.by_modules.changed()
    found.functions |= saved.by_functions.changed()


def _differentiable(value: Any) -> Any:
    """A copy with a gradient, in a place where it may be changed."""
    return value.detach().requires_grad_().mul(1) if is_floating(value) else value


def _tracked(values: object) -> list[Tensor]:
    """The tensors whose versions are counted."""
    return [value for value in tree_leaves(values) if is_floating(value) and not value.is_inference()]
