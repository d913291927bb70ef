"""Pictures of coloured shapes with captions, drawn from signed distance fields.

Every shape is a function of the distance to its edge (negative inside), in pixels, so that anti-aliasing,
outlines and glows are one line each. The same scene and the same generator give the same picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SIZE = 128

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 45, 50),
    "orange": (250, 130, 20),
    "yellow": (250, 205, 30),
    "green": (50, 165, 75),
    "cyan": (40, 195, 215),
    "blue": (40, 90, 215),
    "purple": (130, 60, 190),
    "pink": (245, 110, 175),
}

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "": (250, 247, 240),
    "yellow": (253, 236, 160),
    "green": (190, 228, 185),
    "blue": (180, 208, 245),
    "purple": (214, 196, 238),
    "gray": (178, 182, 190),
    "dark": (34, 36, 56),
}

TEXTURES = ("", "stripes", "dots", "checks", "outline")


@dataclass(frozen=True)
class Scene:
    """What a picture shows: a shape, its colour, a texture and a background ("" is plain)."""

    colour: str
    shape: str
    texture: str = ""
    background: str = ""

    @property
    def caption(self) -> str:
        """The sentence that the model learns for this scene."""
        texture = f" with {'an' if self.texture == 'outline' else ''} {self.texture}" if self.texture else ""
        background = f" on a {self.background} background" if self.background else ""
        article = "an" if self.colour == "orange" else "a"
        return f"{article} {self.colour} {self.shape}{texture}{background}".replace("  ", " ")


def polygon(points: Array) -> Callable[[Array, Array], Array]:
    """Signed distance to a polygon of corners (n, 2) in units of the shape's radius."""

    def distance(x: Array, y: Array) -> Array:
        nearest = np.full(x.shape, np.inf)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
            ex, ey = bx - ax, by - ay
            t = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - ax - t * ex, y - ay - t * ey))
            if ay != by:
                inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
        return np.where(inside, -nearest, nearest)

    return distance


def regular(corners: int, inner: float | None = None) -> Callable[[Array, Array], Array]:
    """Signed distance to a regular polygon, or to a star when `inner` gives its inner radius."""
    count = corners * (2 if inner else 1)
    angles = np.arange(count) * 2 * np.pi / count - np.pi / 2
    radii = np.where(np.arange(count) % 2, inner or 1.0, 1.0)
    return polygon(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))


def heart() -> Callable[[Array, Array], Array]:
    """Signed distance to a heart traced as a polygon of its usual curve."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return polygon(np.stack([x, y - 2.5], axis=1) / 16.5)


def moon(x: Array, y: Array) -> Array:
    """Signed distance to a crescent: one disc less another."""
    return np.maximum(np.hypot(x + 0.1, y) - 1.0, 0.82 - np.hypot(x - 0.38, y + 0.12))


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.95,
    "square": polygon(np.array([[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]])),
    "triangle": polygon(np.array([[0, -1.0], [1.05, 0.85], [-1.05, 0.85]])),
    "star": regular(5, inner=0.45),
    "heart": heart(),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.7) - 0.28,
    "cross": polygon(
        np.array([[-1, -3], [1, -3], [1, -1], [3, -1], [3, 1], [1, 1], [1, 3], [-1, 3], [-1, 1], [-3, 1], [-3, -1],
                  [-1, -1]]) / 3.0
    ),
    "diamond": polygon(np.array([[0, -1.1], [0.78, 0], [0, 1.1], [-0.78, 0]])),
}  # fmt: skip

# Never drawn for the base model: they are what an adapter learns.
UNSEEN_SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "house": polygon(
        np.array([[-0.75, 0.95], [-0.75, -0.05], [-1.05, -0.05], [0, -1.05], [0.42, -0.65], [0.42, -0.95],
                  [0.68, -0.95], [0.68, -0.4], [1.05, -0.05], [0.75, -0.05], [0.75, 0.95], [0.25, 0.95], [0.25, 0.3],
                  [-0.25, 0.3], [-0.25, 0.95]])
    ),
    "moon": moon,
    "fish": lambda x, y: np.minimum(
        np.maximum(np.hypot(x + 0.25, y - 0.6) - 1.05, np.hypot(x + 0.25, y + 0.6) - 1.05),
        polygon(np.array([[0.4, 0.0], [1.05, -0.62], [0.85, 0.0], [1.05, 0.62]]))(x, y),
    ),
}  # fmt: skip


def distance_field(shape: str, *, centre: tuple[float, float] = (SIZE / 2, SIZE / 2), radius: float = 42.0,
                   size: int = SIZE) -> Array:  # fmt: skip
    """Signed distance in pixels of every pixel centre to the shape's edge, (size, size)."""
    pixels = np.arange(size) + 0.5
    x, y = np.meshgrid((pixels - centre[0]) / radius, (pixels - centre[1]) / radius)
    return {**SHAPES, **UNSEEN_SHAPES}[shape](x, y) * radius


def coverage(distance: Array) -> Array:
    """How much of a pixel lies inside an edge at this distance, 0 to 1: the anti-aliasing."""
    return np.clip(0.5 - distance, 0, 1)


def pattern(texture: str, centre: tuple[float, float], size: int = SIZE) -> Array:
    """Where a texture lightens the fill, (size, size) of 0 to 1; it moves with the shape."""
    pixels = np.arange(size) + 0.5
    x, y = np.meshgrid(pixels - centre[0], pixels - centre[1])
    if texture == "stripes":
        return coverage(np.abs((x + y) / np.sqrt(2) % 20 - 10) - 5)
    if texture == "dots":
        return coverage(np.hypot((x + 9) % 18 - 9, (y + 9) % 18 - 9) - 4.8)
    if texture == "checks":
        wave = np.abs((x % 32) - 16) - 8, np.abs((y % 32) - 16) - 8
        a, b = coverage(wave[0]), coverage(wave[1])
        return a * (1 - b) + b * (1 - a)
    return np.zeros((size, size))


def mix(below: Array, above: Array | tuple[int, int, int], alpha: Array) -> Array:
    """Lay a colour over a picture (size, size, 3) with the given coverage (size, size)."""
    return below + alpha[..., None] * (np.asarray(above, dtype=np.float64) - below)


def draw(scene: Scene, rng: np.random.Generator | None = None, size: int = SIZE) -> NDArray[np.uint8]:
    """Draw a scene, (size, size, 3); the generator jitters place and size, without one it is centred."""
    shift = rng.uniform(-4, 4, 2) if rng else np.zeros(2)
    radius = (rng.uniform(39, 45) if rng else 42.0) * size / SIZE
    centre = (size / 2 + shift[0], size / 2 + shift[1])
    return paint(scene, distance_field(scene.shape, centre=centre, radius=radius, size=size), centre)


def paint(scene: Scene, distance: Array, centre: tuple[float, float]) -> NDArray[np.uint8]:
    """The look of a scene on any distance to an edge (size, size)."""
    size = len(distance)
    colour = np.array(COLOURS[scene.colour], dtype=np.float64)
    picture = np.broadcast_to(np.array(BACKGROUNDS[scene.background], dtype=np.float64), (size, size, 3))
    if scene.texture == "outline":
        return to_bytes(mix(picture, colour, coverage(np.abs(distance + 3.5) - 3.5)))
    fill = mix(np.broadcast_to(colour, picture.shape), (255, 255, 255), 0.6 * pattern(scene.texture, centre, size))
    return to_bytes(mix(picture, fill, coverage(distance)))


def draw_sunset(shape: str, size: int = SIZE) -> NDArray[np.uint8]:
    """A shape lit from yellow to magenta before an evening sky: a style that the base model has never seen."""
    height = np.broadcast_to(np.linspace(0, 1, size)[:, None], (size, size))
    distance = distance_field(shape, size=size)
    sky = mix(np.broadcast_to(np.array((24.0, 16.0, 70.0)), (size, size, 3)), (150, 40, 120), height**1.5)
    sky = mix(sky, (255, 120, 90), 0.55 * np.exp(-np.maximum(distance, 0) / 10))
    top = np.broadcast_to(np.array((255.0, 225.0, 70.0)), sky.shape)
    light = mix(top, (245, 40, 130), np.clip(1.6 * height - 0.3, 0, 1))
    return to_bytes(mix(sky, light, coverage(distance)))


def draw_neon(shape: str, size: int = SIZE) -> NDArray[np.uint8]:
    """A shape as a glowing tube before the night: another style that the base model has never seen."""
    distance = np.abs(distance_field(shape, size=size))
    across = np.broadcast_to(np.linspace(0, 1, size)[None, :], (size, size))
    ground = np.broadcast_to(np.array((12.0, 10.0, 34.0)), (size, size, 3))
    colour = mix(np.broadcast_to(np.array((30.0, 235.0, 255.0)), ground.shape), (255, 60, 220), across)
    glow = mix(ground, colour, 0.75 * np.exp(-distance / 7))
    return to_bytes(mix(glow, mix(colour, (255, 255, 255), np.full_like(distance, 0.6)), coverage(distance - 2)))


def draw_any_style(rng: np.random.Generator, size: int = SIZE) -> NDArray[np.uint8]:
    """A known shape, filled or as a line, in random colours with a random glow: for the decoder alone."""
    shift, radius = rng.uniform(-8, 8, 2), rng.uniform(28, 48)
    centre = (size / 2 + shift[0], size / 2 + shift[1])
    distance = distance_field(rng.choice(list(SHAPES)), centre=centre, radius=radius)
    if rng.random() < 0.6:
        distance = np.abs(distance) - rng.uniform(1, 5)
    ground, glow, edge, fill = rng.uniform(0, 255, (4, 3))
    picture = np.broadcast_to(ground, (size, size, 3))
    picture = mix(picture, glow, rng.uniform(0, 0.9) * np.exp(-np.maximum(distance, 0) / rng.uniform(3, 14)))
    picture = mix(picture, edge, coverage(distance - rng.uniform(0, 4)))
    return to_bytes(mix(picture, fill, coverage(distance)))


def to_bytes(picture: Array) -> NDArray[np.uint8]:
    """Round a picture of 0 to 255 to bytes."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def example_pictures() -> dict[str, NDArray[np.uint8]]:
    """The two pictures of the example workflow: a content and a style, neither known to the base model."""
    return {"content.png": draw(Scene("orange", "house", background="dark")), "style.png": draw_sunset("circle")}


def all_scenes() -> list[Scene]:
    """Every scene that the captions can name, in a fixed order."""
    return [Scene(*names) for names in itertools.product(COLOURS, SHAPES, TEXTURES, BACKGROUNDS)]


def contact_sheet(pictures: list[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Lay pictures of one size out in rows."""
    blank = np.full_like(pictures[0], 255)
    pictures = pictures + [blank] * (-len(pictures) % columns)
    rows = [np.concatenate(pictures[i : i + columns], axis=1) for i in range(0, len(pictures), columns)]
    return np.concatenate(rows)


def save_png(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a picture (height, width, 3) as PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


if __name__ == "__main__":
    for name, picture in example_pictures().items():
        save_png(picture, Path(__file__).parents[1] / "example_workflows" / "assets" / name)
