"""Pictures in other colours, in another light, of another texture: the shapes in them are all that they share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .settings import Recipe

_GAINS = (0.7, 1.2)  # of the contrast
_LIGHT = 0.15  # how much brighter a channel, or a side of the picture, becomes at most
_GRAIN = 0.08  # standard deviation of the grain
_SOFT = 1 / 64  # of the shorter side: what is finer is texture
_COARSEST = 8  # pixels of the coarsest grain
_PATCHES = 4  # of colour on a side of a new ground


def jittered(pictures: Tensor, recipe: Recipe, generator: torch.Generator, mask: Tensor | None = None) -> Tensor:
    """Pictures in another look, with every edge where it was.

    ``x' = 1/2 + g (x - 1/2) Q + l + gradient``: Q is the orthogonal factor (diag R > 0) of ``(1 - c) I + c N``, N
    normal and c the ``colour``, so that 0 is the identity and 1 any turn of the colours; g in [0.7, 1.2], l a number
    for each channel and the gradient a ramp across the picture, all three times ``light``. Then, with ``texture`` t,
    ``x'' = low + (1 + t u) (x' - low) + t n``: low is x' blurred, u in [-1, 1], n grain of a size drawn by chance.

    Args:
        pictures: (frames, height, width, 3) float, 0 to 1; all frames are varied alike.
        mask: (frames or 1, 1, height, width), 1 on the thing; where it is 0, ``ground`` says what is done.

    Returns:
        like pictures.
    """
    images = pictures.movedim(-1, 1)
    varied = _textured(_lit(_coloured(images, recipe.colour, generator), recipe.light, generator), recipe, generator)
    varied = varied.clamp(0, 1)
    if mask is not None and recipe.ground != "varied":
        ground = images if recipe.ground == "kept" else _new_ground(images, generator)
        varied = mask * varied + (1 - mask) * ground
    return varied.movedim(1, -1)


def _coloured(images: Tensor, colour: float, generator: torch.Generator) -> Tensor:
    mixed = (1 - colour) * torch.eye(3) + colour * torch.randn(3, 3, generator=generator)
    q, r = torch.linalg.qr(mixed)
    turn = q * torch.where(r.diagonal() < 0, -1.0, 1.0)  # (3, 3), unique
    return torch.einsum("nchw,cd->ndhw", images - 0.5, turn) + 0.5


def _lit(images: Tensor, light: float, generator: torch.Generator) -> Tensor:
    low, high = _GAINS
    gain, side, slope = torch.rand(3, generator=generator)
    offset = _LIGHT * light * (2 * torch.rand(3, generator=generator) - 1)
    height, width = images.shape[-2:]
    angle = 2 * torch.pi * side
    ramp = torch.linspace(-1, 1, height)[:, None] * angle.sin() + torch.linspace(-1, 1, width) * angle.cos()
    contrast = 1 + light * (low + (high - low) * gain - 1)
    slant = _LIGHT * light * (2 * slope - 1) * ramp
    lit: Tensor = 0.5 + contrast * (images - 0.5) + offset.view(3, 1, 1) + slant
    return lit


def _textured(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    share = 2 * torch.rand((), generator=generator) - 1
    cell = int(torch.randint(1, _COARSEST + 1, (), generator=generator))
    grain = torch.randn(1, 1, -(-height // cell), -(-width // cell), generator=generator)
    grain = F.interpolate(grain, size=(height, width), mode="bilinear")
    low = _blurred(images, max(1, round(min(height, width) * _SOFT)))
    return low + (1 + recipe.texture * share) * (images - low) + recipe.texture * _GRAIN * grain


def _blurred(images: Tensor, radius: int) -> Tensor:
    """The mean over a square of ``2 radius + 1`` pixels, rows before columns; at the border, of what there is."""
    size = 2 * radius + 1
    rows = F.avg_pool2d(images, (1, size), stride=1, padding=(0, radius), count_include_pad=False)
    return F.avg_pool2d(rows, (size, 1), stride=1, padding=(radius, 0), count_include_pad=False)


def _new_ground(images: Tensor, generator: torch.Generator) -> Tensor:
    """Soft patches of any colours."""
    patches = torch.rand(1, 3, _PATCHES, _PATCHES, generator=generator)
    return F.interpolate(patches, size=images.shape[-2:], mode="bicubic").clamp(0, 1)
