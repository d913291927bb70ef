"""A change whose rows or columns are brought to stored norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

import torch
from torch import Tensor

from ..adapter import Layer
from ..change import Change, Stage, require_tensors
from ..errors import AdapterError
from ..term import Term, usual
from .kronecker import Kronecker
from .scales import ColumnScale, RowScale


class Norms(Enum):
    """What a magnitude stands for, and what is divided by it; the values are names of parts in files."""

    COLUMNS = "column_magnitude"
    ROWS = "row_magnitude"
    ROWS_OF_BASE = "row_magnitude_over_base"


@dataclass(frozen=True, eq=False, kw_only=True)
class Dora(Change):
    """``W' = (W + D) m / |W + D|`` (DoRA: Liu et al., arXiv 2402.09353, eq. 5), with the delta D of a sum.

    The norms are those of the columns (LyCORIS, ComfyUI), or of the rows (PEFT; of convolutions all that leads to an
    output). Where it is by rows, ComfyUI divides ``dora_scale`` by the norms of W alone: ``W' = (W + D) m / |W|``.

    Args:
        layer: of D.
        magnitude: m, (in,) or (out,), with ones for the other sides as in the file.
        norms: see `Norms`.
    """

    tag = "dora"
    stage = Stage.UNBOUND

    layer: Layer
    magnitude: Tensor
    norms: Norms

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(change.is_sum for change in self.layer.changes) or self.layer.is_vector:
            raise AdapterError(f"{self.kind}: expected norms of a sum with a weight.")
        side = 1 if self.norms is Norms.COLUMNS else 0
        count, expected = self.magnitude.numel(), self.layer.shape[side]
        # Of a convolution that is flattened each column is one of the input's, times the kernel's places.
        is_flattened = self.norms is Norms.COLUMNS and len(self.layer.shape) == 2 and expected % max(count, 1) == 0
        if count != expected and not is_flattened:
            raise AdapterError(
                f"{self.kind}: expected {expected} magnitudes for a weight of {self.layer.shape}, found {count}."
            )

    @property
    def own_shape(self) -> tuple[int, ...]:
        """See `Change`."""
        return self.layer.shape

    @property
    def is_zero(self) -> bool:
        """See `Change`: nothing is known of it before W is."""
        return self.scale == 0

    def tensors(self) -> dict[str, Tensor]:
        """See `Change`; without those of ``layer``."""
        return {self.norms.value: self.magnitude}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], kind: str, scale: float, layer: Layer | None = None) -> Self:
        """See `Change`."""
        norms = next((own for own in Norms if own.value in tensors), None)
        if norms is None or layer is None:
            raise AdapterError(f"{kind}: expected magnitudes, and what they are for; found one without the other.")
        require_tensors(kind, tensors, {norms.value: max(1, tensors[norms.value].ndim)})
        return cls(kind=kind, scale=scale, layer=layer, magnitude=usual(tensors[norms.value]), norms=norms)

    def is_finite(self) -> bool:
        """See `Change`."""
        return super().is_finite() and self.layer.is_finite()

    def in_shape(self, shape: tuple[int, ...]) -> Self | None:
        """See `Change`."""
        if self.norms is Norms.COLUMNS and self.magnitude.numel() != shape[1]:
            return None
        layer = self.layer.in_shape(shape)
        return self if layer is self.layer else replace(self, layer=layer)

    def effect(self, base: Tensor) -> Tensor:
        """See `Change`."""
        changed = base + self.layer.delta_weight(base)
        return changed * _along(self._factors(base, changed), self.norms, base) - base

    def bound(self, base: Tensor) -> tuple[tuple[Term, ...], tuple[Change, ...]]:
        """See `Change`.

        With ``g = m / |W + D|`` it is ``W diag(g - 1) + D diag(g)``, or the same with rows.

        Args:
            base: W, of `own_shape`, float32 or float64.
        """
        factors = self._factors(base, base + self.layer.delta_weight(base))
        is_rows = self.norms is not Norms.COLUMNS
        terms = [_term_times(term, factors, is_rows, self.scale) for term in self.layer.terms]
        changes = [_times(change, factors, is_rows).scaled(self.scale) for change in self.layer.changes]
        own = RowScale if is_rows else ColumnScale
        scales = own(kind=self.kind, scale=self.scale, values=(factors - 1).float())
        return tuple(terms), (*changes, scales)

    def _factors(self, base: Tensor, changed: Tensor) -> Tensor:
        """``g``: (in,) or (out,)."""
        magnitude, tiny = self.magnitude.to(base).flatten(), torch.finfo(torch.float32).eps
        if self.norms is Norms.COLUMNS:
            if len(magnitude) != base.shape[1]:
                raise AdapterError(
                    f"{self.kind}: expected a weight of {len(magnitude)} inputs, found {tuple(base.shape)}."
                )
            rows = changed.transpose(0, 1)
        else:
            rows = base if self.norms is Norms.ROWS_OF_BASE else changed
        norms: Tensor = torch.linalg.vector_norm(rows.flatten(1), dim=1)
        return magnitude / (norms + tiny)


def _along(factors: Tensor, norms: Norms, weight: Tensor) -> Tensor:
    kernel = (1,) * (weight.ndim - 2)
    return factors.view(1, -1, *kernel) if norms is Norms.COLUMNS else factors.view(-1, 1, *kernel)


def _term_times(term: Term, factors: Tensor, is_rows: bool, scale: float) -> Term:
    """In float32: the product of what was rounded once is not to be rounded again."""
    alpha = term.alpha * scale
    if is_rows:
        return Term(term.q.to(factors.device).float() * factors[:, None].float(), term.delta_r, alpha)
    kernel = (1,) * (term.delta_r.ndim - 2)
    return Term(term.q, term.delta_r.to(factors.device).float() * factors.view(1, -1, *kernel).float(), alpha)


def _times(change: Change, factors: Tensor, is_rows: bool) -> Change:
    if not isinstance(change, Kronecker):
        raise AdapterError(f"{change.kind}: its rows and columns cannot be scaled.")
    own = change.outputs if is_rows else change.inputs
    product = factors.float() if own is None else own.to(factors.device).float() * factors.float()
    return replace(change, outputs=product) if is_rows else replace(change, inputs=product)
