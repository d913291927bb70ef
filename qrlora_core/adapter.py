"""The adapter: a trained set of low-rank terms, one or more per layer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from .errors import AdapterError

# What is left of an orthonormal basis that was stored in bfloat16, and read again: 4e-4 where it is large.
_ROUNDED = 1e-3
_HALVES = (torch.float16, torch.bfloat16)


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
        return bound <= torch.finfo(torch.float32).max or (math.isfinite(bound) and is_finite(self.delta_weight()))


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


@dataclass(frozen=True, eq=False)
class Layer:
    """All terms of one layer; its delta is their sum (``[Q1 Q2]`` need not be orthonormal).

    Args:
        terms: one or more.
        is_vector: True for a change of a bias, or of the weight of a norm, which stands as a weight (n, 1).
        variant: ``qr`` where the two terms are ``scaling * Q dR`` and ``scaling * dQ (R + dR)``, as that variant
            trains them; else empty.

    Raises:
        AdapterError: no term, terms for weights of different shapes, or a vector of another shape than (n, 1).
    """

    terms: tuple[Term, ...]
    is_vector: bool = False
    variant: str = ""

    def __post_init__(self) -> None:
        if not self.terms:
            raise AdapterError("a layer needs at least one term, found none.")
        shapes = sorted({(term.q.shape[0], *term.delta_r.shape[1:]) for term in self.terms})
        if len(shapes) > 1:
            raise AdapterError(f"terms of one layer are for weights of different shapes: {shapes}.")
        if self.is_vector and shapes[0][1:] != (1,):
            raise AdapterError(f"expected a bias, or a weight of a norm, as a weight (n, 1), found {shapes[0]}.")

    @classmethod
    def single(cls, q: Tensor, delta_r: Tensor, *, alpha: float = math.nan, base_r: Tensor | None = None) -> Layer:
        """A layer of one term; arguments as in `Term`."""
        return cls((Term(q, delta_r, alpha, base_r),))

    def with_terms(self, terms: Iterable[Term]) -> Layer:
        """A layer of other terms for the same parameter; what changes them is of no variant."""
        return Layer(tuple(terms), self.is_vector)

    @property
    def rank(self) -> int:
        """Sum of the ranks of the terms: an upper bound of the rank of the delta."""
        return sum(term.rank for term in self.terms)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that this layer belongs to: (out, in) or (out, in, kh, kw)."""
        return (self.terms[0].q.shape[0], *self.terms[0].delta_r.shape[1:])

    def delta_weight(self) -> Tensor:
        """``sum_i scaling_i * q_i @ delta_r_i`` in float32, of `shape`."""
        return torch.stack([term.delta_weight() for term in self.terms]).sum(0)


@dataclass(frozen=True)
class Origin:
    """The file that an adapter was read from, as far as it matters to what may be done with it.

    Attributes:
        is_lora: whether it was an ordinary LoRA.
        may_replace_core: whether that LoRA looks like a published file of the variant ``qr``, whose factors replace
            a part of the base weights.
        not_loaded: what of the file is not in the adapter, in words.
        notes: sentences on what it may do otherwise elsewhere, and on what was assumed.
    """

    is_lora: bool = False
    may_replace_core: bool = False
    not_loaded: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergeRecord:
    """How a merge came about.

    Attributes:
        sources: (name, scale) of each adapter that went in.
        shared, concatenated, single: module paths of layers that shared a basis, that stand side by side, and that
            came from one source alone.
    """

    sources: tuple[tuple[str, float], ...] = ()
    shared: tuple[str, ...] = ()
    concatenated: tuple[str, ...] = ()
    single: tuple[str, ...] = ()


UNSAVED = "unsaved adapter"


@dataclass(frozen=True, eq=False)
class QRLoRA:
    """An adapter: layers by module path, and what is told of it.

    Args:
        layers: module path (for example ``transformer.transformer_blocks.0.attn.to_q``) to `Layer`.
        metadata: text by name, saved with the file; see `files.adapter_file` for the names in use.
        name: what reports call it: its file name, once it has one.
        origin: what it was read from.
        merge_record: how it came about, if it is a merge; saved with the file.

    Raises:
        AdapterError: a metadata name or value that is not text.
    """

    layers: Mapping[str, Layer]
    metadata: Mapping[str, str] = field(default_factory=dict)
    name: str = UNSAVED
    origin: Origin = Origin()
    merge_record: MergeRecord | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(key, str) and isinstance(value, str) for key, value in self.metadata.items()):
            raise AdapterError("metadata: names and values must be text.")
        if not isinstance(self.layers, MappingProxyType):
            object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def label(self, place: object) -> str:
        """Its name; where it has none, ``unsaved adapter`` and the place that it takes among others."""
        return f"{UNSAVED} {place}" if self.name == UNSAVED else self.name

    @cached_property
    def ranks(self) -> list[int]:
        """The different ranks of its layers, ascending."""
        return sorted({layer.rank for layer in self.layers.values()})

    @cached_property
    def is_zero(self) -> bool:
        """True when its delta is zero in every layer, whatever the scale."""
        return not any(term.scaling and term.delta_r.any() for _, term in self.terms())

    def terms(self) -> Iterator[tuple[str, Term]]:
        """All (module path, term) pairs."""
        for path, layer in self.layers.items():
            for term in layer.terms:
                yield path, term

    def require_finite(self) -> None:
        """Raise `AdapterError` that names the first layer with a NaN or an infinity."""
        for path, term in self.terms():
            if not term.is_finite():
                raise AdapterError(
                    f"layer {path}: NaN or infinity in the adapter. It was damaged or its training diverged; "
                    "train again with a lower learning rate or take an earlier file."
                )
