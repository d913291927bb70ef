"""Move an adapter onto the basis of a model, or onto one basis of its own."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import comfy.model_management
import comfy.utils

from ....qrlora_core import (
    BASE_FINGERPRINT,
    Layer,
    Origin,
    QRLoRA,
    Rebased,
    as_terms,
    from_difference,
    overall_energy,
    rebase_layer,
    reduce_layer,
    require_captured,
)
from ..advice import advised
from ..text import paths_as_text
from .bases import KeptBases, basis_store
from .host_types import Patcher
from .matching import Names, match, require_some
from .norms import weight_of
from .weights import base_name, fingerprint

_SHOWN_LAYERS = 5
_WHOLE = 0.9999  # of a layer's energy: nothing to tell


def rebase(patcher: Patcher, adapter: QRLoRA, rank: int, minimum: float) -> tuple[QRLoRA, str]:
    """The adapter on the basis of the model at a rank (0: each layer's own), and what of its energy that keeps.

    ``dR' = (scaling / scaling') Q'^T Q dR``, with the new alpha equal to the new rank. Layers that the model lacks,
    such as those of a text encoder, and layers for another shape stay as they are.

    Raises:
        TargetError: no layer fits.
        AdapterError: less than ``minimum`` of the energy would be kept.
    """
    matched = match(patcher, adapter, Names(patcher))
    require_some(patcher, adapter, matched)

    matrices = {path: layer for path, layer in matched.adapter.layers.items() if not layer.is_vector}
    with basis_store() as store:
        bases = KeptBases(store)

        def move(path: str, layer: Layer) -> Rebased:
            if layer.contains_base:
                delta = layer.delta_weight(weight_of(patcher, matched.targets[path]))
                layer = layer.with_terms([from_difference(delta)])
            factors = bases.factors(patcher, path, matched.targets[path], _rank(layer, rank))
            return rebase_layer(layer, factors, name=path)

        moved = _each(matrices, move)
    kept = {path: adapter.layers[path] for path in matched.left_out}
    kept |= {path: layer for path, layer in matched.adapter.layers.items() if path not in matrices}
    metadata = {
        "qr_lora.base_model": base_name(patcher),
        BASE_FINGERPRINT: json.dumps(fingerprint(patcher, matched.targets)),
    }
    result, report = _result(adapter, moved, kept, metadata, minimum)
    return result, "\n".join([report, *_of_this_base(matrices)])


def _of_this_base(layers: Mapping[str, Layer]) -> list[str]:
    kinds = Counter(layer.contains_base for layer in layers.values() if layer.contains_base)
    told = ", ".join(f"{kind} in {count} layers" for kind, count in kinds.items())
    return (
        [f"{told}: what it does to the weights of this model; another model needs the file it came from"]
        if told
        else []
    )


def reduce_rank(adapter: QRLoRA, rank: int, minimum: float) -> tuple[QRLoRA, str]:
    """The adapter with one term of at most this rank per layer, the best there is (0: without loss).

    Raises:
        AdapterError: less than ``minimum`` of the energy would be kept.
    """
    with advised():
        summable = as_terms(adapter, "lowering a rank")
    moved = _each(summable.layers, lambda path, layer: reduce_layer(layer, rank or layer.rank, name=path))
    return _result(adapter, moved, {}, {}, minimum)


def _rank(layer: Layer, rank: int) -> int:
    """A layer of no rank of its own has that of whatever the model has room for in its shorter side."""
    return min(rank or layer.rank or layer.shape[0], layer.shape[0], math.prod(layer.shape[1:]))


def _each(layers: Mapping[str, Layer], move: Callable[[str, Layer], Rebased]) -> dict[str, Rebased]:
    progress = comfy.utils.ProgressBar(len(layers))
    moved = {}
    for path, layer in layers.items():
        comfy.model_management.throw_exception_if_processing_interrupted()
        moved[path] = move(path, layer)
        progress.update(1)
    return moved


def _result(
    adapter: QRLoRA, moved: Mapping[str, Rebased], kept: Mapping[str, Layer], metadata: dict[str, str], minimum: float
) -> tuple[QRLoRA, str]:
    require_captured(adapter.name, moved, minimum)
    layers = {path: found.layer for path, found in moved.items()} | dict(kept)
    gone = {"qr_lora.variant", "qr_lora.rank", "qr_lora.alpha"}
    told = {key: value for key, value in adapter.metadata.items() if key not in gone}
    origin = Origin(not_loaded=adapter.origin.not_loaded)
    result = replace(adapter, layers=layers, metadata={**told, **metadata}, origin=origin)
    return result, _report(result, moved, kept)


def _report(result: QRLoRA, moved: Mapping[str, Rebased], kept: Mapping[str, Layer]) -> str:
    ranks = result.ranks
    lines = [
        f"{result.name}: {len(moved)} layers, rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "")
        + f"; {overall_energy(moved.values()):.2%} of its energy kept"
    ]  # fmt: skip
    if kept:
        lines.append(f"{len(kept)} layers stay as they were (no matrix of this model): {paths_as_text(kept)}")
    losing = [item for item in moved.items() if item[1].captured_energy < _WHOLE]
    worst = sorted(losing, key=lambda item: item[1].captured_energy)[:_SHOWN_LAYERS]
    lines += [f"{path}: {found.captured_energy:.2%} kept" for path, found in worst]
    return "\n".join(lines)
