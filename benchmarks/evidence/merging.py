"""Pairs of a content and a style merged: the plain sum here, the other modes by the package's own functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import benchmarks.setting  # noqa: F401  # boots the host, and makes the pack findable

# isort: split
import torch
from torch import Tensor

from benchmarks.evidence.base import Adapters, Factors
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA, merge, null_space, ties

Pair = tuple[int, int]  # rows of a content and of a style among the adapters
Scales = tuple[float, float]
MU, DENSITY = 1.0, 0.5  # what the nodes have by default

_Change = Callable[[Sequence[QRLoRA], Scales], list[QRLoRA]]
_CHANGES: dict[str, _Change] = {
    "null_space_content": lambda adapters, _: null_space(adapters, 0, mu=MU),
    "null_space_style": lambda adapters, _: null_space(adapters, 1, mu=MU),
    "ties": lambda adapters, scales: ties(adapters, scales, density=DENSITY),
}
MERGES = ("sum", *_CHANGES)


def merged(adapters: Adapters, pairs: Sequence[Pair], scales: Scales, how: str) -> Adapters:
    """An adapter for each pair, by one of `MERGES`."""
    if how == "sum":
        return summed(adapters, pairs, scales)
    change, home = _CHANGES[how], next(iter(adapters.values())).up.device
    here = {name: factors.to(torch.device("cpu")) for name, factors in adapters.items()}  # many small decompositions
    made = [_as_factors(here, merge(zip(_changed(here, pair, scales, change), scales, strict=True)))
            for pair in pairs]  # fmt: skip
    return {name: stacked([one[name] for one in made]).to(home) for name in adapters}


def summed(adapters: Adapters, pairs: Sequence[Pair], scales: Scales) -> Adapters:
    """``scale_c up_c down_c + scale_s up_s down_s`` for each pair."""
    contents, styles = ([pair[role] for pair in pairs] for role in (0, 1))
    return {
        name: factors.chosen(contents).scaled(scales[0]).beside(factors.chosen(styles).scaled(scales[1]))
        for name, factors in adapters.items()
    }


def single(adapters: Adapters, rows: Sequence[int], scale: float) -> Adapters:
    """Adapters by themselves."""
    return {name: factors.chosen(rows).scaled(scale) for name, factors in adapters.items()}


def cosine(adapters: Adapters, pairs: Sequence[Pair]) -> list[float]:
    """Of the two updates of each pair, over all weights at once: the paper's figure."""
    inner = sum(_inner(factors) for factors in adapters.values())
    assert isinstance(inner, Tensor)
    norms = inner.diagonal().sqrt()
    return [float(inner[c, s] / (norms[c] * norms[s])) for c, s in pairs]


def _inner(factors: Factors) -> Tensor:
    """Inner products of all adapters' updates of a layer: ``<U D, V E> = <U^T V, D E^T>``, (adapters, adapters)."""
    up, down = factors.up.double(), factors.down.double()
    outer = torch.einsum("asor,bsoq->abrqs", up, up)
    return torch.einsum("abrqs,asri,bsqi->ab", outer, down, down)


def _changed(adapters: Adapters, pair: Pair, scales: Scales, change: _Change) -> list[QRLoRA]:
    return change([_as_adapter(adapters, row) for row in pair], scales)


def _as_adapter(adapters: Adapters, row: int) -> QRLoRA:
    return QRLoRA(
        {
            f"{name}.{index}": Layer.single(up, down)
            for name, factors in adapters.items()
            for index, (up, down) in enumerate(zip(factors.up[row], factors.down[row], strict=True))
        }
    )


def _as_factors(like: Adapters, adapter: QRLoRA) -> dict[str, Factors]:
    """One adapter (1, slices, out, rank); slices of a layer may differ in rank, the missing columns are zero."""
    made: dict[str, Factors] = {}
    for name, factors in like.items():
        parts = [_of_layer(adapter.layers[f"{name}.{index}"]) for index in range(factors.up.shape[1])]
        rank = max(up.shape[1] for up, _ in parts)
        made[name] = Factors(
            torch.stack([_widened(up, rank, 1) for up, _ in parts])[None],
            torch.stack([_widened(down, rank, 0) for _, down in parts])[None],
        )
    return made


def _of_layer(layer: Layer) -> tuple[Tensor, Tensor]:
    ups = [term.q * (term.scaling if math.isfinite(term.scaling) else 0.0) for term in layer.terms]
    return torch.cat(ups, dim=1), torch.cat([term.delta_r for term in layer.terms])


def _widened(matrix: Tensor, rank: int, dim: int) -> Tensor:
    missing = rank - matrix.shape[dim]
    return torch.nn.functional.pad(matrix, (0, missing) if dim == 1 else (0, 0, 0, missing))


def stacked(parts: Sequence[Factors]) -> Factors:
    """Adapters one after another; missing columns are zero."""
    rank = max(part.up.shape[-1] for part in parts)
    ups = [torch.nn.functional.pad(part.up, (0, rank - part.up.shape[-1])) for part in parts]
    downs = [torch.nn.functional.pad(part.down, (0, 0, 0, rank - part.down.shape[-2])) for part in parts]
    return Factors(torch.cat(ups), torch.cat(downs))
