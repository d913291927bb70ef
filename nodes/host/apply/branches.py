"""The hooks on one model: whose they are, and when they may go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from weakref import WeakValueDictionary

import torch

from ..model.host_types import Patcher
from .branch import Addend, Branch
from .buffers import Buffers
from .compiled import compile_anew, is_compiled
from .held import Held
from .live_bypass import hands_out, may_be_bypassed

_ATTRIBUTE = "_qr_lora_branches"


class Branches:
    """A `Branch` for each layer of a model on which a merge is live.

    Clones of a patcher share the model, copy the host's ``is_injected`` flag, and eject when they are dropped, also
    those that never ran. So the hooks belong to the one patcher that injected last, and only it switches them off.
    Once the model was seen compiled they stay, switched off: a program looks neither for new hooks nor for lost ones.
    """

    def __init__(self) -> None:
        self._owner: int | None = None
        self._branches: dict[str, tuple[torch.nn.Module, Branch]] = {}
        self._merges: dict[object, Collection[str]] = {}
        self._stay = False
        self._are_new = False
        self._buffers: WeakValueDictionary[Hashable, Held[Buffers]] = WeakValueDictionary()
        self._kept: set[Held[Buffers]] = set()

    @staticmethod
    def of(model: torch.nn.Module) -> Branches:
        """Of a model, with which they are kept."""
        found: Branches = vars(model).setdefault(_ATTRIBUTE, Branches())
        return found

    def __deepcopy__(self, _memo: object) -> Branches:
        """A copy of the model has none."""
        return Branches()

    def buffers(self, shapes: Hashable, make: Callable[[], Held[Buffers]]) -> Held[Buffers]:
        """Those of these shapes, whichever merge they were made for first."""
        found = self._buffers.get(shapes)
        if found is None:
            self._buffers[shapes] = found = make()
        return found

    def keep(self, buffers: Held[Buffers]) -> None:
        """Keep buffers that a program was exported with, as long as there is the model."""
        if buffers not in self._kept:
            logging.warning(
                "QR-LoRA: a part of this model was exported with live adapters in it. As PyTorch runs it, it follows "
                "their scales, and other adapters in the same layers and ranks; what it is converted to does not."
            )
        self._kept.add(buffers)

    def belong_to(self, patcher: Patcher) -> bool:
        """Whether it was this patcher that injected last."""
        return self._owner == id(patcher)

    def put(
        self,
        patcher: Patcher,
        merge: object,
        addends: Mapping[str, tuple[Addend, ...]],
        watched: Collection[str],
    ) -> None:
        """Switch a merge on for a patcher; those that another one left are switched off.

        Args:
            merge: tells it from others on the same patcher.
            addends: by host module.
            watched: modules that were seen not to be called, so that who asks for their weight gets it changed.
        """
        if not self.belong_to(patcher):
            self._drop_all()
        self._owner = id(patcher)
        self._merges[merge] = addends.keys()
        modules = _modules_on_the_way(patcher.model, addends)
        for name in addends.keys() & modules.keys():  # what another node has taken away did not run, and is told so
            module, own = modules[name], addends[name]
            branch = self._branch(name, module)
            branch.put(merge, own)
            if may_be_bypassed(module) or (name in watched and hands_out(module)):
                branch.watch(module)
        if is_compiled(patcher, modules.values()):
            if self._are_new:
                compile_anew()
            self._stay, self._are_new = True, False

    def _branch(self, name: str, module: torch.nn.Module) -> Branch:
        known, branch = self._branches.get(name, (None, None))
        if branch is None or known is not module:
            if branch is not None:  # another module has taken its place
                branch.remove()
            branch = Branch(module)
            self._branches[name] = module, branch
            self._are_new = True
        return branch

    def drop(self, patcher: Patcher, merge: object) -> None:
        """Switch a merge off, if its hooks are this patcher's."""
        if self.belong_to(patcher):
            self._drop(merge)

    def _drop_all(self) -> None:
        for merge in list(self._merges):
            self._drop(merge)

    def _drop(self, merge: object) -> None:
        for name in self._branches.keys() & self._merges.pop(merge, ()):
            self._branches[name][1].drop(merge)
        if not self._merges:
            self._owner = None
            self._clear()

    def _clear(self) -> None:
        for _, branch in self._branches.values():
            branch.watch(None)
            if not self._stay:
                branch.remove()
        if not self._stay:
            self._branches.clear()


def _modules_on_the_way(model: torch.nn.Module, names: Iterable[str]) -> dict[str, torch.nn.Module]:
    """The modules with these names, and all that hold them, as far as they exist."""
    found = {"": model}
    for name in names:
        at = ""
        for word in name.split("."):
            inner = f"{at}.{word}" if at else word
            if inner not in found:
                module = getattr(found[at], word, None)
                if module is None:
                    break
                found[inner] = module
            at = inner
    return found
