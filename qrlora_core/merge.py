"""Merge adapters: in delta_r space where they share a basis, side by side where they do not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .adapter import Layer, QRLoRA, Term
from .errors import AdapterError

MERGE_KEY = "qr_lora.merge"


def merge(sources: Iterable[tuple[QRLoRA, float]]) -> QRLoRA:
    """One adapter whose delta is the weighted sum of the sources' deltas, exactly.

    ``W' = W + Q * sum_i(scale_i * scaling_i * delta_r_i)`` per group of terms with the same q
    (QR-LoRA, arXiv 2507.04599, eq. 7); terms with different q stand side by side in the layer:
    ``W' = W + sum_i(scale_i * scaling_i * Q_i delta_r_i)``.

    Args:
        sources: (adapter, scale) pairs. A scale of zero drops the adapter.

    Returns:
        The merged adapter. ``metadata["qr_lora.merge"]`` says as JSON which sources at which scales went in
        and which layers shared a basis (``shared``), were concatenated (``concatenated``) or came from one
        source alone (``single``). With no source left it has no layers.

    Raises:
        AdapterError: a scale that is not finite, or sources that disagree on the shape of a layer.
    """
    pairs = list(sources)
    for adapter, scale in pairs:
        if not math.isfinite(scale):
            raise AdapterError(f"{adapter.name}: expected a finite scale, found {scale}.")
    active = [(adapter, float(scale)) for adapter, scale in pairs if scale != 0]
    collected: dict[str, list[tuple[Term, float]]] = {}
    for adapter, scale in active:
        for path, term in adapter.terms():
            collected.setdefault(path, []).append((term, scale))
    layers = {path: _merge_layer(path, terms) for path, terms in collected.items()}
    record = {
        "sources": [{"name": adapter.name, "scale": scale} for adapter, scale in active],
        **_how_merged([adapter.layers for adapter, _ in active], layers),
    }
    return QRLoRA(layers, {**_common_metadata([adapter for adapter, _ in active]), MERGE_KEY: json.dumps(record)})


def _merge_layer(path: str, terms: Sequence[tuple[Term, float]]) -> Layer:
    groups: dict[str, list[tuple[Term, float]]] = {}
    for term, scale in terms:
        groups.setdefault(_basis_key(term, alone=len(terms) == 1), []).append((term, scale))
    try:
        return Layer(tuple(_sum_terms(group) for group in groups.values()))
    except (AdapterError, RuntimeError) as error:
        raise AdapterError(f"layer {path}: the adapters do not fit together: {error}") from error


def _basis_key(term: Term, *, alone: bool) -> str:
    # A lone term needs no digest; delta_r's of different shapes are never summed.
    return "" if alone else f"{term.basis_id} {tuple(term.delta_r.shape)}"


def _sum_terms(group: Sequence[tuple[Term, float]]) -> Term:
    """The group's one term, in the first member's alpha: ``sum_i (scale_i scaling_i / scaling_0) delta_r_i``."""
    first, scale = group[0]
    if len(group) == 1 and scale == 1.0:
        return first
    alpha = first.alpha if first.alpha != 0 else float(first.rank)
    scaling = alpha / first.rank
    delta_r = sum(term.delta_r.float() * (factor * term.scaling / scaling) for term, factor in group)
    return replace(first, delta_r=delta_r, alpha=alpha)


def _how_merged(sources: Sequence[Mapping[str, Layer]], merged: Mapping[str, Layer]) -> dict[str, list[str]]:
    how: dict[str, list[str]] = {"shared": [], "concatenated": [], "single": []}
    for path, layer in merged.items():
        members = [source[path] for source in sources if path in source]
        if len(members) == 1:
            how["single"].append(path)
        elif len(layer.terms) == max(len(member.terms) for member in members):
            how["shared"].append(path)
        else:
            how["concatenated"].append(path)
    return how


def _common_metadata(adapters: Sequence[QRLoRA]) -> dict[str, str]:
    """What all sources agree on (base model, architecture ...), so that a merge keeps no false claim."""
    if not adapters:
        return {}
    first, *others = (adapter.metadata for adapter in adapters)
    common = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    common.pop(MERGE_KEY, None)
    return {**common, "name": " + ".join(adapter.name for adapter in adapters)}
