"""The equations of QR-LoRA in float64, written from the paper (Yang et al., arXiv 2507.04599), not from our code.

Slow and literal on purpose: a full SVD, the (out, in) core, a QR of that core, the residual. Every test of the
algebra compares with these functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Split(NamedTuple):
    """``W = W_res + scaling * Q R``."""

    Q: Tensor
    R: Tensor
    W_res: Tensor
    scaling: float


def core(W: Tensor, rank: int, alpha: float | None = None) -> Tensor:
    """``U_r S_r V_r^T / scaling``: the largest `rank` singular triples of W, (out, in)."""
    U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    return U[:, :rank] @ torch.diag(S[:rank]) @ Vh[:rank] * (rank / (rank if alpha is None else alpha))


def split(W: Tensor, rank: int, alpha: float | None = None) -> Split:
    """``Q R = qr(core)`` with ``diag(R) >= 0``, and ``W_res = W - scaling * Q R``."""
    scaling = (rank if alpha is None else alpha) / rank
    Q, R = torch.linalg.qr(core(W, rank, alpha))
    Q, R = Q[:, :rank], R[:rank]
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0).double()
    Q, R = Q * signs, signs[:, None] * R
    return Split(Q, R, W.double() - scaling * Q @ R, scaling)


def adapted_weight(parts: Split, dR: Tensor) -> Tensor:
    """``W_res + scaling * Q (R + dR)``: the weight that the published layer multiplies with."""
    return parts.W_res + parts.scaling * parts.Q @ (parts.R + dR.double())


def delta_weight(Q: Tensor, dR: Tensor, alpha: float | None = None) -> Tensor:
    """``alpha / rank * Q dR``, in the shape of the weight (a convolution's kernel is part of `in`)."""
    rank = Q.shape[1]
    product = Q.double() @ dR.double().reshape(rank, -1)
    return ((rank if alpha is None else alpha) / rank * product).reshape(Q.shape[0], *dR.shape[1:])


def merged_delta(Q: Tensor, parts: Iterable[tuple[float, float, Tensor]]) -> Tensor:
    """``Q * sum_i(scale_i * alpha_i / rank * dR_i)`` over (scale, alpha, dR) that share Q."""
    return Q.double() @ sum(scale * alpha / Q.shape[1] * dR.double() for scale, alpha, dR in parts)


def loss(W: Tensor, Q: Tensor, dR: Tensor, scaling: float, x: Tensor, target: Tensor) -> Tensor:
    """Mean square error of ``y = x (W + scaling Q dR)^T``."""
    output = x.double() @ (W.double() + scaling * Q.double() @ dR.double()).T
    return (output - target.double()).square().mean()


def finite_differences(W: Tensor, Q: Tensor, dR: Tensor, scaling: float, x: Tensor, target: Tensor) -> Tensor:
    """Central differences of `loss` by every entry of dR. Exact but for rounding: the loss is quadratic."""
    gradient, width = torch.zeros_like(dR, dtype=torch.float64), 1e-3
    for index in torch.cartesian_prod(*(torch.arange(size) for size in dR.shape)).tolist():
        ahead, behind = dR.double().clone(), dR.double().clone()
        ahead[tuple(index)] += width
        behind[tuple(index)] -= width
        rise = loss(W, Q, ahead, scaling, x, target) - loss(W, Q, behind, scaling, x, target)
        gradient[tuple(index)] = rise / (2 * width)
    return gradient


def error(actual: Tensor, expected: Tensor, effect: Tensor | None = None) -> float:
    """``|actual - expected| / |effect|`` in float64; the effect is what an adapter adds, by default `expected`."""
    size = torch.linalg.vector_norm((expected if effect is None else effect).double())
    return float(torch.linalg.vector_norm(actual.double() - expected.double()) / size)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Seeded normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def orthonormal(out: int, rank: int, *, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A seeded (out, rank) basis."""
    return torch.linalg.qr(normal(out, rank, seed=seed).double()).Q.to(dtype)
