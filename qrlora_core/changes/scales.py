"""The base weight's own rows or columns, each times a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from ..change import ANY, Change, Stage, require_tensors
from ..term import usual


@dataclass(frozen=True, eq=False, kw_only=True)
class RowScale(Change):
    """``W' = W + diag(values) W``: each output of a layer times ``1 + value``, but for the bias.

    Args:
        values: (out,).
    """

    tag = "row_scale"
    stage = Stage.OUTPUT

    values: Tensor

    @property
    def own_shape(self) -> tuple[int, ...]:
        """See `Change`."""
        return (len(self.values), ANY)

    def tensors(self) -> dict[str, Tensor]:
        """See `Change`."""
        return {"values": self.values}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], kind: str, scale: float) -> Self:
        """See `Change`."""
        require_tensors(kind, tensors, {"values": 1})
        return cls(kind=kind, scale=scale, values=usual(tensors["values"]))

    def effect(self, base: Tensor) -> Tensor:
        """See `Change`."""
        return self.act({"values": self.values.to(base)}, base.movedim(0, -1)).movedim(-1, 0)

    @staticmethod
    def act(tensors: Mapping[str, Tensor], outputs: Tensor) -> Tensor:
        """What is added to ``W x`` (..., out)."""
        return outputs * tensors["values"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ColumnScale(Change):
    """``W' = W + W diag(values)``: each input of a layer times ``1 + value``.

    Args:
        values: (in,).
    """

    tag = "column_scale"
    stage = Stage.BASE

    values: Tensor

    @property
    def own_shape(self) -> tuple[int, ...]:
        """See `Change`."""
        return (ANY, len(self.values))

    def tensors(self) -> dict[str, Tensor]:
        """See `Change`."""
        return {"values": self.values}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], kind: str, scale: float) -> Self:
        """See `Change`."""
        require_tensors(kind, tensors, {"values": 1})
        return cls(kind=kind, scale=scale, values=usual(tensors["values"]))

    def effect(self, base: Tensor) -> Tensor:
        """See `Change`."""
        return self.act({"values": self.values.to(base)}, base.movedim(1, -1)).movedim(-1, 1)

    @staticmethod
    def act(tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """The input (..., in) whose product with W is added."""
        return inputs * tensors["values"]
