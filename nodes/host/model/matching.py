"""Match an adapter's layers with a model's, and say what fits before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch.nn.functional import pad

from ....qrlora_core import AdapterError, Layer, QRLoRA, TargetError
from ..text import paths_as_text
from .host_types import Patcher
from .key_map import KeyMap, Target
from .memo import Note, remembered
from .weights import base_name


@dataclass(frozen=True)
class Match:
    """Which layers of an adapter a model has.

    Args:
        adapter: its layers that the model has, under the model's own names and in the weights' shapes. Two names
            for one weight become one layer.
        targets: of these layers.
        own_names: of these layers in the adapter as given.
        missing: the names, in the adapter as given, of layers that the model lacks.
    """

    adapter: QRLoRA
    targets: Mapping[str, Target]
    own_names: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]


_MATCH: Note[Match] = Note("match")


class Names:
    """The key map of one model, made when it is first asked for."""

    def __init__(self, patcher: Patcher) -> None:
        self._model = patcher.model

    @cached_property
    def key_map(self) -> KeyMap:
        """The key map."""
        return KeyMap(self._model)


def match(patcher: Patcher, adapter: QRLoRA, names: Names | None = None) -> Match:
    """Find the targets of all layers of an adapter.

    Raises:
        AdapterError: a layer has the name but not the shape of one of the model's.
    """
    return remembered(
        adapter, patcher.model, _MATCH, lambda: _match(patcher, adapter, (names or Names(patcher)).key_map)
    )


def _match(patcher: Patcher, adapter: QRLoRA, key_map: KeyMap) -> Match:
    found = {path: key_map.find(path) for path in adapter.layers}
    targets: dict[str, Target] = {}
    own_names: dict[str, tuple[str, ...]] = {}
    layers: dict[str, list[Layer]] = {}
    for path, target in found.items():
        if target is not None:
            _check_shape(patcher, adapter, path, target)
            whole = key_map.named(target)
            name = key_map.name_of(whole)
            targets[name] = whole
            own_names[name] = (*own_names.get(name, ()), path)
            layer = _in_shape(adapter.layers[path], target.shape)
            layers.setdefault(name, []).append(_among_all_rows(layer, target, whole))
    missing = tuple(path for path, target in found.items() if target is None)
    return Match(_renamed(adapter, layers), targets, own_names, missing)


def _renamed(adapter: QRLoRA, matched: Mapping[str, list[Layer]]) -> QRLoRA:
    layers = {name: _joined(parts) for name, parts in matched.items()}
    unchanged = len(layers) == len(adapter.layers) and all(
        adapter.layers.get(name) is layer for name, layer in layers.items()
    )
    return adapter if unchanged else replace(adapter, layers=layers)


def _among_all_rows(layer: Layer, target: Target, whole: Target) -> Layer:
    """A layer for some rows of a weight as one for all of them, of which it leaves the others as they are."""
    if target == whole or target.rows is None:
        return layer
    start, length = target.rows
    after = whole.shape[0] - start - length
    return layer.with_terms(replace(term, q=pad(term.q, (0, 0, start, after))) for term in layer.terms)


def _joined(layers: list[Layer]) -> Layer:
    return layers[0] if len(layers) == 1 else layers[0].with_terms(term for layer in layers for term in layer.terms)


def _in_shape(layer: Layer, shape: tuple[int, ...]) -> Layer:
    """A layer for a kernel of one, or for a convolution as a matrix, in the shape of the weight."""
    if layer.shape == shape:
        return layer
    return layer.with_terms(replace(term, delta_r=term.delta_r.reshape(term.rank, *shape[1:])) for term in layer.terms)


def require_some(patcher: Patcher, adapter: QRLoRA, matched: Match) -> None:
    """Refuse an adapter for another model.

    Raises:
        TargetError: no layer fits.
    """
    if adapter.layers and not matched.targets:
        raise TargetError(
            f"{adapter.name}: none of its {len(adapter.layers)} layers exist in this model. It was made for "
            f"{_made_for(adapter)} (layers such as {paths_as_text(adapter.layers, 2)}); this model is "
            f"{base_name(patcher)}. Connect the model that it was made for, or choose another adapter."
        )


def _check_shape(patcher: Patcher, adapter: QRLoRA, path: str, target: Target) -> None:
    found, expected = adapter.layers[path].shape, target.shape
    same = (found[0], math.prod(found[1:])) == (expected[0], math.prod(expected[1:]))
    if same and (found == expected or min(_kernel(found), _kernel(expected)) == 1):
        return
    raise AdapterError(
        f"{adapter.name}: layer {path}: the model's weight is {expected}, the adapter is for {found}. "
        f"It was made for {_made_for(adapter)}, this model is {base_name(patcher)}; "
        "connect the model that it was made for."
    )


def _kernel(shape: tuple[int, ...]) -> int:
    return math.prod(shape[2:])


def _made_for(adapter: QRLoRA) -> str:
    names = ("qr_lora.base_model", "modelspec.architecture", "ss_base_model_version")
    return next((adapter.metadata[name][:100] for name in names if adapter.metadata.get(name)), "an unnamed model")
