"""The low-rank branch that stands beside a frozen layer."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear


def linear_branch(x: Tensor, q: Tensor, delta_r: Tensor, scaling: float = 1.0) -> Tensor:
    """``scaling * Q (delta_r x)`` for row vectors: the adapter's part of a layer's output.

    Args:
        x: (..., in), any floating dtype; the products run in this dtype.
        q: (out, rank). delta_r: (rank, in).

    Returns:
        (..., out) in the dtype of x.
    """
    inner = linear(x, delta_r.to(x.dtype))
    return linear(inner if scaling == 1.0 else inner * scaling, q.to(x.dtype))
