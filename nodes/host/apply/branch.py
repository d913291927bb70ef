"""The one forward hook that a host layer has, whatever the number of merges: it adds what lies ready for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .live_bypass import Bypass, Change
from .live_changes import LiveChanges
from .live_vector import LiveVector
from .stack import Stack
from .uncopied import Uncopied

Addend = Stack | LiveVector | LiveChanges


def _cannot_tell() -> bool:
    """In older versions of PyTorch, where an exported part keeps what it was exported with."""
    return False


_is_exporting = getattr(torch.compiler, "is_exporting", _cannot_tell)


class Branch(Uncopied):
    """A forward hook of a module. It has no say in what is added, and reads nothing that changes within a sampling.

    A compiler follows it into the products: with the addends of another merge in the same shapes, its program stays.

    Attributes:
        addends: what to add, of all merges; empty is off.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.addends: tuple[Addend, ...] = ()
        self._changes: tuple[LiveChanges, ...] = ()
        self._others: tuple[Stack | LiveVector, ...] = ()
        self._of: dict[object, tuple[Addend, ...]] = {}
        self._handle = module.register_forward_hook(self)
        self._bypass: Bypass | None = None

    def __call__(self, module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """What PyTorch calls after the module."""
        for addend in self.addends:
            addend.ran = True
            if _is_exporting() and not torch.compiler.is_dynamo_compiling():  # which calls itself exporting, too
                addend.is_recorded = True
        bare = output
        for changes in self._changes:
            output = output + changes.added(module, args[0], bare)
        for other in self._others:
            output = other.added(module, args[0], output)
        return output

    def put(self, merge: object, addends: tuple[Addend, ...]) -> None:
        """Add what is a merge's, in place of what was before."""
        self._of[merge] = addends
        self._gather()

    def drop(self, merge: object) -> None:
        """Add nothing of a merge any more."""
        self._of.pop(merge, None)
        self._gather()

    def _gather(self) -> None:
        self.addends = tuple(addend for addends in self._of.values() for addend in addends)
        self._changes = tuple(addend for addend in self.addends if isinstance(addend, LiveChanges))
        self._others = tuple(addend for addend in self.addends if not isinstance(addend, LiveChanges))

    def remove(self) -> None:
        """Leave the module as it was."""
        self._handle.remove()
        self.watch(None)

    def watch(self, module: torch.nn.Module | None) -> None:
        """Add the same to the weight that a module hands out to whoever does not call it; None ends that."""
        if module is not None and self._bypass is None:
            self._bypass = Bypass(module, self._change(".weight"), self._change(".bias"))
        elif module is None and self._bypass is not None:
            self._bypass.remove()
            self._bypass = None

    def _change(self, name: str) -> Change:
        """``W + sum up^T down``, or the same of a bias, for a model that uses it by itself."""

        def changed(value: Tensor) -> Tensor:
            total = value.float()
            for addend in self._changing(name):
                addend.ran = True
                total = total + addend.change(value)
            return total.to(value.dtype)

        return Change(changed, acts=lambda: bool(self._changing(name)))

    def _changing(self, name: str) -> list[Addend]:
        return [addend for addend in self.addends if addend.name == name]
