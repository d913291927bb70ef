"""Pictures of shapes in looks composed by the batch, quickly, for training: half as large as `scene` draws them.

The same layers as `scene.paint` and `plain.paint` have, but laid once and put together by torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

from playground import draw as plain
from playground.judges.verdict import SIDE, halved, shape_names
from playground.world.shapes import SHAPES
from playground.world.styles import EDGES, lay, styles

CANVAS = 80  # pixels, each of two of a picture: room to turn and shift what is cut out
OUTLINE = len(EDGES)  # the code of the plain looks' texture that is an edge


@dataclass(frozen=True)
class Layers:
    """What looks are made of, one row a look; colours of 0 to 255.

    Attributes:
        fill, ground: (looks, 3, CANVAS, CANVAS).
        edge, colour: (looks,), which of `EDGES`, or `OUTLINE`, and (looks, 3).
        grain, dark: (looks,), of the textures.
        style, tint, backdrop: (looks,), where names stand in their lists; behind the styles all plain looks are one.
    """

    fill: Tensor
    ground: Tensor
    edge: Tensor
    colour: Tensor
    grain: Tensor
    dark: Tensor
    style: Tensor
    tint: Tensor
    backdrop: Tensor


@cache
def layers() -> Layers:
    """Of every style, then of every plain look with each texture."""
    rows = [*_of_styles(), *_of_plain()]
    fill = torch.stack([halved(row[0][None])[0] for row in rows])
    ground = torch.stack([halved(row[1][None])[0] for row in rows])
    numbers = [torch.tensor([row[2][at] for row in rows]) for at in range(6)]
    colour = torch.tensor([row[3] for row in rows]).float()
    return Layers(fill, ground, numbers[0], colour, *numbers[1:])


Row = tuple[plain.Array, plain.Array, tuple[int, int, int, int, int, int], tuple[int, int, int]]


def _of_styles() -> list[Row]:
    size, centre = 2 * CANVAS, (CANVAS, CANVAS)
    return [
        (lay(one.fill, size, centre), lay(one.ground, size, centre),
         (EDGES.index(one.edge), int(one.texture == "grain"), int(one.texture == "dark_corners"), number, 0, 0),
         one.edge_colour)
        for number, one in enumerate(styles().values())
    ]  # fmt: skip


def _of_plain() -> list[Row]:
    size = 2 * CANVAS
    flat = np.ones((size, size, 3))
    rows = []
    for (tint, texture), (backdrop, ground) in product(
        product(plain.COLOURS, plain.TEXTURES), enumerate(plain.BACKGROUNDS.values())
    ):
        share = 0.6 * plain.pattern(texture, (CANVAS, CANVAS), size)
        fill = plain.mix(flat * plain.COLOURS[tint], (255, 255, 255), share)
        codes = (OUTLINE if texture == "outline" else 0, 0, 0, len(styles()), list(plain.COLOURS).index(tint), backdrop)
        rows.append((fill, flat * ground, codes, plain.COLOURS[tint]))
    return rows


@cache
def fields() -> Tensor:
    """To every shape's edge, (shapes, CANVAS, CANVAS), in pixels of a picture of 128, for a radius of 42."""
    pixels = (np.arange(CANVAS) + 0.5) * 2 - CANVAS
    at = np.meshgrid(pixels / 42, pixels / 42)
    return torch.from_numpy(np.stack([SHAPES[name](*at) * 42 for name in shape_names()])).float()


def compose(distance: Tensor, look: Tensor, random: torch.Generator, ground: Tensor | None = None) -> Tensor:
    """Pictures (n, 3, CANVAS, CANVAS) of distances (n, CANVAS, CANVAS) in looks (n,).

    Args:
        ground: (n,), looks whose ground stands in for that of `look`.
    """
    table = layers()
    picture, fill = table.ground[look if ground is None else ground], table.fill[look]
    edge, colour = table.edge[look, None, None], table.colour[look, :, None, None].expand_as(fill)
    shadow = _cover(distance.roll((4, 4), (1, 2))) * (edge == EDGES.index("shadow"))
    picture = torch.lerp(picture, colour, shadow[:, None])
    picture = torch.lerp(picture, fill, (_cover(distance) * (edge != OUTLINE))[:, None])
    picture = torch.lerp(picture, colour, _edges(distance, edge)[:, None])
    grain = (
        torch.randn(len(look), 1, CANVAS // 2, CANVAS // 2, generator=random)
        .repeat_interleave(2, 2)
        .repeat_interleave(2, 3)
    )
    picture = picture + 14 * grain * table.grain[look, None, None, None]
    return picture * torch.where(table.dark[look, None, None] > 0, _corners(), torch.ones(()))[:, None]


def _cover(distance: Tensor) -> Tensor:
    """Of pixels that are two wide."""
    return (0.5 - distance / 2).clamp(0, 1)


def _edges(distance: Tensor, edge: Tensor) -> Tensor:
    """As `styles.edge_cover` and the plain outline have them."""
    along = distance.abs()
    covers = {
        "line": _cover(along - 2),
        "thick": _cover(along - 4.5),
        "double": torch.maximum(_cover(along - 1.8), _cover((distance - 8).abs() - 1.8)),
        "glow": 0.85 * torch.exp(-distance.clamp_min(0) / 7) * (distance > 0),
    }
    cover = _cover((distance + 3.5).abs() - 3.5) * (edge == OUTLINE)
    for kind, own in covers.items():
        cover = cover + own * (edge == EDGES.index(kind))
    return cover


@cache
def _corners() -> Tensor:
    line = ((torch.arange(CANVAS) + 0.5) - CANVAS / 2) / (SIDE / 2)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return (1.15 - 0.5 * (x * x + y * y)).clamp_min(0.15)
