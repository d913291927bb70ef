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

_AXES = {
    1: "(batch, channels, ..., length), a sound",
    2: "(batch, channels, height, width), a picture",
    3: "(batch, channels, frames, height, width), a video, or without the frames, a picture",
}


def as_sampled(patcher: Patcher, data: TrainingSet) -> TrainingSet:
    """The data with latents as the host's sampler would make them: a picture for a video model gets a frame.

    Raises:
        TrainingError: a latent of another model's VAE.
    """
    examples = _all_as_sampled(patcher, "latents", data.examples)
    return replace(data, examples=examples, prior=_all_as_sampled(patcher, "prior_latents", data.prior))


def _all_as_sampled(patcher: Patcher, name: str, examples: tuple[Example, ...]) -> tuple[Example, ...]:
    return tuple(_as_sampled(patcher, f"image {n} of {name}", example) for n, example in enumerate(examples, 1))


def _as_sampled(patcher: Patcher, where: str, example: Example) -> Example:
    if example.parts:  # packed by the host's own shapes
        return example
    latent = comfy.sample.fix_empty_latent_channels(patcher, example.latent)
    _require_axes(patcher, where, example.latent, latent)
    _require_channels(patcher, where, latent)
    return example if latent is example.latent else replace(example, latent=latent)


def _require_axes(patcher: Patcher, where: str, given: Tensor, latent: Tensor) -> None:
    """Networks fold what has too few or too many axes, and learn something else of it."""
    dimensions = patcher.model.latent_format.latent_dimensions
    if dimensions > 1 and latent.ndim != dimensions + 2:  # of sounds there are two forms
        raise TrainingError(
            f"{where}: expected a latent of {_AXES[dimensions]}, as {base_name(patcher)} has them, found one of "
            f"{tuple(given.shape)}. Encode the pictures with the VAE of this model."
        )


def _require_channels(patcher: Patcher, where: str, latent: Tensor) -> None:
    expected = patcher.model.latent_format.latent_channels
    if _channels(patcher, latent) != expected:
        raise TrainingError(
            f"{where}: expected {expected} channels, as {base_name(patcher)} has them, found {latent.shape[1]} in a "
            f"latent of {tuple(latent.shape)}. Encode the pictures with the VAE of this model."
        )


def _channels(patcher: Patcher, latent: Tensor) -> int:
    """Of a latent as the model takes it, which may fold a VAE's; its own where the model can make nothing of it."""
    try:
        return latent_in(patcher.model, latent).shape[1]
    except RuntimeError:
        return latent.shape[1]
