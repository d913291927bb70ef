"""What a merge adds to, or makes of, one range of rows of a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from ....qrlora_core import Change

Rows = tuple[int, int]  # start, length


def among_rows(part: Tensor, rows: Rows, like: Tensor, axis: int) -> Tensor:
    """What is for some rows of a layer's output, with zeros in the others.

    Args:
        like: the output.
        axis: of it, along which the rows are.
    """
    start, length = rows
    behind = (0, 0) * (like.ndim - 1 - axis % like.ndim)
    return pad(part, (*behind, start, like.shape[axis] - start - length))


@dataclass(frozen=True, eq=False)
class ChangePart:
    """A change of one adapter, of one range of rows of a layer.

    Args:
        rows: in the layer's output, or None for all of it.
        change: one that is bound to the base weight.
        source: index of the adapter.
        share: how much of it nodes behind the merge have left.
    """

    rows: Rows | None
    change: Change
    source: int
    share: float

    def scale(self, scales: Sequence[float]) -> float:
        """Of the change, at these scales of the adapters."""
        return scales[self.source] * self.share * self.change.scale


@dataclass(frozen=True, eq=False)
class Part:
    """Terms with one q on one row range of a layer: ``q @ sum_i(scale_i scaling_i delta_r_i)``.

    Args:
        rows: in the layer's output, or None for all of it.
        q: (length, rank), wherever the adapter was loaded to.
        inputs: the shape of a row of delta_r: (in,), or (in, height, width) of a convolution.
        deltas: (index of the source, scaling, gives delta_r where the host has put it) per term.
        peaks: gives the largest magnitudes in q and in the scaled delta_r's.
        vector: ``.bias``, or ``.weight`` of a norm, for a part that is a vector (length, 1); else empty.
    """

    rows: Rows | None
    q: Tensor
    inputs: tuple[int, ...]
    deltas: tuple[tuple[int, float, Callable[[], Tensor]], ...]
    peaks: Callable[[], tuple[float, float]]
    vector: str = ""

    @property
    def rank(self) -> int:
        """Of its q."""
        return self.q.shape[1]

    def terms(self, scales: Sequence[float]) -> list[tuple[float, Tensor]]:
        """(weight, delta_r) of the terms whose weight at these scales is not zero."""
        weighted = [(scales[source] * scaling, give) for source, scaling, give in self.deltas]
        return [(weight, give()) for weight, give in weighted if weight]
