"""Layers in orthonormal form: energies, products and singular values of deltas that are never formed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapter import Layer
from ..errors import AdapterError

# Singular values below this fraction of the largest are rounding of float32, not content.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The compact singular value decomposition ``U S V^T`` of a layer's delta, all in float64.

    Attributes:
        basis: (out, k), orthonormal columns.
        rotation: (k, m) with ``U = basis @ rotation``; m is the rank that the delta can have at most.
        values: (m,), the diagonal of S, descending.
        rows: (m, in), ``S V^T``; the kernel of a convolution is a part of `in`.
    """

    basis: Tensor
    rotation: Tensor
    values: Tensor
    rows: Tensor

    @property
    def left(self) -> Tensor:
        """``U`` (out, m), orthonormal columns."""
        return self.basis @ self.rotation

    @property
    def content(self) -> int:
        """How many directions carry energy, that is more than the rounding of float32."""
        return int((self.values > NEGLIGIBLE * self.values[0]).sum())

    @property
    def right(self) -> Tensor:
        """The columns of ``V`` that carry energy, (in, content), orthonormal."""
        count = self.content
        return (self.rows[:count] / self.values[:count, None]).T

    @property
    def energy(self) -> float:
        """``|delta|_F^2``."""
        return float(self.values.square().sum())


def orthonormal_form(layer: Layer, dtype: torch.dtype = torch.float64, *, name: str = "layer") -> tuple[Tensor, Tensor]:
    """One orthonormal basis of all terms, and the coefficients of the delta in it.

    ``q @ d = sum_i scaling_i * q_i @ delta_r_i`` with ``q r = qr([q_1 q_2 ...])`` and
    ``d = r @ [scaling_1 * delta_r_1; scaling_2 * delta_r_2; ...]`` (the rows of all terms one below the other).

    Args:
        layer: any number of terms, whose q's need not be orthonormal or independent.
        dtype: of the decomposition and of the results.
        name: what error messages call the layer.

    Returns:
        q: (out, k), orthonormal columns, ``k = min(out, layer.rank)``; a lone orthonormal q comes back as it is.
        d: (k, in), the kernel of a convolution being a part of `in`.

    Raises:
        AdapterError: NaN or infinity in the layer.
    """
    q, r = orthonormal_columns([term.q for term in layer.terms], dtype)
    d = r @ torch.cat([term.scaling * term.delta_r.flatten(1).to(dtype) for term in layer.terms])
    if not bool(torch.isfinite(d).all()):
        raise AdapterError(
            f"{name}: expected finite numbers, found NaN or infinity. The adapter was damaged or its training "
            "diverged; take an earlier file, or train again with a lower learning rate."
        )
    return q, d


def orthonormal_columns(matrices: Sequence[Tensor], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """``q @ r = [m_1 m_2 ...]`` with orthonormal columns in q and ``diag(r) >= 0``.

    Args:
        matrices: (out, rank_i) each.

    Returns:
        q: (out, k) with ``k = min(out, sum_i rank_i)``. r: (k, sum_i rank_i), upper triangular.
    """
    q, r = torch.linalg.qr(torch.cat([matrix.to(dtype) for matrix in matrices], dim=1))
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(dtype)
    return q * signs, signs[:, None] * r


def spectrum(layer: Layer, *, name: str = "layer") -> Spectrum:
    """Singular values and vectors of a layer's delta, from its orthonormal form.

    ``delta = q d`` and ``v r = qr(d.T)`` leave a problem of the size of the rank, ``U' S V'^T = svd(r.T)``; then
    ``U = q U'`` and ``S V^T = U'^T d``.

    Raises:
        AdapterError: NaN or infinity in the layer.
    """
    q, d = orthonormal_form(layer, name=name)
    rotation, values, _ = torch.linalg.svd(torch.linalg.qr(d.T, mode="r").R.T, full_matrices=False)
    return Spectrum(q, rotation, values, rotation.T @ d)
