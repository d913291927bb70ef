"""Training examples from the host's LATENT and CONDITIONING values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...qrlora_core import TrainingError
from .autograd import detached


@dataclass(frozen=True)
class Example:
    """One latent (1, channels, ..., height, width) and its conditioning entry ``[tensor, options]``."""

    latent: Tensor
    conditioning: list[Any]


def collect_examples(latents: Sequence[dict[str, Any]], positive: Sequence[Any]) -> list[Example]:
    """Pair images and captions; one caption serves all images.

    Args:
        latents: LATENT values; batches are taken apart.
        positive: CONDITIONING values, each a list of entries; all entries are taken in order.

    Raises:
        TrainingError: no image, or captions that are neither one nor as many as the images.
    """
    images = [detached(image[None]) for latent in latents for image in latent["samples"]]
    captions = [detached(entry) for conditioning in positive for entry in conditioning]
    if not images:
        raise TrainingError("latents: expected at least one image, found none. Connect an encoded picture.")
    if len(captions) == 1:
        captions = captions * len(images)
    if len(captions) != len(images):
        raise TrainingError(
            f"positive: expected one caption, or one per image ({len(images)}), found {len(captions)}. "
            "Connect a single caption for all images, or exactly one for each, in the same order."
        )
    return [Example(image, caption) for image, caption in zip(images, captions, strict=True)]


class BatchOrder:
    """Which examples each batch holds: shuffled epochs, one latent shape per batch, repeats when too few.

    Args:
        shapes: the latent shape of every example.
        generator: source of all randomness.
    """

    def __init__(self, shapes: Sequence[torch.Size], batch_size: int, generator: torch.Generator) -> None:
        self._shapes, self._batch_size, self._generator = list(shapes), batch_size, generator
        self._queue: list[int] = []

    def next(self) -> list[int]:
        """The indices of the next batch."""
        first = self._pop(range(len(self._shapes)))
        alike = [index for index, shape in enumerate(self._shapes) if shape == self._shapes[first]]
        return [first, *(self._pop(alike) for _ in range(self._batch_size - 1))]

    def _pop(self, allowed: Sequence[int]) -> int:
        if not any(index in allowed for index in self._queue):
            self._queue += torch.randperm(len(self._shapes), generator=self._generator).tolist()
        index = next(index for index in self._queue if index in allowed)
        self._queue.remove(index)
        return index
