"""Several block-diagonal matrices after each other, each over other neighbours, times the base weight."""

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
class Butterfly(Change):
    """``W' = (I + diag(extra)) B_m ... B_1 W`` (BOFT: Liu et al., arXiv 2311.06243, eq. 5).

    Each ``B_i = P_i^T (I + diag(blocks_i)) P_i`` mixes outputs within blocks; P_i brings together pairs of groups that
    lie ``2^(i-1)`` half blocks apart.

    Args:
        blocks: (m, count, size, size), size even; ``count * size`` outputs. Of rotations they are ``R - I``.
        extra: (out,), with ones for the other sides as in the file: the rescaling after it, less one; or None.
    """

    tag = "butterfly"
    stage = Stage.OUTPUT

    blocks: Tensor
    extra: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        stages, count, size, other = self.blocks.shape
        if size != other or size % 2 or count % 2 ** (stages - 1):
            raise AdapterError(
                f"{self.kind}: expected blocks (stages, count, size, size) of an even size, with count a multiple of "
                f"2^(stages - 1), found {tuple(self.blocks.shape)}."
            )
        if self.extra is not None and self.extra.numel() != count * size:
            raise AdapterError(f"{self.kind}: expected {count * size} factors, found {tuple(self.extra.shape)}.")

    @property
    def own_shape(self) -> tuple[int, ...]:
        """See `Change`."""
        return (self.blocks.shape[1] * self.blocks.shape[2], ANY)

    def tensors(self) -> dict[str, Tensor]:
        """See `Change`."""
        return {"blocks": self.blocks, **({} if self.extra is None else {"extra": self.extra})}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], kind: str, scale: float) -> Self:
        """See `Change`."""
        extra = tensors.get("extra")
        require_tensors(kind, tensors, {"blocks": 4, **({} if extra is None else {"extra": extra.ndim})})
        blocks = usual(tensors["blocks"])
        return cls(kind=kind, scale=scale, blocks=blocks, extra=None if extra is None else usual(extra))

    def effect(self, base: Tensor) -> Tensor:
        """See `Change`."""
        own = {name: tensor.to(base) for name, tensor in self.tensors().items()}
        return self.act(own, base.movedim(0, -1)).movedim(-1, 0)

    @staticmethod
    def act(tensors: Mapping[str, Tensor], outputs: Tensor) -> Tensor:
        """What is added to ``W x`` (..., out); in float32 at least, since each stage goes on from the one before."""
        wide = torch.promote_types(outputs.dtype, torch.float32)
        start = mixed = outputs.to(wide)
        blocks = tensors["blocks"].to(wide)
        half = blocks.shape[2] // 2
        for stage, own in enumerate(blocks):
            mixed = mixed + _mixed(own, mixed, half * 2**stage)
        if "extra" in tensors:
            mixed = mixed + mixed * tensors["extra"].to(wide).flatten()
        return (mixed - start).to(outputs.dtype)


def _mixed(blocks: Tensor, outputs: Tensor, apart: int) -> Tensor:
    """``P^T diag(blocks) P`` of outputs: pairs that are so many places apart come to stand side by side."""
    paired = rearrange(outputs, "... (n pair apart) -> ... (n apart pair)", pair=2, apart=apart)
    parted = rearrange(paired, "... (count size) -> ... count size", count=len(blocks))
    mixed = rearrange(torch.einsum("kij,...kj->...ki", blocks, parted), "... count size -> ... (count size)")
    return rearrange(mixed, "... (n apart pair) -> ... (n pair apart)", pair=2, apart=apart)
