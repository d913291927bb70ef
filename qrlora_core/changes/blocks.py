"""Block-diagonal matrices times the base weight, which mix the outputs of a layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from einops import rearrange
from torch import Tensor

from ..change import ANY, OutputChange, require_tensors
from ..errors import AdapterError
from ..term import usual


@dataclass(frozen=True, eq=False, kw_only=True)
class _OfBlocks(OutputChange):
    """What both have.

    Args:
        blocks: (..., count, size, size); ``count * size`` outputs. Of rotations R they are ``R - I``, so that what is
            small keeps its digits in low precision.
        extra: (out,), with ones for the other sides as in the file: the rescaling after it, less one; or None.
    """

    dimensions: ClassVar[int]

    blocks: Tensor
    extra: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks.shape[-1] != self.blocks.shape[-2]:
            raise AdapterError(f"{self.kind}: expected square blocks, found {tuple(self.blocks.shape)}.")
        if self.extra is not None and self.extra.numel() != self.own_shape[0]:
            raise AdapterError(f"{self.kind}: expected {self.own_shape[0]} factors, found {tuple(self.extra.shape)}.")

    @property
    def own_shape(self) -> tuple[int, ...]:
        """See `Change`."""
        return (self.blocks.shape[-3] * self.blocks.shape[-1], ANY)

    def tensors(self) -> dict[str, Tensor]:
        """See `Change`."""
        return {"blocks": self.blocks, **({} if self.extra is None else {"extra": self.extra})}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], kind: str, scale: float) -> Self:
        """See `Change`."""
        extra = tensors.get("extra")
        require_tensors(kind, tensors, {"blocks": cls.dimensions, **({} if extra is None else {"extra": extra.ndim})})
        blocks = usual(tensors["blocks"])
        return cls(kind=kind, scale=scale, blocks=blocks, extra=None if extra is None else usual(extra))

    @staticmethod
    @abstractmethod
    def act(tensors: Mapping[str, Tensor], outputs: Tensor) -> Tensor:
        """What is added to ``W x`` (..., out)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockProduct(_OfBlocks):
    """``W' = (I + diag(extra)) (I + diag(B_1, B_2, ...)) W``: outputs, mixed within blocks (count, size, size)."""

    tag = "block_product"
    dimensions = 3

    @staticmethod
    def act(tensors: Mapping[str, Tensor], outputs: Tensor) -> Tensor:
        """See `_OfBlocks`."""
        added = _multiplied(tensors["blocks"], outputs)
        return added if "extra" not in tensors else added + (outputs + added) * tensors["extra"].flatten()


@dataclass(frozen=True, eq=False, kw_only=True)
class Butterfly(_OfBlocks):
    """``W' = (I + diag(extra)) B_m ... B_1 W`` (BOFT: Liu et al., arXiv 2311.06243, eq. 5).

    Each ``B_i = P_i^T (I + diag(blocks_i)) P_i`` mixes outputs within blocks; P_i brings together pairs of groups that
    lie ``2^(i-1)`` half blocks apart. The blocks are (m, count, size, size), their size even.
    """

    tag = "butterfly"
    dimensions = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        stages, count, size, _ = self.blocks.shape
        if size % 2 or count % 2 ** (stages - 1):
            raise AdapterError(
                f"{self.kind}: expected blocks (stages, count, size, size) of an even size, with count a multiple of "
                f"2^(stages - 1), found {tuple(self.blocks.shape)}."
            )

    @staticmethod
    def act(tensors: Mapping[str, Tensor], outputs: Tensor) -> Tensor:
        """See `_OfBlocks`; in float32 at least, since each stage goes on from the one before."""
        wide = torch.promote_types(outputs.dtype, torch.float32)
        start = mixed = outputs.to(wide)
        blocks = tensors["blocks"].to(wide)
        half = blocks.shape[2] // 2
        for stage, own in enumerate(blocks):
            mixed = mixed + _apart(own, mixed, half * 2**stage)
        if "extra" in tensors:
            mixed = mixed + mixed * tensors["extra"].to(wide).flatten()
        return (mixed - start).to(outputs.dtype)


def _multiplied(blocks: Tensor, outputs: Tensor) -> Tensor:
    """``diag(blocks)`` times outputs (..., count * size)."""
    parted = rearrange(outputs, "... (count size) -> ... count size", count=len(blocks))
    return rearrange(torch.einsum("kij,...kj->...ki", blocks, parted), "... count size -> ... (count size)")


def _apart(blocks: Tensor, outputs: Tensor, apart: int) -> Tensor:
    """``P^T diag(blocks) P`` of outputs: pairs that are so many places apart come to stand side by side."""
    paired = rearrange(outputs, "... (n pair apart) -> ... (n apart pair)", pair=2, apart=apart)
    mixed = _multiplied(blocks, paired)
    return rearrange(mixed, "... (n apart pair) -> ... (n pair apart)", pair=2, apart=apart)
