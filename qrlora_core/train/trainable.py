"""What any training of a layer is to the trainer: a branch beside it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapter import Layer


class Trainable(torch.nn.Module):
    """The trained part of one layer, ``up (down x)`` beside ``W x``, which is zero at first.

    Attributes:
        variant: the word for it in settings and in the metadata of files. rank: of the layer's delta, at most.
    """

    variant: str
    rank: int

    def up(self) -> Tensor:
        """(out, columns) in the dtype of the products."""
        raise NotImplementedError

    def down(self) -> Tensor:
        """(columns, in) float32, the scaling in it."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return linear_branch(x, self.up(), self.down())

    def layer(self, trained: Mapping[str, Tensor] | None = None) -> Layer:
        """The layer as it is now, on the CPU; ``trained`` gives other values, by parameter name, in its place."""
        return self._layer_of(
            {
                name: value.detach().to("cpu", copy=True)
                for name, value in (trained or dict(self.named_parameters())).items()
            }
        )

    def _layer_of(self, values: Mapping[str, Tensor]) -> Layer:
        raise NotImplementedError


def linear_branch(x: Tensor, q: Tensor, delta_r: Tensor, scaling: float = 1.0) -> Tensor:
    """``scaling * Q (delta_r x)`` for row vectors: the adapter's part of a layer's output.

    Args:
        x: (..., in), any floating dtype; the products run in this dtype.
        q: (out, rank). delta_r: (rank, in).

    Returns:
        (..., out) in the dtype of x.
    """
    inner = torch.nn.functional.linear(x, delta_r.to(x.dtype))
    return torch.nn.functional.linear(inner if scaling == 1.0 else inner * scaling, q.to(x.dtype))
