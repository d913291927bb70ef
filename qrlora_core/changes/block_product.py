"""A block-diagonal matrix times the base weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from einops import rearrange
from torch import Tensor

from ..change import ANY, Change, Stage, require_tensors, usual
from ..errors import AdapterError


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockProduct(Change):
    """``W' = W + diag(B_1, B_2, ...) W``: the outputs of a layer, mixed within blocks of neighbours.

    Args:
        blocks: (count, size, size); ``count * size`` outputs. Of a rotation R they are ``R - I``, so that what is small
            keeps its digits in low precision.
    """

    tag = "block_product"
    stage = Stage.OUTPUT

    blocks: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks.shape[1] != self.blocks.shape[2]:
            raise AdapterError(f"{self.kind}: expected square blocks, found {tuple(self.blocks.shape)}.")

    @property
    def own_shape(self) -> tuple[int, ...]:
        """See `Change`."""
        return (self.blocks.shape[0] * self.blocks.shape[1], ANY)

    def tensors(self) -> dict[str, Tensor]:
        """See `Change`."""
        return {"blocks": self.blocks}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], kind: str, scale: float) -> Self:
        """See `Change`."""
        require_tensors(kind, tensors, {"blocks": 3})
        return cls(kind=kind, scale=scale, blocks=usual(tensors["blocks"]))

    def effect(self, base: Tensor) -> Tensor:
        """See `Change`."""
        return self.act({"blocks": self.blocks.to(base)}, base.movedim(0, -1)).movedim(-1, 0)

    @staticmethod
    def act(tensors: Mapping[str, Tensor], outputs: Tensor) -> Tensor:
        """What is added to ``W x`` (..., out)."""
        blocks = tensors["blocks"]
        parted = rearrange(outputs, "... (count size) -> ... count size", count=len(blocks))
        mixed = torch.einsum("kij,...kj->...ki", blocks, parted)
        return rearrange(mixed, "... count size -> ... (count size)")
