"""A block-diagonal matrix times the base weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from einops import rearrange
from torch import Tensor

from ..change import ANY, Change, Stage, require_tensors
from ..errors import AdapterError
from ..term import usual


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockProduct(Change):
    """``W' = (I + diag(extra)) (I + diag(B_1, B_2, ...)) W``: outputs of a layer, mixed within blocks of neighbours.

    Args:
        blocks: (count, size, size); ``count * size`` outputs. Of a rotation R they are ``R - I``, so that what is small
            keeps its digits in low precision.
        extra: (out,), with ones for the other sides as in the file: the rescaling after it, less one; or None.
    """

    tag = "block_product"
    stage = Stage.OUTPUT

    blocks: Tensor
    extra: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks.shape[1] != self.blocks.shape[2]:
            raise AdapterError(f"{self.kind}: expected square blocks, found {tuple(self.blocks.shape)}.")
        if self.extra is not None and self.extra.numel() != self.own_shape[0]:
            raise AdapterError(f"{self.kind}: expected {self.own_shape[0]} factors, found {tuple(self.extra.shape)}.")

    @property
    def own_shape(self) -> tuple[int, ...]:
        """See `Change`."""
        return (self.blocks.shape[0] * self.blocks.shape[1], ANY)

    def tensors(self) -> dict[str, Tensor]:
        """See `Change`."""
        return {"blocks": self.blocks, **({} if self.extra is None else {"extra": self.extra})}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], kind: str, scale: float) -> Self:
        """See `Change`."""
        extra = tensors.get("extra")
        require_tensors(kind, tensors, {"blocks": 3, **({} if extra is None else {"extra": extra.ndim})})
        blocks = usual(tensors["blocks"])
        return cls(kind=kind, scale=scale, blocks=blocks, extra=None if extra is None else usual(extra))

    def effect(self, base: Tensor) -> Tensor:
        """See `Change`."""
        own = {name: tensor.to(base) for name, tensor in self.tensors().items()}
        return self.act(own, base.movedim(0, -1)).movedim(-1, 0)

    @staticmethod
    def act(tensors: Mapping[str, Tensor], outputs: Tensor) -> Tensor:
        """What is added to ``W x`` (..., out)."""
        blocks = tensors["blocks"]
        parted = rearrange(outputs, "... (count size) -> ... count size", count=len(blocks))
        mixed = torch.einsum("kij,...kj->...ki", blocks, parted)
        added = rearrange(mixed, "... count size -> ... (count size)")
        return added if "extra" not in tensors else added + (outputs + added) * tensors["extra"].flatten()
