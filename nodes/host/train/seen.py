"""What a training sees: its pictures and their variants as it has them, small, for the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..model.host_types import HostModel, Vae
from .dataset import Example
from .objective import latent_in
from .shown import Picture, show

_INTERRUPTED = comfy.model_management.InterruptProcessingException
_MOST = 12
_SIDE = 256  # pixels of the longer side
_GREY = 0.5
_Item = TypeVar("_Item")


def seen_pictures(
    examples: Sequence[Example], model: HostModel, vae: Vae | None, warn: Callable[[str], None]
) -> Iterator[Tensor]:
    """Up to 12 of the pictures and variants, evenly chosen, the first picture first: (height, width, 3), 0 to 1.

    What is not learned of one is grey. One that cannot be shown is left out, and told.
    """
    every = [seen for example in examples for seen in example.variants or (example,)]
    for example in evenly(every, _MOST):
        try:
            picture = picture_of(example, model, vae)
        except _INTERRUPTED:
            raise
        except Exception as error:  # whatever a VAE raises: a picture to look at is no reason to end a training
            warn(f"what it saw cannot be shown: {error}")
            continue
        if picture is not None:
            yield _small(_learned(picture.pixels, example))


def evenly(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most so many, the first one first."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def picture_of(example: Example, model: HostModel, vae: Vae | None) -> Picture | None:
    """The picture, or the first frame, of an example's latent, before the model is loaded."""
    with torch.inference_mode():  # as the host runs
        latent = latent_in(model, example.latent.float(), example.parts)
        found = show(latent, vae, model, example.parts, alone=True)
    return None if found is None else Picture(found.pixels.clone(), found.is_decoded)


def _learned(pixels: Tensor, example: Example) -> Tensor:
    """Grey where its mask says that nothing is learned."""
    if example.mask is None:
        return pixels
    mask = comfy.utils.unpack_latents(example.mask, example.parts)[0][:, :1] if example.parts else example.mask
    first = mask[:, :, 0] if mask.ndim == 5 else mask
    weight = torch.nn.functional.interpolate(first.float(), size=pixels.shape[:2], mode="area")[0, 0, :, :, None]
    return weight * pixels + (1 - weight) * _GREY


def _small(pixels: Tensor) -> Tensor:
    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return torch.nn.functional.interpolate(pixels.movedim(-1, 0)[None], size=size, mode="area")[0].movedim(0, -1)
