"""Changes that hang on norms of the base weight, on one model: the weight is read once."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ....qrlora_core import Layer, Stage, from_difference
from .host_types import Patcher
from .key_map import Target
from .matching import Match
from .weights import base_weight


def bound(patcher: Patcher, matched: Match) -> Match:
    """The match with layers that a running model can compute: norms are numbers, changed vectors are differences."""
    layers = dict(matched.adapter.layers)
    for path, target in matched.targets.items():
        if _is_unbound(layers[path]):
            layers[path] = _on(weight_of(patcher, target), layers[path])
    if all(layers[path] is layer for path, layer in matched.adapter.layers.items()):
        return matched
    return replace(matched, adapter=replace(matched.adapter, layers=layers))


def weight_of(patcher: Patcher, target: Target) -> Tensor:
    """The base weight in the shape that the target's layers have."""
    return base_weight(patcher, target).reshape(target.shape)


def _is_unbound(layer: Layer) -> bool:
    is_vector = layer.is_vector and bool(layer.contains_base)
    return is_vector or any(change.stage is Stage.UNBOUND for change in layer.changes)


def _on(base: Tensor, layer: Layer) -> Layer:
    if layer.is_vector:
        return Layer((from_difference(layer.delta_weight(base).flatten()),), is_vector=True)
    return layer.bound(base)
