"""Pictures zoomed, shifted, tilted, flipped, seen through a window, cut into tiles: the look is all that they share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from .settings import Recipe

_SEAM = 4  # pixels on either side of a seam between tiles, which is no part of the style


@dataclass(frozen=True)
class Move:
    """Where each pixel comes from.

    Attributes:
        source: (height, width, 2) of x and y in units of `grid_sample`: -1 and 1 are the borders of the picture.
        seams: (1, 1, height, width), 0 where tiles meet and 1 elsewhere; None without tiles.
    """

    source: Tensor
    seams: Tensor | None

    def of(self, images: Tensor) -> Tensor:
        """(frames, channels, height, width) moved; each frame alike."""
        grid = self.source.expand(len(images), *self.source.shape)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def draw_move(height: int, width: int, recipe: Recipe, generator: torch.Generator) -> Move:
    """A move by chance, within what the recipe says.

    A pixel at p is taken from ``fold(A p + b)`` after the tiles are mixed: A turns by up to ``tilt``, scales by
    ``2^-u``, u within ``zoom``, and mirrors left and right with the chance ``flip``; b is within ``shift``. ``fold``
    mirrors at the borders of a window whose side is ``patch`` to 1 of the picture, so that a pattern keeps its size
    while the layout outside of the window is gone. Tiles, 1 to ``tiles`` on a side, are mixed by chance.
    """
    points = _points(height, width)
    count = int(torch.randint(1, recipe.tiles + 1, (), generator=generator))
    points, seams = _mixed_tiles(points, count, generator)
    return Move(_folded(_turned(points, recipe, generator), recipe.patch, generator), seams)


def _points(height: int, width: int) -> Tensor:
    """(height, width, 2) of the middle of every pixel."""
    y, x = ((2 * torch.arange(n) + 1) / n - 1 for n in (height, width))
    return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1)


def _turned(points: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    height, width = points.shape[:2]
    zoom, tilt, dx, dy = 2 * torch.rand(4, generator=generator) - 1
    flip = -1.0 if torch.rand((), generator=generator) < recipe.flip else 1.0
    angle, scale = torch.deg2rad(recipe.tilt * tilt), 2 ** -(recipe.zoom * zoom)
    aspect = width / height
    x, y = points[..., 0] * aspect, points[..., 1]  # in equal units, or a turn would shear
    turned = torch.stack([(x * angle.cos() - y * angle.sin()) / aspect, x * angle.sin() + y * angle.cos()], dim=-1)
    found: Tensor = scale * turned * torch.tensor([flip, 1.0]) + recipe.shift * torch.stack([dx, dy])
    return found


def _folded(points: Tensor, patch: float, generator: torch.Generator) -> Tensor:
    """Points mirrored at the borders of a window: the triangle wave with period twice its side."""
    share, x, y = torch.rand(3, generator=generator)
    side = 2 * (patch + (1 - patch) * share)
    start = -1 + (2 - side) * torch.stack([x, y])
    folded: Tensor = start + side - ((points - start) % (2 * side) - side).abs()
    return folded


def _mixed_tiles(points: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Tiles of equal size, ``count`` on a side, in another order; what is left over at the border stays."""
    order = torch.randperm(count * count, generator=generator)
    if count == 1:
        return points, None
    height, width = (size // count for size in points.shape[:2])
    inner = (slice(0, count * height), slice(0, count * width))
    tiles = rearrange(points[inner], "(r h) (c w) xy -> (r c) h w xy", r=count, c=count)
    mixed = points.clone()
    mixed[inner] = rearrange(tiles[order], "(r c) h w xy -> (r h) (c w) xy", r=count, c=count)
    return mixed, _seams(points.shape[0], points.shape[1], count)


def _seams(height: int, width: int, count: int) -> Tensor:
    """(1, 1, height, width), 0 within `_SEAM` pixels of where tiles meet."""
    rows, columns = (_away_from_borders(size, count) for size in (height, width))
    return (rows[:, None] & columns).float()[None, None]


def _away_from_borders(size: int, count: int) -> Tensor:
    borders = torch.arange(1, count + bool(size % count)) * (size // count)
    return ((torch.arange(size)[:, None] + 0.5 - borders).abs() > _SEAM).all(dim=1)
