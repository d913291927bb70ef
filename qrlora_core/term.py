"""A low-rank term: what most layers of an adapter are made of."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .errors import AdapterError

# What is left of an orthonormal basis that was stored in bfloat16, and read again: 4e-4 where it is large.
_ROUNDED = 1e-3
_HALVES = (torch.float16, torch.bfloat16)
# No weight of a model has so many; a product of small factors may, and is never multiplied out then.
MOST_ENTRIES = 2**28


@dataclass(frozen=True, eq=False)
class Term:
    """One product ``scaling * q @ delta_r``, with ``scaling = alpha / rank`` (QR-LoRA, arXiv 2507.04599, eq. 4-6).

    Args:
        q: (out, rank), floating. Orthonormal columns for a trained term; any matrix is accepted: a basis stored in
            bfloat16 is orthonormal to 4e-4 only, and the ``up`` of an ordinary LoRA not at all. See `orthonormal`.
        delta_r: (rank, in), floating; (rank, in, kh, kw) for a convolution.
        alpha: numerator of ``scaling``. Defaults to the rank, as in the published files.
        base_r: (rank, in) or None. The fixed R, with ``scaling * base_r = q.T @ base_weight``.

    Raises:
        AdapterError: shapes that do not fit together, a dtype that is not floating, alpha not finite.
    """

    q: Tensor
    delta_r: Tensor
    alpha: float = math.nan
    base_r: Tensor | None = None

    def __post_init__(self) -> None:
        if math.isnan(self.alpha):
            object.__setattr__(self, "alpha", float(self.delta_r.shape[0]) if self.delta_r.ndim else 0.0)
        _check_term(self)

    @property
    def rank(self) -> int:
        """Number of columns of q."""
        return self.q.shape[1]

    @property
    def scaling(self) -> float:
        """``alpha / rank``."""
        return self.alpha / self.rank

    def delta_weight(self) -> Tensor:
        """``scaling * q @ delta_r`` as float32 of the weight's shape, (out, in) or (out, in, kh, kw)."""
        product = self.q.float() @ self.delta_r.float().flatten(1)
        return (self.scaling * product).reshape(self.q.shape[0], *self.delta_r.shape[1:])

    @cached_property
    def basis_id(self) -> str:
        """Digest of q's shape, dtype and bits. Equal digests mean that delta_r's may be summed."""
        raw = self.q.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest = hashlib.blake2b(raw.data, digest_size=16, person=b"qr-lora basis")
        digest.update(f"{tuple(self.q.shape)}{self.q.dtype}".encode())
        return digest.hexdigest()

    @cached_property
    def orthonormal(self) -> Term:
        """The same product with orthonormal columns in q, made when it is first asked for, and kept.

        ``Q U = qr(q)`` with ``diag(U) >= 0``, and ``delta_r' = scaling * U delta_r`` in float32, so that the new alpha
        is the new rank, which is smaller than the old one where ``out`` is. What is orthonormal to the precision of
        its dtype comes back as it is, and so does what has a base_r, which belongs to its q.
        """
        if self.base_r is not None or orthonormality_error(self.q) <= max(_ROUNDED, torch.finfo(self.q.dtype).eps):
            return self
        q, triangle = torch.linalg.qr(self.q.detach().float())
        signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0)
        kept = (self.scaling * signs[:, None] * triangle) @ self.delta_r.detach().float().flatten(1)
        return Term(q * signs, kept.reshape(-1, *self.delta_r.shape[1:]))

    @cached_property
    def peaks(self) -> tuple[float, float]:
        """The largest magnitudes in q and in delta_r."""
        return largest(self.q), largest(self.delta_r)

    def is_finite(self) -> bool:
        """True when no entry of the term, nor of its delta in float32, is NaN or infinite."""
        if self.base_r is not None and not is_finite(self.base_r):
            return False
        bound = largest(self.q) * largest(self.delta_r) * abs(self.alpha)  # of rank products, by alpha / rank
        is_small = math.isfinite(bound) and len(self.q) * self.delta_r[0].numel() <= MOST_ENTRIES
        return bound <= torch.finfo(torch.float32).max or (is_small and is_finite(self.delta_weight()))


def from_difference(difference: Tensor) -> Term:
    """The term that equals a whole difference ``d``: ``I d`` or ``d I``, with the smaller of the two identities.

    Args:
        difference: (n,), or (out, in, ...).

    Returns:
        A term for a weight (n, 1), or of the difference's shape, in its dtype.

    Raises:
        AdapterError: no entry, or a single number without a dimension.
    """
    if difference.ndim == 0 or difference.numel() == 0:
        raise AdapterError(f"expected a difference with entries, found shape {tuple(difference.shape)}.")
    whole = usual(difference)
    whole = whole[:, None] if whole.ndim == 1 else whole
    matrix = whole.flatten(1)  # (out, in)
    identity = torch.eye(min(matrix.shape), dtype=whole.dtype, device=whole.device)
    if matrix.shape[0] < matrix.shape[1]:
        return Term(identity, whole)
    return Term(matrix, identity.reshape(-1, *whole.shape[1:]))


def usual(tensor: Tensor) -> Tensor:
    """In a dtype that everything else can compute with."""
    known = (torch.float32, torch.bfloat16, torch.float16)
    return tensor.detach() if tensor.dtype in known else tensor.detach().float()


def largest(tensor: Tensor) -> float:
    """The largest magnitude; NaN or infinity where there is one. One pass, at most the time of a copy."""
    values = tensor.detach()
    if not values.numel():
        return 0.0
    if values.dtype in _HALVES and values.device.type == "cpu":
        return _largest_half(values)
    if values.dtype.itemsize == 1:  # in which nothing is compared
        values = values.float()
    return float(torch.stack(torch.aminmax(values)).abs().max())


def _largest_half(values: Tensor) -> float:
    """Positive numbers of 16 bits are in the order of int16, negative ones in that of uint16; NaN comes last.

    Two such passes take half the time of one that compares numbers.
    """
    bits = values.flatten().view(torch.int16).numpy()
    peak = max(int(bits.max()), int(bits.view(np.uint16).max()) - 2**15)
    if values.dtype == torch.float16:
        return float(np.int16(peak).view(np.float16))
    return float(np.int32(peak << 16).view(np.float32))  # bfloat16: float32's first half


def is_finite(tensor: Tensor) -> bool:
    """True when no entry is NaN or infinite."""
    return math.isfinite(largest(tensor))


def orthonormality_error(q: Tensor) -> float:
    """``|q^T q - I|_F / sqrt(rank)``; infinite where q has more columns than rows, or plainly none of unit length.

    Args:
        q: (out, rank), floating.
    """
    if q.shape[0] < q.shape[1] or not 0.5 < float(q[:, 0].detach().float().norm()) < 2:
        return math.inf
    gram = q.detach().float().T @ q.detach().float()
    gram.diagonal().sub_(1)
    return float(gram.norm()) / math.sqrt(q.shape[1])


def _check_term(term: Term) -> None:
    for name in ("q", "delta_r", "base_r"):
        tensor = getattr(term, name)
        if tensor is not None and not tensor.dtype.is_floating_point:
            raise AdapterError(f"{name}: expected a floating dtype, found {tensor.dtype}.")
    if term.q.ndim != 2 or term.delta_r.ndim < 2:
        raise AdapterError(
            f"expected q (out, rank) and delta_r (rank, in), "
            f"found q {tuple(term.q.shape)} and delta_r {tuple(term.delta_r.shape)}."
        )
    if 0 in term.q.shape or 0 in term.delta_r.shape:
        raise AdapterError(f"a dimension is zero: q {tuple(term.q.shape)}, delta_r {tuple(term.delta_r.shape)}.")
    if term.q.shape[1] != term.delta_r.shape[0]:
        raise AdapterError(
            f"rank mismatch: q {tuple(term.q.shape)} has rank {term.q.shape[1]}, "
            f"delta_r {tuple(term.delta_r.shape)} has rank {term.delta_r.shape[0]}."
        )
    if term.base_r is not None and not _same_matrix(term.base_r, term.delta_r):
        raise AdapterError(
            f"base_r {tuple(term.base_r.shape)} and delta_r {tuple(term.delta_r.shape)} differ in shape."
        )
    if not math.isfinite(term.alpha):
        raise AdapterError(f"alpha: expected a finite number, found {term.alpha}.")


def _same_matrix(base_r: Tensor, delta_r: Tensor) -> bool:
    """True when the shapes are equal but for a kernel that one of them keeps apart."""
    return base_r.ndim >= 2 and base_r.flatten(1).shape == delta_r.flatten(1).shape
