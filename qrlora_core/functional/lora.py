"""Ordinary LoRA as terms and back, without loss: ``B A`` is ``q delta_r`` as it stands."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..adapter import Layer, QRLoRA
from ..errors import AdapterError
from ..term import Term, orthonormality_error, usual
from .decompose import Factors

# A convolution in Tucker form is multiplied out; larger than any in use, it is refused rather than allocated.
_LARGEST_KERNEL = 2**22
_NEARLY_ORTHONORMAL = 0.05


def from_lora(up: Tensor, down: Tensor, alpha: float = math.nan, mid: Tensor | None = None) -> Term:
    """The term ``alpha / rank * up @ down``: its q is up as it stands, and nothing is decomposed.

    `Term.orthonormal` has it in QR form.

    Args:
        up: (out, rank), or with a kernel of ones. down: (rank, in) or (rank, in, kh, kw). Any floating dtype.
        alpha: of the file; NaN stands for the rank.
        mid: (rank, rank, kh, kw), the core of a convolution in Tucker form, with a ``down`` of kernel one. It is
            multiplied out, so that delta_r is (rank, in, kh, kw).

    Returns:
        A term without base_r, in the dtypes of the file; float32 where it has others than training and merging know.

    Raises:
        AdapterError: shapes that do not fit together.
    """
    _check(up, down, mid)
    delta_r = usual(down) if mid is None else _multiply_out(mid.detach().float(), down.detach().float())
    return Term(usual(up).flatten(1), delta_r, alpha)


def _check(up: Tensor, down: Tensor, mid: Tensor | None) -> None:
    shapes = f"up {tuple(up.shape)} and down {tuple(down.shape)}"
    if up.ndim < 2 or down.ndim < 2 or 0 in up.shape or 0 in down.shape:
        raise AdapterError(f"expected up (out, rank) and down (rank, in), found {shapes}.")
    if any(side != 1 for side in up.shape[2:]) or up.shape[1] != down.shape[0]:
        raise AdapterError(f"expected up (out, rank) and down (rank, in, ...) of one rank, found {shapes}.")
    if mid is None:
        return
    rank = down.shape[0]
    if mid.ndim < 3 or mid.shape[:2] != (rank, rank) or any(side != 1 for side in down.shape[2:]):
        raise AdapterError(f"expected mid ({rank}, {rank}, ...) and down of kernel 1, found mid {tuple(mid.shape)}.")
    if (size := rank * down.shape[1] * math.prod(mid.shape[2:])) > _LARGEST_KERNEL:
        raise AdapterError(f"expected a convolution of at most {_LARGEST_KERNEL} entries, found {size}.")


def _multiply_out(mid: Tensor, down: Tensor) -> Tensor:
    """``sum_s mid[r, s, ...] down[s, in]``: (rank, in, ...)."""
    return torch.einsum("rs...,si->ri...", mid, down.flatten(1))


def to_lora(layer: Layer) -> tuple[Tensor, Tensor]:
    """(up, down) with ``up @ down`` equal to the layer's delta, so that alpha is the rank.

    Terms stand side by side: ``up = [q_1 q_2 ...]`` (out, rank), ``down = [scaling_1 delta_r_1; ...]`` (rank, in)
    or (rank, in, kh, kw); a convolution's up has a kernel of ones. float32.
    """
    up = torch.cat([term.q.detach().float() for term in layer.terms], dim=1)
    down = torch.cat([term.delta_r.detach().float() * term.scaling for term in layer.terms])
    return up.reshape(*up.shape, *(1 for _ in down.shape[2:])), down


def balancing_exponent(first: float, second: float) -> int:
    """n for which ``first / 2^n`` and ``second * 2^n``, the peaks of two factors above 0, are of about one size."""
    return round((math.log2(first) - math.log2(second)) / 2)


def subtract_cores(adapter: QRLoRA, factors: Callable[[str, int], Factors]) -> QRLoRA:
    """An adapter from factors that replace the core of their layer: ``delta = up down - scaling * Q R``.

    So the published files of the variant ``qr`` are (QR-LoRA, arXiv 2507.04599): ``W' = W_res + up down`` with
    ``W_res = W - core``. Each layer gains the term ``-core``, on the basis of the base weight.

    Args:
        adapter: what was read as an ordinary LoRA.
        factors: gives the decomposition of a layer's base weight at the rank of its term.

    Raises:
        AdapterError: a layer whose shape is not that of its base weight.
    """
    return replace(
        adapter, layers={path: _without_core(path, layer, factors) for path, layer in adapter.layers.items()}
    )


def _without_core(path: str, layer: Layer, factors: Callable[[str, int], Factors]) -> Layer:
    if layer.changes:
        raise AdapterError(f"layer {path}: expected two factors, found {layer.changes[0].kind}.")
    core = factors(path, layer.rank)
    found, expected = layer.shape, (core.q.shape[0], core.base_r.shape[1])
    if (found[0], math.prod(found[1:])) != expected:
        raise AdapterError(f"layer {path}: expected factors for a weight of {expected}, found {found}.")
    minus_core = Term(core.q, -core.base_r.reshape(core.rank, *found[1:]), core.alpha)
    return layer.with_terms((*layer.terms, minus_core))


def is_nearly_orthonormal(up: Tensor) -> bool:
    """True when the columns of an up matrix are orthonormal but for what training changes: up was made by a QR."""
    return orthonormality_error(up.flatten(1)) < _NEARLY_ORTHONORMAL
