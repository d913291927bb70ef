"""Compare adapters that call the layers of one model differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ....qrlora_core import Comparison, QRLoRA, TargetError, are_one_shape, as_terms, compare
from ..advice import advised
from ..model.host_types import Patcher
from ..model.matching import Names, match, require_some
from ..text import paths_as_text
from .align import on_same_layers


def compare_on(patcher: Patcher | None, first: QRLoRA, second: QRLoRA) -> tuple[Comparison, list[str]]:
    """The comparison, layers matched by the weights of a model, or by name where there is none; and what is not in it.

    Raises:
        TargetError: an adapter that fits no layer of the model, or no layer in common without a model.
        AdapterError: without a model, no layer of the same shape under one name.
    """
    if patcher is None:
        return _by_name(first, second)
    names = Names(patcher)
    matches = [match(patcher, adapter, names) for adapter in (first, second)]
    told = []
    for adapter, matched in zip((first, second), matches, strict=True):
        require_some(patcher, adapter, matched)
        told += _told(f"{adapter.name}: layers that do not fit this model", matched.left_out)
    with advised():
        summable = [as_terms(matched.adapter, "compare") for matched in matches]
        return compare(*on_same_layers(patcher, summable, names)), told


def _by_name(first: QRLoRA, second: QRLoRA) -> tuple[Comparison, list[str]]:
    common = [path for path in first.layers if path in second.layers]
    if not common:
        raise TargetError(
            f"{first.name} and {second.name} have no layer in common by name "
            f"({next(iter(first.layers), 'none')}, {next(iter(second.layers), 'none')}). Connect the model to "
            "QR-LoRA Compare: it knows which of its layers each name means."
        )
    different = [path for path in common if not are_one_shape(first.layers[path].shape, second.layers[path].shape)]
    if len(different) < len(common):
        first, second = _without(first, different), _without(second, different)
    with advised():
        return compare(first, second), _told("layers of another shape in each of the two", different)


def _without(adapter: QRLoRA, paths: Sequence[str]) -> QRLoRA:
    layers = {path: layer for path, layer in adapter.layers.items() if path not in set(paths)}
    return replace(adapter, layers=layers) if paths else adapter


def _told(what: str, paths: Sequence[str]) -> list[str]:
    return [f"not compared: {what} ({len(paths)}): {paths_as_text(paths)}"] if paths else []
