"""What pictures are compared by where no image encoder is connected: their edges, and their colours. A rough measure.

Of each picture one unit vector, in float64, so that two of them are compared by their product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_SIDE = 128  # pixels that a picture is looked at
_CELLS, _ANGLES = 8, 4  # of the grid of edges, on a side; directions of an edge
_FAINT = 0.01  # of a picture without edges, which is like another one without
_LEVELS = 4  # of each colour channel
_STEEPEST, _STEEPNESSES = 0.5, 8  # differences of neighbours in the histogram of edges


def layout(picture: Tensor) -> Tensor:
    """(257,): where a grey picture has edges, and in which direction they run.

    In each cell of a grid of 8 x 8, the mean steepness of the edges of each of 4 directions, less the mean over the
    grid, so that what is the same everywhere counts for nothing; beside it a constant.

    Args:
        picture: (height, width, 3), 0 to 1.
    """
    across, down = _steps(picture)
    steep = (across.square() + down.square()).sqrt()
    turn = torch.atan2(down, across) / math.pi % 1 * _ANGLES  # of an edge both sides are alike
    shares = steep * _soft(turn, torch.arange(_ANGLES), period=_ANGLES)  # (angles, side, side)
    cells = F.adaptive_avg_pool2d(shares, _CELLS)
    cells = cells - cells.mean((1, 2), keepdim=True)
    return _unit(torch.cat([cells.flatten(), torch.tensor([_FAINT], dtype=cells.dtype)]))


def look(picture: Tensor) -> Tensor:
    """(72,): how often each of 4 x 4 x 4 colours is there, and how often edges are so steep, wherever they are.

    Shares that fall softly between two steps; their square roots, so that the product of two pictures is the affinity
    (Bhattacharyya's) of what is spread in them.

    Args:
        picture: (height, width, 3), 0 to 1.
    """
    red, green, blue = (_soft(channel * (_LEVELS - 1), torch.arange(_LEVELS)).flatten(1) for channel in _small(picture))
    colours = torch.einsum("rn,gn,bn->rgb", red, green, blue).flatten()
    across, down = _steps(picture)
    steep = ((across.square() + down.square()).sqrt() / _STEEPEST).clamp(max=1) * (_STEEPNESSES - 1)
    edges = _soft(steep, torch.arange(_STEEPNESSES)).flatten(1).sum(1)
    return _unit(torch.cat([(shares / shares.sum()).sqrt() for shares in (colours, edges)]))


def whole(picture: Tensor) -> Tensor:
    """(329,): both."""
    return torch.cat([layout(picture), look(picture)]) / math.sqrt(2)


def _small(picture: Tensor) -> Tensor:
    """(3, side, side)."""
    return F.adaptive_avg_pool2d(picture.double().movedim(-1, 0), _SIDE)


def _steps(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours in grey, across and down, both (side - 1, side - 1)."""
    grey = _small(picture).mean(0)
    return grey[:-1, 1:] - grey[:-1, :-1], grey[1:, :-1] - grey[:-1, :-1]


def _soft(values: Tensor, places: Tensor, period: int | None = None) -> Tensor:
    """(places, ...): how near each value is to each place: 1 at it, 0 from the next one on."""
    away = (values - places.view(-1, *[1] * values.ndim)).abs()
    if period is not None:
        away = torch.minimum(away, period - away)
    return (1 - away).clamp(min=0)


def _unit(vector: Tensor) -> Tensor:
    return F.normalize(vector, dim=0)
