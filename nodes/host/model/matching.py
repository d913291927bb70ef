"""Match an adapter's layers with a model's, and say what fits before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ....qrlora_core import AdapterError, Layer, QRLoRA, TargetError, are_one_shape
from ....qrlora_core.change import ANY
from ..text import paths_as_text
from .host_types import Patcher
from .key_map import KeyMap, Target
from .memo import Note, remembered
from .weights import base_name

# A file of which less than one layer in so many fits was made for another model, whatever its names.
_LEAST_SHARE = 3


@dataclass(frozen=True)
class Match:
    """Which layers of an adapter a model has.

    Args:
        adapter: its layers that the model has, under the model's own names and in the weights' shapes. Two names
            for one weight become one layer.
        targets: of these layers.
        own_names: of these layers in the adapter as given.
        missing: the names, in the adapter as given, of layers that the model lacks.
        unfit: of layers that are for another shape than the model's, and both, in words.
        fixed: of layers for parameters that no patch of the host's changes.
    """

    adapter: QRLoRA
    targets: Mapping[str, Target]
    own_names: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]
    unfit: Mapping[str, str]
    fixed: tuple[str, ...]

    @property
    def left_out(self) -> tuple[str, ...]:
        """The names, in the adapter as given, of all layers that are not applied."""
        return (*self.missing, *self.unfit, *self.fixed)

    def only(self, names: Collection[str]) -> Match:
        """With these targets alone."""
        if len(names) == len(self.targets):
            return self
        targets = {name: target for name, target in self.targets.items() if name in names}
        return replace(self, targets=targets, own_names={name: self.own_names[name] for name in targets})


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
    """Find the targets of all layers of an adapter; what has none, or does not fit, is named."""
    return remembered(adapter, patcher.model, _MATCH, lambda: _match(adapter, (names or Names(patcher)).key_map))


def _match(adapter: QRLoRA, key_map: KeyMap) -> Match:
    found = {path: key_map.find(path) for path in adapter.layers}
    unfit = {
        path: why for path, target in found.items() if (why := _misfit(adapter.layers[path], path, target, key_map))
    }
    targets: dict[str, Target] = {}
    own_names: dict[str, tuple[str, ...]] = {}
    layers: dict[str, list[Layer]] = {}
    for path, target in found.items():
        if target is not None and path not in unfit:
            whole = key_map.named(target)
            name = key_map.name_of(whole)
            targets[name] = whole
            own_names[name] = (*own_names.get(name, ()), path)
            layer = adapter.layers[path].in_shape(target.shape)
            layer = layer if target.reorder is None else layer.as_terms()
            layers.setdefault(name, []).append(_among_all_rows(layer, target, whole))
    lacking = [path for path, target in found.items() if target is None and path not in unfit]
    fixed = tuple(filter(key_map.is_fixed, lacking))
    missing = tuple(path for path in lacking if path not in fixed)
    return Match(_renamed(adapter, layers), targets, own_names, missing, unfit, fixed)


def _misfit(layer: Layer, path: str, target: Target | None, key_map: KeyMap) -> str:
    """Of which shapes a layer and what its name means are; empty where it fits, or where that is nothing."""
    meant = target or key_map.of_another_shape(path)
    if meant is None:
        return ""
    if target is not None and _is_of_shape(layer, target.shape):
        return _hindrance(layer, target)
    of_model, of_layer = _as_text(meant.shape, meant.vector), _as_text(layer.shape, layer.is_vector)
    return f"the model's weight is {of_model}, the adapter is for {of_layer}"


def _is_of_shape(layer: Layer, expected: tuple[int, ...]) -> bool:
    found = layer.shape
    if ANY in found:
        return are_one_shape(found, expected)
    same = (found[0], math.prod(found[1:])) == (expected[0], math.prod(expected[1:]))
    return same and (found == expected or min(_kernel(found), _kernel(expected)) == 1)


def _hindrance(layer: Layer, target: Target) -> str:
    """Why a layer of the right size cannot serve a target; empty where it can."""
    if target.reorder is not None and layer.contains_base:
        return f"{layer.contains_base} of rows that this model has in another order"
    try:
        layer.in_shape(target.shape)
    except AdapterError as error:
        return str(error).rstrip(".")
    return ""


def _as_text(shape: tuple[int, ...], is_vector: object) -> str:
    sides = ", ".join("any" if side == ANY else str(side) for side in shape)
    return f"a vector of {shape[0]}" if is_vector else f"({sides})"


def _renamed(adapter: QRLoRA, matched: Mapping[str, list[Layer]]) -> QRLoRA:
    layers = {name: Layer.joined(parts) for name, parts in matched.items()}
    unchanged = len(layers) == len(adapter.layers) and all(
        adapter.layers.get(name) is layer for name, layer in layers.items()
    )
    return adapter if unchanged else replace(adapter, layers=layers)


def _among_all_rows(layer: Layer, target: Target, whole: Target) -> Layer:
    """A layer for some rows of a weight as one for all of them, of which it leaves the others as they are."""
    if target == whole or target.rows is None:
        return layer
    return layer.in_rows(*target.rows, whole.shape[0])


def require_some(patcher: Patcher, adapter: QRLoRA, matched: Match, in_others: int = 0) -> None:
    """Refuse an adapter for another model.

    Args:
        in_others: how many of its layers fit a text encoder.

    Raises:
        TargetError: no layer fits, or some have other shapes than this model's and hardly any fits.
    """
    fitting = sum(map(len, matched.own_names.values()))
    count = len(adapter.layers) - in_others
    if count and len(matched.fixed) == len(adapter.layers):
        raise TargetError(
            f"{adapter.name}: all of its {count} layers are for parameters that ComfyUI's LoRAs do not change "
            f"({paths_as_text(matched.fixed)}), so it would have no effect. Remove it from the merge."
        )
    is_of_another = bool(matched.unfit) and _LEAST_SHARE * fitting < count and in_others < count
    if is_of_another or not (fitting or in_others or not count):
        raise TargetError(
            f"{adapter.name}: {_fault(adapter, matched, fitting)}. {_made_for(adapter)}This model is "
            f"{base_name(patcher)}. Connect the model that the adapter was made for, or choose another adapter."
        )


def _fault(adapter: QRLoRA, matched: Match, fitting: int) -> str:
    count = len(adapter.layers)
    if not matched.unfit:
        return f"none of its {count} layers exist in this model (layers such as {paths_as_text(adapter.layers, 2)})"
    path, why = next(iter(matched.unfit.items()))
    return f"{fitting or 'none'} of its {count} layers fit this model (layer {path}: {why})"


def _kernel(shape: tuple[int, ...]) -> int:
    return math.prod(shape[2:])


def _made_for(adapter: QRLoRA) -> str:
    names = ("qr_lora.base_model", "modelspec.architecture", "ss_base_model_version")
    told = next((adapter.metadata[name][:100] for name in names if adapter.metadata.get(name)), "")
    return f"It was made for {told}. " if told else ""
