"""Pictures of the world with their captions: a shape in a named style, or in a colour before a ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playground import draw as plain
from playground.world.fields import Array
from playground.world.shapes import SHAPES
from playground.world.styles import Style, as_bytes, edge_cover, lay, styles, textured

SIZE = 128
SHADOW = (7.0, 8.0)  # pixels right and down


@dataclass(frozen=True)
class Place:
    """Where a shape stands in its picture, in pixels."""

    x: float = SIZE / 2
    y: float = SIZE / 2
    radius: float = 42.0

    @classmethod
    def random(cls, rng: np.random.Generator) -> Place:
        """As pictures vary for training: 4 pixels about the middle, 39 to 45 of radius."""
        dx, dy = rng.uniform(-4, 4, 2)
        return cls(SIZE / 2 + float(dx), SIZE / 2 + float(dy), float(rng.uniform(39, 45)))


MIDDLE = Place()


def article(noun: str) -> str:
    """A noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@dataclass(frozen=True)
class Look:
    """How a shape looks: a named style, or a colour with a texture and a ground."""

    style: str = ""
    colour: str = ""
    texture: str = ""
    background: str = ""

    def caption(self, shape: str) -> str:
        """What tells the shape and its look."""
        if self.style:
            return f"{article(shape)} in {self.style} style"
        return plain.Scene(self.colour, shape, self.texture, self.background).caption


def bare_caption(shape: str) -> str:
    """What tells the shape and nothing of its look."""
    return article(shape)


def distance_to(shape: str, place: Place = MIDDLE, size: int = SIZE) -> Array:
    """Signed distance in pixels of every pixel's centre to the shape's edge, (size, size)."""
    pixels = np.arange(size) + 0.5
    x, y = np.meshgrid((pixels - place.x) / place.radius, (pixels - place.y) / place.radius)
    return SHAPES[shape](x, y) * place.radius


def draw(shape: str, look: Look, place: Place = MIDDLE, seed: int = 0) -> NDArray[np.uint8]:
    """A picture (SIZE, SIZE, 3); the seed is that of a texture's grain."""
    return draw_field(distance_to(shape, place), look, place, seed)


def draw_field(distance: Array, look: Look, place: Place = MIDDLE, seed: int = 0) -> NDArray[np.uint8]:
    """The same of any distance to an edge (SIZE, SIZE), as of a shape between two."""
    if look.style:
        return as_bytes(paint(distance, styles()[look.style], place, np.random.default_rng(seed)))
    scene = plain.Scene(look.colour, "", look.texture, look.background)
    return plain.paint(scene, distance, (place.x, place.y))


def paint(distance: Array, style: Style, place: Place, rng: np.random.Generator) -> Array:
    """A shape in a style, (SIZE, SIZE, 3) of 0 to 255, from ground to texture."""
    centre, edge = (place.x, place.y), np.asarray(style.edge_colour, dtype=np.float64)
    picture = lay(style.ground, SIZE, centre)
    if style.edge == "shadow":
        picture = plain.mix(picture, edge, plain.coverage(_shifted(distance)))
    picture = plain.mix(picture, lay(style.fill, SIZE, centre), plain.coverage(distance))
    picture = plain.mix(picture, edge, edge_cover(style.edge, distance))
    return textured(picture, style.texture, rng)


def _shifted(distance: Array) -> Array:
    return np.roll(distance, (int(SHADOW[1]), int(SHADOW[0])), axis=(0, 1))
