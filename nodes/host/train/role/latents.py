"""What can be varied where there are latents alone: left for right, and a shift on their grid."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..dataset import Example
from .settings import Recipe

_PICTURE = 4  # axes of a latent with height and width


def varied_on_latents(recipe: Recipe) -> list[str]:
    """The names of what a recipe varies that needs no pixels."""
    possible = {"shift", "flip"} if recipe.flips_latents else {"shift"}
    return [name for name in recipe.varied if name in possible]


def is_picture(example: Example) -> bool:
    """Whether there is anything to move: no sound, and no pack of parts."""
    return not example.parts and example.latent.ndim >= _PICTURE


def moved(example: Example, recipe: Recipe, generator: torch.Generator) -> Example:
    """An example shifted by whole cells, within ``shift``, and where latents are flipped, so with the chance ``flip``.

    What comes in at one border is what left at the other, and is not learned. The latent of a flipped picture is the
    flipped latent only as far as the VAE treats left and right alike: one that packs pixels into channels does not.
    """
    latent = example.latent
    mask = example.mask_at(latent.shape[2:])
    if torch.rand((), generator=generator) < recipe.flip * recipe.flips_latents:
        latent, mask = latent.flip(-1), mask.flip(-1)
    shares = recipe.shift / 2 * (2 * torch.rand(2, generator=generator) - 1)
    cells = [round(float(share) * size) for share, size in zip(shares, latent.shape[-2:], strict=True)]
    for axis, by in zip((-2, -1), cells, strict=True):
        latent = latent.roll(by, axis)
        mask = mask.roll(by, axis) * _stayed(latent.shape[axis], by, axis)
    whole = example.mask is None and not any(cells)
    return replace(example, latent=latent, mask=None if whole else mask)


def _stayed(size: int, by: int, axis: int) -> Tensor:
    """1 where a shift by so many cells puts what was within, 0 where it puts what came around; along one axis."""
    cells = torch.arange(size)
    stayed = (cells >= by) & (cells < size + by)
    return stayed.float().view(-1, *[1] * (-axis - 1))
