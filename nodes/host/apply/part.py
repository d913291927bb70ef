"""What a merge adds to one range of rows of a layer, and that at some scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """Terms with one q on one row range of a layer: ``q @ sum_i(scale_i scaling_i delta_r_i)``.

    Args:
        rows: (start, length) in the layer's output, or None for all of it.
        q: gives (length, rank) where the host has put it.
        deltas: (index of the source, scaling, gives delta_r) per term.
        vector: ``.bias``, or ``.weight`` of a norm, for a part that is a vector (length, 1); else empty.
    """

    rows: tuple[int, int] | None
    q: Callable[[], Tensor]
    deltas: tuple[tuple[int, float, Callable[[], Tensor]], ...]
    vector: str = ""

    def weights(self, scales: Sequence[float]) -> tuple[float, ...]:
        """The factor of each delta_r at these scales."""
        return tuple(scales[source] * scaling for source, scaling, _ in self.deltas)


@dataclass(frozen=True)
class Blend:
    """A part at some scales: ``factor * q @ sum_i(shares_i delta_r_i)``, the largest share being one.

    So an adapter alone is used as it lies in memory, whatever its scale, and only new ratios need new sums.
    """

    part: Part
    factor: float
    shares: tuple[float, ...]

    def terms(self, device: torch.device) -> list[tuple[float, Tensor]]:
        """(share, delta_r as a matrix) of what takes part; the first has a share of one."""
        terms = [(share, give) for share, (_, _, give) in zip(self.shares, self.part.deltas, strict=True) if share]
        terms.sort(key=lambda term: term[0] != 1.0)
        return [(share, give().to(device).flatten(1)) for share, give in terms]


def blend_of(part: Part, weights: Sequence[float]) -> Blend:
    factor = max(weights, key=abs)
    return Blend(part, factor, tuple(weight / factor for weight in weights))
