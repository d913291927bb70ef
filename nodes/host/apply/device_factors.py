"""An adapter bound to one host model: what fits where, and its factors on the device, worked out once."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

import comfy.model_patcher
import torch
from torch import Tensor

from ....qrlora_core import QRLoRA, QRLoRAError, Term
from ..model.host_types import Patcher
from ..model.key_map import Target
from ..model.matching import Match, Names, match
from ..model.memo import Note, recalled, remembered
from ..model.weights import compute_dtype
from .live_vector import can_add_vector


class _Holder(torch.nn.Module):
    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = torch.nn.Parameter(tensor, requires_grad=False)


class _Factors(torch.nn.Module):
    """Tensors by name as frozen parameters, so that the host moves, counts and frees them like a model's."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        # One small module each: the host loads and offloads module by module.
        self._holders: dict[str, _Holder] = {}
        for index, (name, tensor) in enumerate(tensors.items()):
            self._holders[name] = _Holder(tensor)
            self.add_module(str(index), self._holders[name])

    def giver(self, name: str) -> Callable[[], Tensor]:
        parameters = self._holders[name]._parameters  # asked each time: the host may have moved it
        return lambda: parameters["tensor"]  # type: ignore[return-value]

    def tensors(self) -> dict[str, Tensor]:
        return {name: holder.tensor for name, holder in self._holders.items()}


class Held(Protocol):
    """One of the host's patchers, of factors."""

    model: _Factors


# Gives the module with the tensors of `Binding.basis` or `Binding.deltas`, or with a copy of them on another device.
Place = Callable[[Held], _Factors]


def own_place(held: Held) -> _Factors:
    """Where the tensors were put first."""
    return held.model


@dataclass(frozen=True, eq=False)
class Binding:
    """An adapter on one model, for live application.

    Args:
        match: which layers fit.
        basis: the q of every term, in the model's compute dtype and the host's row order.
        deltas: the delta_r of every term, in the adapter's dtype.
        unrun: host modules of its layers that did not run in the last sampling.
        watched: those that did not run in any one; from then on their weights are watched, see `live_bypass`.
    """

    match: Match
    basis: Held
    deltas: Held
    unrun: set[str] = field(default_factory=set)
    watched: set[str] = field(default_factory=set)

    def q(self, path: str, term: Term, place: Place) -> Callable[[], Tensor]:
        """Gives the term's q where the host has put it."""
        return place(self.basis).giver(_name(self.match.adapter, path, term))

    def delta_r(self, path: str, term: Term, place: Place) -> Callable[[], Tensor]:
        """Gives the term's delta_r where the host has put it."""
        return place(self.deltas).giver(_name(self.match.adapter, path, term))

    def note_unrun(self, ran: Set[str]) -> None:
        """Remember which of its host modules are not among those that ran."""
        self.unrun.clear()
        self.unrun.update({target.module for target in self.match.targets.values()} - ran)
        self.watched.update(self.unrun)

    def unrun_names(self) -> list[str]:
        """The adapter's own names of the layers that did not run."""
        return self.names_of(self.unrun)

    def names_of(self, modules: Set[str]) -> list[str]:
        """The adapter's own names of layers that are in these host modules."""
        targets, names = self.match.targets, self.match.own_names
        return [own for path, target in targets.items() if target.module in modules for own in names[path]]


_BINDING: Note[Binding] = Note("binding")


def bind(patcher: Patcher, adapter: QRLoRA, names: Names) -> Binding:
    """The adapter's binding to the patcher's model: made at the first call, found again after.

    Raises:
        AdapterError: the adapter does not fit, see `match`.
        QRLoRAError: a layer that a forward hook cannot serve.
    """
    return remembered(adapter, patcher.model, _BINDING, lambda: _bind(patcher, match(patcher, adapter, names)))


def unrun_layers(patcher: Patcher, adapter: QRLoRA) -> list[str]:
    """The names of layers that did not run when the adapter was last live on this model; none where it never was."""
    binding = recalled(adapter, patcher.model, _BINDING)
    return [] if binding is None else binding.unrun_names()


def _bind(patcher: Patcher, matched: Match) -> Binding:
    for path, target in matched.targets.items():
        _require_hookable(patcher, matched.adapter, path, target)
    with torch.inference_mode(False):  # normal tensors also serve a trainer that runs on a live model
        return _upload(patcher, matched)


def _upload(patcher: Patcher, matched: Match) -> Binding:
    dtype = compute_dtype(patcher)
    basis, deltas = {}, {}
    for path, target in matched.targets.items():
        for term in matched.adapter.layers[path].terms:
            name = _name(matched.adapter, path, term)
            q = term.q if target.reorder is None else target.reorder(term.q)
            basis[name], deltas[name] = q.detach().to(dtype), term.delta_r.detach()
    # A merge keeps sums of delta_r in the compute dtype beside them: reserve that room too.
    room = sum(delta.numel() * (delta.element_size() + dtype.itemsize) for delta in deltas.values())
    return Binding(matched, _as_model(patcher, basis), _as_model(patcher, deltas, room))


def _as_model(patcher: Patcher, tensors: dict[str, Tensor], size: int = 0) -> Held:
    return _patcher_of(_Factors(tensors), patcher.load_device, patcher.offload_device, size)


def _patcher_of(factors: _Factors, load_device: torch.device, offload_device: torch.device, size: int) -> Held:
    made: Held = comfy.model_patcher.ModelPatcher(factors, load_device, offload_device, size=size)
    if hasattr(made, "cached_patcher_init"):  # how the host makes a copy for another device
        made.cached_patcher_init = _copied, (factors, load_device, offload_device, size)
    return made


def _copied(factors: _Factors, load_device: torch.device, offload_device: torch.device, size: int, **_: Any) -> Held:
    with torch.inference_mode(False):
        tensors = {name: tensor.detach().to(offload_device, copy=True) for name, tensor in factors.tensors().items()}
        return _patcher_of(_Factors(tensors), load_device, offload_device, size)


def _name(adapter: QRLoRA, path: str, term: Term) -> str:
    return f"{path} {adapter.layers[path].terms.index(term)}"


def _require_hookable(patcher: Patcher, adapter: QRLoRA, path: str, target: Target) -> None:
    module = patcher.model.get_submodule(target.module)
    if target.vector and can_add_vector(module, target.vector):
        return
    linear = hasattr(module, "in_features")
    conv = hasattr(module, "kernel_size") and getattr(module, "groups", 1) == 1 and module.padding_mode == "zeros"
    if target.vector or (not linear and not conv):
        raise QRLoRAError(
            f"{adapter.name}: layer {path} ({type(module).__name__}) cannot take a live branch; set apply to patch."
        )
