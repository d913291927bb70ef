"""Numbers that tell how a picture looks, whatever shape it shows: colours and textures within, around and between.

All are in levels of 0 to 255, of a picture (3, SIDE, SIDE) and the distance to the edge of the shape in it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from playground.judges.masks import CAST
from playground.judges.verdict import SIDE

LAGS = ((0, 3), (3, 0), (2, 2), (2, -2), (0, 5), (5, 0), (4, 4), (4, -4))  # pixels of SIDE
LUMA = (0.3, 0.6, 0.1)
FLOOR = 6.0  # what colours may be off by and still be the same

# Weight of every place by the distance to the edge, in pixels of the picture.
BANDS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda d: torch.exp(-((d / 1.5) ** 2)),
    lambda d: torch.exp(-(((d - 4) / 1.5) ** 2)),
    lambda d: torch.exp(-(((d - 8) / 1.5) ** 2)),
)


def statistics(pictures: Tensor, distance: Tensor) -> Tensor:
    """(n, numbers), of pictures (n, 3, SIDE, SIDE) and distances (n, SIDE, SIDE)."""
    within = (((-2 - distance) / 3).clamp(0, 1) + 0.02) * (distance < 0)
    around = ((distance - 11) / 3).clamp(0, 1) + 1e-3
    fill, ground = _area(pictures, within), _area(pictures, around)
    cast = distance.roll(CAST, (1, 2))
    shadow = ((-1 - cast) / 3).clamp(0, 1) * ((distance - 3) / 2).clamp(0, 1) + 1e-3
    between = [_mean(pictures, band(distance) + 1e-3) for band in BANDS] + [_mean(pictures, shadow)]
    return torch.cat([fill, ground, *(colour - ground[:, :3] for colour in between)], dim=1)


def _area(pictures: Tensor, weight: Tensor) -> Tensor:
    """Of one area: its mean colour, the colours' spread, how they change by the place, and over short ways."""
    mean = _mean(pictures, weight)
    off = pictures - mean[..., None, None]
    spread = _mean(off.square(), weight).sqrt()
    luma = torch.einsum("nchw,c->nhw", off, torch.tensor(LUMA, device=off.device))[:, None]
    slopes = torch.cat([_mean(luma * ramp, weight) for ramp in _ramps(off.device)], dim=1)
    steps = [_steps(off, weight, lag) for lag in LAGS]
    return torch.cat([mean, spread, slopes, *steps], dim=1)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over places: (n, c)."""
    total = weight.sum((1, 2)).clamp_min(1e-6)
    return torch.einsum("nchw,nhw->nc", values, weight) / total[:, None]


def _steps(off: Tensor, weight: Tensor, lag: tuple[int, int]) -> Tensor:
    """Root mean square of the colours' differences between places `lag` apart, (n, 1)."""
    back = (-lag[0], -lag[1])
    change = (off - off.roll(back, (2, 3))).square().sum(1, keepdim=True)
    return _mean(change, weight * weight.roll(back, (1, 2)) + 1e-9).sqrt()


@cache
def _ramps(device: torch.device) -> Tensor:
    """From left to right, from top to bottom and from the middle outwards, (3, SIDE, SIDE), of -1 to 1."""
    line = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y, torch.hypot(x, y) - 0.77]).to(device) * 2
