"""Pictures in the shape in which the host samples with a model."""

from __future__ import annotations

from dataclasses import replace

import comfy.sample
from torch import Tensor

from ....qrlora_core import TrainingError
from ..model.host_types import Patcher
from ..model.weights import base_name
from .dataset import Example, TrainingSet
from .objective import latent_in


def as_sampled(patcher: Patcher, data: TrainingSet) -> TrainingSet:
    """The data with latents as the host's sampler would make them: a picture for a video model gets a frame.

    Raises:
        TrainingError: a latent of another model's VAE.
    """
    examples, prior = (tuple(_example(patcher, example) for example in some) for some in (data.examples, data.prior))
    return replace(data, examples=examples, prior=prior)


def _example(patcher: Patcher, example: Example) -> Example:
    if example.parts:  # packed by the host's own shapes
        return example
    latent = comfy.sample.fix_empty_latent_channels(patcher, example.latent)
    form = patcher.model.latent_format
    if _channels(patcher, latent) != form.latent_channels:
        raise TrainingError(
            f"latents: expected {form.latent_channels} channels, as {base_name(patcher)} has them, found "
            f"{latent.shape[1]} in a latent of {tuple(latent.shape)}. Encode the pictures with the VAE of this model."
        )
    return example if latent is example.latent else replace(example, latent=latent)


def _channels(patcher: Patcher, latent: Tensor) -> int:
    """Of a latent as the model takes it, which may fold a VAE's; its own where the model can make nothing of it."""
    try:
        return latent_in(patcher.model, latent).shape[1]
    except RuntimeError:
        return latent.shape[1]
