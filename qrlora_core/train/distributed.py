"""Several processes train one adapter: which one this is, and the average over all of them.

Uses the process group that torchrun or accelerate launched; without one there is a single process.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    return torch.distributed.get_world_size() if _launched() else 1


def rank() -> int:
    """Which of them this one is; only 0 writes files."""
    return torch.distributed.get_rank() if _launched() else 0


def average(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by its mean over all processes, in one exchange; in place.

    Args:
        tensors: the same float32 shapes in the same order in every process.
    """
    if world_size() == 1 or not tensors:
        return
    together = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(together)
    together /= world_size()
    parts = torch.split(together, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def _launched() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
