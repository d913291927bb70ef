"""The random part of a training: which examples, captions, noise levels and noise a step sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....qrlora_core import ObjectiveSettings, TrainingError
from ....qrlora_core.train import distributed
from ..model.host_types import Caption, ModelSampling
from .dataset import BatchOrder, Example, TrainingSet
from .objective import sample_sigmas


@dataclass(frozen=True)
class Batch:
    """What this process trains on in one pass; all of one latent shape.

    Attributes:
        examples: latents and masks. captions: a conditioning entry for each.
        sigma: (batch,). noise: like the latents together, as the model takes them. All on the CPU.
    """

    examples: list[Example]
    captions: list[Caption]
    sigma: Tensor
    noise: Tensor

    @property
    def parts(self) -> tuple[torch.Size, ...]:
        """Shapes of what is packed in each latent; empty where nothing is."""
        return self.examples[0].parts

    def mask(self, latent: Tensor) -> Tensor | None:
        """(batch, 1, ..., height, width) of the size, dtype and device of the latents; None where no picture has one.

        A picture without a mask has ones.
        """
        if all(example.mask is None for example in self.examples):
            return None
        return torch.cat([example.mask_at(latent.shape[2:]) for example in self.examples]).to(latent)


class BatchSampler:
    """Draws the batches of a training from one seed.

    Where several processes train together, each draws the batches of all and takes its own part, so that they see
    together what one process with so many times the batch sees.

    Args:
        data: what to draw from.
        batch_size: of one process.
        objective: which noise levels are drawn.
        model_sampling: the host's.
        latent_in: an example's latent as the model takes it, which may have another shape.
    """

    def __init__(
        self,
        data: TrainingSet,
        batch_size: int,
        seed: int,
        objective: ObjectiveSettings,
        model_sampling: ModelSampling,
        latent_in: Callable[[Example], Tensor] = lambda example: example.latent,
    ) -> None:
        self._latent_in = latent_in
        self._data, self._size, self._objective, self._sampling = data, batch_size, objective, model_sampling
        self._generator = torch.Generator().manual_seed(seed)
        self._sets = [list(data.examples), *([list(data.prior)] if data.prior else [])]
        self._orders = [
            BatchOrder(
                [example.shapes for example in examples],
                batch_size * distributed.world_size(),
                self._generator,
                [example.repeats for example in examples],
            )
            for examples in self._sets
        ]

    def next(self) -> list[Batch]:
        """The next batch, and one of the class images where there are any."""
        return [self._draw(examples, order) for examples, order in zip(self._sets, self._orders, strict=True)]

    def state(self) -> tuple[Tensor, list[list[int]]]:
        """The generator's state and what is left of the epochs: all that the next draw depends on."""
        return self._generator.get_state(), [order.waiting() for order in self._orders]

    def restore(self, generator: Tensor, waiting: Sequence[Sequence[int]]) -> None:
        """Go on from `state`.

        Raises:
            TrainingError: the state is of other data.
        """
        if len(waiting) != len(self._orders):
            raise TrainingError("the checkpoint was made with class images or without; connect the same data.")
        self._generator.set_state(generator)
        for order, left in zip(self._orders, waiting, strict=True):
            order.resume(left)

    def _draw(self, examples: list[Example], order: BatchOrder) -> Batch:
        chosen = [self._variant(examples[index]) for index in order.next()]
        captions = [self._caption(example) for example in chosen]
        sigma = sample_sigmas(self._sampling, len(chosen), self._generator, self._objective)
        shape = self._latent_in(chosen[0]).shape
        noise = torch.randn(len(chosen), *shape[1:], generator=self._generator)
        first = distributed.rank() * self._size
        own = slice(first, first + self._size)
        return Batch(chosen[own], captions[own], sigma[own], noise[own])

    def _variant(self, example: Example) -> Example:
        """One of its variants; itself, without a draw, where there are none."""
        if not example.variants:
            return example
        return example.variants[int(torch.randint(len(example.variants), (), generator=self._generator))]

    def _caption(self, example: Example) -> Caption:
        dropout, empty = self._data.caption_dropout, self._data.empty_caption
        if dropout and empty is not None and float(torch.rand((), generator=self._generator)) < dropout:
            return empty
        if len(example.captions) == 1:
            return example.captions[0]
        return example.captions[int(torch.randint(len(example.captions), (), generator=self._generator))]
