"""Which shape's mask the colours of a picture follow, without a look in mind.

A picture's pixels are sorted into a few colours of its own. Where a shape is drawn, its mask ``T`` is determined by
the colour ``C``: ``H(T | C) / H(T)``, the share of the mask's entropy that colours leave open, is near zero. It is one
for a mask that colours know nothing of. The least of it over places, sizes and edges is a shape's score.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from playground.judges.verdict import SIDE, shape_names
from playground.world.shapes import SHAPES

COARSE = 32
COLOURS, ROUNDS = 8, 5  # clusters, and steps to find them
RADII = (36.0, 38.0, 40.0, 42.0, 44.0, 46.0, 48.0)  # of shapes, in pixels of the picture
FIRST = (1, 3, 5)  # of the radii, for the first look
BEST = 6  # shapes that are looked at closely
GROWN = (0.0, 2.5, 4.5)  # how far an edge may reach out
CAST = (4, 4)  # where a shadow falls, in pixels of SIDE


@dataclass(frozen=True)
class Found:
    """What was found in pictures.

    Attributes:
        left: (n, shapes), what is left open of each shape's mask at its best, 0 to 1.
        shape: (n,), the best. distance: (n, SIDE, SIDE), to its edge in pixels of the picture.
    """

    left: Tensor
    shape: Tensor
    distance: Tensor


def find(pictures: Tensor) -> Found:
    """Compare all masks with pictures (n, 3, SIDE, SIDE) of 0 to 255."""
    parts = by_colour(pictures)
    left, radius, shift = _first_look(parts)
    return _closely(parts, left, radius, shift)


def by_colour(pictures: Tensor) -> Tensor:
    """Which of its own colours every pixel has: (n, COLOURS, SIDE, SIDE), one of them 1."""
    pixels = pictures.flatten(2).transpose(1, 2)
    some = pictures[:, :, ::2, ::2].flatten(2).transpose(1, 2)
    centres = _apart(some)
    for _ in range(ROUNDS):
        own = F.one_hot(torch.cdist(some, centres).argmin(2), COLOURS).float()
        count = own.sum(1)[..., None]
        centres = torch.where(count > 0, own.transpose(1, 2) @ some / count.clamp_min(1), centres)
    own = F.one_hot(torch.cdist(pixels, centres).argmin(2), COLOURS).float()
    return own.transpose(1, 2).reshape(-1, COLOURS, SIDE, SIDE)


def _apart(pixels: Tensor) -> Tensor:
    """The first pixel, and those farthest from all before: (n, COLOURS, 3)."""
    chosen = [pixels[:, 0]]
    nearest = torch.full(pixels.shape[:2], torch.inf, device=pixels.device)
    rows = torch.arange(len(pixels), device=pixels.device)
    for _ in range(COLOURS - 1):
        nearest = torch.minimum(nearest, (pixels - chosen[-1][:, None]).square().sum(2))
        chosen.append(pixels[rows, nearest.argmax(1)])
    return torch.stack(chosen, dim=1)


def open_share(masks: Tensor, parts: Tensor) -> Tensor:
    """``H(T | C) / H(T)`` of masks (..., m, pixels) by parts (..., k, pixels), one of them 1: (..., m)."""
    pixels = parts.shape[-1]
    inside = masks @ parts.transpose(-1, -2) / pixels  # (..., m, k)
    whole = parts.mean(-1)[..., None, :]
    given = (whole * _entropy(inside / whole.clamp_min(1e-9))).sum(-1)
    return given / _entropy(masks.mean(-1)).clamp_min(1e-6)


def _entropy(p: Tensor) -> Tensor:
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log())


@cache
def _distances(device: torch.device) -> Tensor:
    """To every shape's edge at every radius: (shapes, radii, SIDE, SIDE), in pixels of the picture."""
    pixels = (np.arange(SIDE) + 0.5) * 128 / SIDE - 64
    made = [
        [SHAPES[name](*np.meshgrid(pixels / radius, pixels / radius)) * radius for radius in RADII]
        for name in shape_names()
    ]
    return torch.from_numpy(np.array(made)).float().to(device)


def _cover(distance: Tensor, grown: float = 0.0) -> Tensor:
    return (0.5 - (distance - grown) * SIDE / 128).clamp(0, 1)


SHIFTS = ((0, 0), (-2, 0), (2, 0), (0, -2), (0, 2))  # down and right, in pixels of SIDE
NEAR = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))


@cache
def _coarse_masks(device: torch.device) -> Tensor:
    """(shapes * radii * shifts, COARSE * COARSE), an edge half out."""
    covers = _cover(_distances(device)[:, list(FIRST)], 1.0)
    moved = torch.stack([covers.roll(shift, (2, 3)) for shift in SHIFTS], dim=2)
    return F.avg_pool2d(moved.flatten(0, 2)[:, None], SIDE // COARSE).flatten(1)


def _first_look(parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is left of each shape (n, shapes), and at which radius and shift (n, shapes) it is least."""
    coarse = F.avg_pool2d(parts, SIDE // COARSE).flatten(2)
    left = open_share(_coarse_masks(parts.device), coarse).unflatten(1, (len(shape_names()), -1))
    least, where = left.min(2)
    return least, where // len(SHIFTS), where % len(SHIFTS)


def _closely(parts: Tensor, left: Tensor, radius: Tensor, shift: Tensor) -> Found:
    """Look again at the best few shapes, at finer places and sizes and with all edges."""
    chosen = left.topk(BEST, largest=False).indices  # (n, BEST)
    rows = torch.arange(len(parts), device=parts.device)
    middle = torch.tensor(FIRST, device=parts.device)[radius.gather(1, chosen)]
    at = shift.gather(1, chosen)
    back = torch.stack([parts.roll((-dy, -dx), (2, 3)) for dy, dx in SHIFTS], dim=1)  # (n, SHIFTS, k, SIDE, SIDE)
    exact, fields = _refined(back[rows[:, None], at], chosen, middle)
    best = exact.argmin(1)
    distance = fields[rows, best]
    moved = torch.stack([distance.roll(shift, (1, 2)) for shift in SHIFTS], dim=1)
    # What was not looked at again cannot be better than what was.
    left = torch.maximum(left, exact.max(1, keepdim=True).values).scatter(1, chosen, exact)
    return Found(left, left.argmin(1), moved[rows, at[rows, best]])


def _refined(parts: Tensor, shapes: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
    """The least that is left of shapes (n, m) near radii, of parts (n, m, k, SIDE, SIDE): (n, m).

    And the distances to the edges there, (n, m, SIDE, SIDE).
    """
    near = torch.arange(-1, 2, device=parts.device)
    fields = _distances(parts.device)[shapes[..., None], middle[..., None] + near].flatten(
        0, 1
    )  # (n * m, 3, SIDE, SIDE)
    edges = [_cover(fields, grown) for grown in GROWN]
    masks = torch.cat([*edges, _cover(torch.minimum(fields, fields.roll(CAST, (2, 3))))], dim=1)
    moved = torch.stack([parts.flatten(0, 1).roll((-dy, -dx), (2, 3)) for dy, dx in NEAR], dim=1)
    left = open_share(masks.flatten(2)[:, None], moved.flatten(3)).flatten(1)  # (n * m, shifts * masks)
    least, at = left.min(1)
    rows = torch.arange(len(left), device=left.device)
    own = fields[rows, at % masks.shape[1] % fields.shape[1]]
    rolled = torch.stack([own.roll(step, (1, 2)) for step in NEAR], dim=1)[rows, at // masks.shape[1]]
    return least.unflatten(0, shapes.shape), rolled.unflatten(0, shapes.shape)
