"""The base weight times a low-rank product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from ..change import ANY, Change, Stage, require_tensors
from ..errors import AdapterError
from ..term import usual


@dataclass(frozen=True, eq=False, kw_only=True)
class InputProduct(Change):
    """``W' = W + W up down``, in a convolution for each place of its kernel.

    Args:
        up: (in, rank). down: (rank, in).
    """

    tag = "input_product"
    stage = Stage.BASE

    up: Tensor
    down: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.up.shape != self.down.shape[::-1]:
            raise AdapterError(
                f"{self.kind}: expected factors (in, rank) and (rank, in), found {tuple(self.up.shape)} and "
                f"{tuple(self.down.shape)}."
            )

    @property
    def own_shape(self) -> tuple[int, ...]:
        """See `Change`."""
        return (ANY, len(self.up))

    @property
    def is_zero(self) -> bool:
        """See `Change`."""
        return self.scale == 0 or not (bool(self.up.any()) and bool(self.down.any()))

    def tensors(self) -> dict[str, Tensor]:
        """See `Change`."""
        return {"up": self.up, "down": self.down}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], kind: str, scale: float) -> Self:
        """See `Change`."""
        require_tensors(kind, tensors, {"up": 2, "down": 2})
        return cls(kind=kind, scale=scale, up=usual(tensors["up"]), down=usual(tensors["down"]))

    def effect(self, base: Tensor) -> Tensor:
        """See `Change`."""
        rows = base.movedim(1, -1) @ self.up.to(base) @ self.down.to(base)  # (out, ..., in)
        return rows.movedim(-1, 1)

    @staticmethod
    def act(tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """The input (..., in) whose product with W is added."""
        return (inputs @ tensors["down"].T) @ tensors["up"].T
