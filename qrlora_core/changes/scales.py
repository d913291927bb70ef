"""The base weight's own rows or columns, each times a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from ..change import ANY, Change, OutputChange, Stage, require_tensors
from ..term import usual


@dataclass(frozen=True, eq=False, kw_only=True)
class _Scale(Change):
    """What both have: a number for each output or input."""

    values: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """See `Change`."""
        return {"values": self.values}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], kind: str, scale: float) -> Self:
        """See `Change`."""
        require_tensors(kind, tensors, {"values": 1})
        return cls(kind=kind, scale=scale, values=usual(tensors["values"]))

    @staticmethod
    def act(tensors: Mapping[str, Tensor], values: Tensor) -> Tensor:
        """What is added to ``W x`` (..., out), or the input (..., in) whose product with W is added."""
        return values * tensors["values"]


@dataclass(frozen=True, eq=False, kw_only=True)
class RowScale(OutputChange, _Scale):
    """``W' = W + diag(values) W``: each output of a layer times ``1 + value``, but for the bias."""

    tag = "row_scale"

    @property
    def own_shape(self) -> tuple[int, ...]:
        """See `Change`."""
        return (len(self.values), ANY)


@dataclass(frozen=True, eq=False, kw_only=True)
class ColumnScale(_Scale):
    """``W' = W + W diag(values)``: each input of a layer times ``1 + value``."""

    tag = "column_scale"
    stage = Stage.BASE

    @property
    def own_shape(self) -> tuple[int, ...]:
        """See `Change`."""
        return (ANY, len(self.values))

    def effect(self, base: Tensor) -> Tensor:
        """See `Change`."""
        return self.act({"values": self.values.to(base)}, base.movedim(1, -1)).movedim(-1, 1)
