"""An adapter bound to one host model: what fits where, and its factors as the host needs them, worked out once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ....qrlora_core import QRLoRA, Term
from ..model.host_types import Patcher
from ..model.key_map import Target
from ..model.matching import Match, Names, match
from ..model.memo import Note, recalled, remembered
from ..model.norms import bound
from ..model.weights import base_bias
from .held import Copied, Held, hold
from .live_vector import can_add_vector


class _Holder(torch.nn.Module):
    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = torch.nn.Parameter(tensor, requires_grad=False)


class Deltas(Copied):
    """The delta_r's of an adapter by name, in its own dtype."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        # One small module each: the host loads and offloads module by module.
        self._holders: dict[str, _Holder] = {}
        for index, (name, tensor) in enumerate(tensors.items()):
            self._holders[name] = _Holder(tensor)
            self.add_module(str(index), self._holders[name])

    def giver(self, name: str) -> Callable[[], Tensor]:
        """Gives one where it lies by then."""
        parameters = self._holders[name]._parameters
        return lambda: parameters["tensor"]  # type: ignore[return-value]

    def copied(self, device: torch.device) -> Deltas:
        """See `Copied`."""
        held = self._holders.items()
        return Deltas({name: holder.tensor.detach().to(device, copy=True) for name, holder in held})


@dataclass(frozen=True, eq=False)
class Binding:
    """An adapter on one model, for live application.

    Args:
        match: which layers fit, and can be changed while the model runs.
        patched: those that fit and cannot.
        bases: the q of every term by name, in the host's row order.
        deltas: the delta_r of every term.
        biases: by host module, of layers of which changes must know what is no part of ``W x``; float32.
        unrun: host modules of its layers that did not run in the last sampling.
        watched: those that did not run in any one; from then on their weights are watched, see `live_bypass`.
    """

    match: Match
    patched: Match
    bases: Mapping[str, Tensor]
    deltas: Held[Deltas]
    biases: Mapping[str, Tensor] = field(default_factory=dict)
    unrun: set[str] = field(default_factory=set)
    watched: set[str] = field(default_factory=set)

    def q(self, path: str, term: Term) -> Tensor:
        """The term's q, where the adapter was loaded to."""
        return self.bases[_name(self.match.adapter, path, term)]

    def delta_r(self, path: str, term: Term, deltas: Deltas) -> Callable[[], Tensor]:
        """Gives the term's delta_r.

        Args:
            deltas: its own, or the copy of them on another device.
        """
        return deltas.giver(_name(self.match.adapter, path, term))

    def note_unrun(self, ran: Set[str]) -> None:
        """Remember which of its host modules are not among those that ran."""
        self.unrun.clear()
        self.unrun.update({target.module for target in self.match.targets.values()} - ran)
        self.watched.update(self.unrun)

    @property
    def count(self) -> int:
        """How many of the adapter's layers fit."""
        return sum(len(own) for part in (self.match, self.patched) for own in part.own_names.values())

    def unrun_names(self) -> list[str]:
        """The adapter's own names of the layers that did not run."""
        return self.names_of(self.unrun)

    def names_of(self, modules: Set[str]) -> list[str]:
        """The adapter's own names of layers that are in these host modules."""
        targets, names = self.match.targets, self.match.own_names
        return [own for path, target in targets.items() if target.module in modules for own in names[path]]


_BINDING: Note[Binding] = Note("binding")


def bind(patcher: Patcher, adapter: QRLoRA, names: Names) -> Binding:
    """The adapter's binding to the patcher's model: made at the first call, found again after."""
    return remembered(adapter, patcher.model, _BINDING, lambda: _bind(patcher, match(patcher, adapter, names)))


def unrun_layers(patcher: Patcher, adapter: QRLoRA) -> list[str]:
    """The names of layers that did not run when the adapter was last live on this model; none where it never was."""
    binding = recalled(adapter, patcher.model, _BINDING)
    return [] if binding is None else binding.unrun_names()


def patched_layers(patcher: Patcher, matched: Match) -> list[str]:
    """The adapter's own names of layers that no forward hook can serve."""
    return [own for path in _parted(patcher, matched)[1].targets for own in matched.own_names[path]]


def _bind(patcher: Patcher, matched: Match) -> Binding:
    hooked, patched = _parted(patcher, matched)
    hooked = bound(patcher, hooked)
    bases, deltas = dict[str, Tensor](), dict[str, Tensor]()
    with torch.inference_mode(False):  # normal tensors also serve a trainer that runs on a live model
        for path, target in hooked.targets.items():
            for term in hooked.adapter.layers[path].terms:
                name = _name(hooked.adapter, path, term)
                bases[name] = term.q if target.reorder is None else target.reorder(term.q)
                deltas[name] = term.delta_r.detach()
        held = hold(Deltas(deltas), patcher.load_device, patcher.offload_device)
        return Binding(hooked, patched, bases, held, dict(_biases(patcher, hooked)))


def _biases(patcher: Patcher, matched: Match) -> Iterator[tuple[str, Tensor]]:
    for path, target in matched.targets.items():
        if any(not change.is_sum for change in matched.adapter.layers[path].changes):
            bias = base_bias(patcher, target)
            if bias is not None:
                yield target.module, bias


def _parted(patcher: Patcher, matched: Match) -> tuple[Match, Match]:
    """What forward hooks can serve, and the rest."""
    hooked = {
        path for path, target in matched.targets.items() if _is_hookable(_module(patcher, target), target)
    }  # fmt: skip
    return matched.only(hooked), matched.only(matched.targets.keys() - hooked)


def _module(patcher: Patcher, target: Target) -> torch.nn.Module:
    return patcher.model.get_submodule(target.module)


def _name(adapter: QRLoRA, path: str, term: Term) -> str:
    return f"{path} {adapter.layers[path].terms.index(term)}"


def _is_hookable(module: torch.nn.Module, target: Target) -> bool:
    if target.vector:
        return can_add_vector(module, target.vector)
    linear = hasattr(module, "in_features")
    conv = hasattr(module, "kernel_size") and getattr(module, "groups", 1) == 1 and module.padding_mode == "zeros"
    return target.key.endswith(".weight") and (linear or conv)
