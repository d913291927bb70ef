"""Likeness and freedom of a training, of what a judge sees in its samples; every number is between 0 and 1.

With e the embedding of a picture, of length 1, two pictures are alike by ``s(a, b) = max(0, e(a) . e(b))``. Of the
samples ``own``, ``bare`` (the caption without the adapter's word) and ``other`` (the thing elsewhere, or the look on
another thing), of the base's own pictures ``bare_0`` and ``other_0`` of the same words and seed, and of the pictures
``x`` that are learned:

    likeness = max_x s(own, x)
    leak     = 1 - s(bare, bare_0)
    excess   = max_x max(0, s'(other, x) - s'(other_0, x)) / (1 - s'(other_0, x))
    freedom  = mean of 1 - leak and 1 - excess, as far as they are known

s' is of what the adapter should not bring, and always rough: of colours for a content, of edges for a style. Without a
role nobody knows which that is, and the lesser excess of the two counts: a thing alone is free, and a look alone, while
what brings both is the picture. An adapter that does nothing has the base's own pictures, so leak and excess are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST = 1e-9  # left to rise, below which the base's own picture is the one that is learned


@dataclass(frozen=True)
class Scores:
    """What is known of one set of samples; None where nothing is."""

    likeness: float | None = None
    freedom: float | None = None


def similarity(one: Tensor, others: Tensor) -> Tensor:
    """(n,) of (features,) and (n, features) of length 1; exactly 1 of equal ones."""
    return (1 - (one - others).square().sum(-1) / 2).clamp(0, 1)


def likeness(own: Tensor, learned: Tensor) -> float:
    """To the picture (n, features) that is most like it."""
    return float(similarity(own, learned).max())


def leak(bare: Tensor, base: Tensor) -> float:
    """How far the words without the adapter's draw something else than before."""
    return 1 - float(similarity(bare, base[None]))


def excess(other: Sequence[Tensor], base: Sequence[Tensor], learned: Sequence[Tensor]) -> float:
    """How far a picture has come from the base's own to one that is learned, in all of several measures.

    Args:
        other, base: an embedding (features,) by each measure. learned: (n, features) by each.
    """
    risen = []
    for now, before, known in zip(other, base, learned, strict=True):
        start = similarity(before, known)
        risen.append((similarity(now, known) - start).clamp(min=0) / (1 - start).clamp(min=_LEAST))
    return float(torch.stack(risen).amin(0).max().clamp(max=1))


def freedom(leaked: float | None, brought: float | None) -> float | None:
    """Of what is known of the two."""
    known = [1 - share for share in (leaked, brought) if share is not None]
    return sum(known) / len(known) if known else None
