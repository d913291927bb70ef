"""The styles of the world: how a shape, whatever it is, is filled, edged and grounded, by the word in their captions.

A style is a row of `styles.json`, drawn once by `python -m playground.world.styles` and kept since: a fill, an edge, a
ground, each of one kind with its colours, and a texture over all.
"""

from __future__ import annotations

import json
from colorsys import hls_to_rgb
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playground.world.fields import Array

TABLE = Path(__file__).with_name("styles.json")

Colour = tuple[int, int, int]

PATTERNS = (
    "flat", "fade_down", "fade_right", "fade_out", "stripes", "bars", "bands", "dots", "checks", "rings", "waves",
    "mesh",
)  # fmt: skip
EDGES = ("none", "line", "thick", "double", "glow", "shadow")
TEXTURES = ("none", "grain", "dark_corners")

NAMES = [
    "amber", "aurora", "autumn", "bamboo", "basalt", "batik", "beacon", "blizzard", "blueprint", "bronze",
    "bubblegum", "cabaret", "candy", "canyon", "carbon", "carnival", "chalk", "charcoal", "cinema", "citrus",
    "cobalt", "comic", "copper", "coral", "cosmic", "cotton", "crayon", "crystal", "cyber", "dawn", "deco", "denim",
    "desert", "disco", "domino", "dusk", "ember", "enamel", "felt", "festival", "fjord", "fresco", "frost",
    "galaxy", "garnet", "glacier", "graphite", "gravel", "harbour", "haze", "honey", "indigo", "ink", "iris",
    "ivory", "jade", "jazz", "jungle", "kimono", "lagoon", "lava", "lavender", "lemonade", "lilac", "linen",
    "lunar", "magma", "mango", "maple", "marble", "meadow", "midnight", "mint", "mocha", "monsoon", "mosaic",
    "moss", "nautical", "nebula", "nickel", "noir", "ochre", "olive", "onyx", "opal", "orchid", "origami",
    "paprika", "parchment", "pastel", "pebble", "pepper", "petrol", "plasma", "polar", "porcelain", "poster",
    "prairie", "quartz", "radar", "raven", "retro", "ruby", "rustic", "saffron", "sapphire", "savanna", "sepia",
    "sherbet", "slate", "solar", "stencil", "storm", "sundown", "tartan", "teal", "thunder", "tropical", "tundra",
    "twilight", "velvet", "vintage",
]  # fmt: skip


@dataclass(frozen=True)
class Pattern:
    """Two colours and how they are laid out; `period` in pixels, for those that repeat."""

    kind: str
    first: Colour
    second: Colour
    period: int = 16


@dataclass(frozen=True)
class Style:
    """How a shape is drawn.

    Attributes:
        fill: within the shape. ground: around it. edge: one of `EDGES`, in `edge_colour`. texture: one of `TEXTURES`.
    """

    name: str
    fill: Pattern
    ground: Pattern
    edge: str
    edge_colour: Colour
    texture: str


def lay(pattern: Pattern, size: int, centre: tuple[float, float]) -> Array:
    """The pattern over a whole picture (size, size, 3) of 0 to 255; it moves with the centre."""
    share = _share(pattern.kind, pattern.period, size, centre)[..., None]
    return (
        np.asarray(pattern.first, dtype=np.float64) * (1 - share) + np.asarray(pattern.second, dtype=np.float64) * share
    )


def _share(kind: str, period: int, size: int, centre: tuple[float, float]) -> Array:
    """How much of the second colour stands in each place, 0 to 1."""
    pixels = np.arange(size) + 0.5
    x, y = np.meshgrid(pixels - centre[0], pixels - centre[1])
    half = period / 2
    if kind == "fade_down":
        return _between(0.5 + y / 90)
    if kind == "fade_right":
        return _between(0.5 + x / 90)
    if kind == "fade_out":
        return _between(np.hypot(x, y) / 60)
    if kind == "dots":
        return _inside(np.hypot((x + half) % period - half, (y + half) % period - half) - 0.3 * period)
    if kind == "checks":
        a, b = _half(x, period), _half(y, period)
        return a * (1 - b) + b * (1 - a)
    if kind == "mesh":
        return np.maximum(_inside(_to_line(x, period) - 2), _inside(_to_line(y, period) - 2))
    along = {
        "stripes": (x + y) / np.sqrt(2), "bars": x, "bands": y, "rings": np.hypot(x, y), "waves": y + 5 * np.sin(x / 8),
    }  # fmt: skip
    return _half(along[kind], period) if kind in along else np.zeros((size, size))


def edge_cover(kind: str, distance: Array) -> Array:
    """How much of the edge's colour stands at a distance to the edge in pixels, 0 to 1."""
    if kind == "line":
        return _inside(np.abs(distance) - 2)
    if kind == "thick":
        return _inside(np.abs(distance) - 4.5)
    if kind == "double":
        return np.maximum(_inside(np.abs(distance) - 1.8), _inside(np.abs(distance - 8) - 1.8))
    if kind == "glow":
        return np.where(distance > 0, 0.85 * np.exp(-np.maximum(distance, 0) / 7), 0)
    return np.zeros_like(distance)


def textured(picture: Array, kind: str, rng: np.random.Generator) -> Array:
    """A picture (size, size, 3) with a style's texture laid over it."""
    size = len(picture)
    if kind == "grain":
        coarse = rng.normal(0, 14, (size // 4, size // 4))
        return picture + np.kron(coarse, np.ones((4, 4)))[..., None]
    if kind == "dark_corners":
        pixels = (np.arange(size) + 0.5) / size * 2 - 1
        x, y = np.meshgrid(pixels, pixels)
        return picture * np.clip(1.15 - 0.5 * (x * x + y * y), 0.15, 1)[..., None]
    return picture


def _between(share: Array) -> Array:
    return np.asarray(np.clip(share, 0, 1))


def _inside(distance: Array) -> Array:
    return _between(0.5 - distance)


def _to_line(along: Array, period: float) -> Array:
    return np.abs((along + period / 2) % period - period / 2)


def _half(along: Array, period: float) -> Array:
    return _inside(_to_line(along, period) - period / 4)


@cache
def styles() -> dict[str, Style]:
    """All styles by name, as the table has them."""
    return {row["name"]: _style(row) for row in json.loads(TABLE.read_text("utf-8"))}


def _style(row: dict[str, Any]) -> Style:
    patterns = {
        part: Pattern(row[part]["kind"], tuple(row[part]["first"]), tuple(row[part]["second"]), row[part]["period"])
        for part in ("fill", "ground")
    }
    return Style(**{**row, **patterns, "edge_colour": tuple(row["edge_colour"])})


def draw_table(seed: int = 0) -> list[Style]:
    """A style for every name: fill and ground share no colour, and no two styles are alike in kinds and colours."""
    rng = np.random.default_rng(seed)
    table: list[Style] = []
    for name in NAMES:
        style = _candidate(name, rng)
        while not _tells_apart(style) or any(_alike(style, other) for other in table):
            style = _candidate(name, rng)
        table.append(style)
    return table


def _candidate(name: str, rng: np.random.Generator) -> Style:
    """A dark or a pale ground, a fill of another hue, each with a second colour near it, and an edge between."""
    hue, dark = float(rng.uniform()), bool(rng.uniform() < 0.5)
    ground_light, fill_light = (0.2, 0.6) if dark else (0.8, 0.45)
    inner = (hue + float(rng.uniform(0.2, 0.8))) % 1
    fill = _pattern(rng, PATTERNS, (12, 20), inner, fill_light)
    ground = _pattern(rng, PATTERNS, (16, 28), hue, ground_light)
    edge, texture = str(rng.choice(EDGES)), str(rng.choice(TEXTURES, p=(0.6, 0.2, 0.2)))
    return Style(name, fill, ground, edge, _colour(rng, float(rng.uniform()), 0.85 if dark else 0.15), texture)


def _pattern(
    rng: np.random.Generator, kinds: tuple[str, ...], periods: tuple[int, ...], hue: float, light: float
) -> Pattern:
    first = _colour(rng, hue, light)
    second = _colour(rng, hue + float(rng.normal(0, 0.09)), light + float(rng.choice((-0.2, 0.2))))
    return Pattern(str(rng.choice(kinds)), first, second, int(rng.choice(periods)))


def _colour(rng: np.random.Generator, hue: float, light: float) -> Colour:
    spread = light + float(rng.normal(0, 0.05))
    rgb = hls_to_rgb(hue % 1, min(max(spread, 0.06), 0.94), float(rng.uniform(0.45, 0.95)))
    red, green, blue = (round(255 * value) for value in rgb)
    return red, green, blue


def _tells_apart(style: Style) -> bool:
    """The shape is seen: no colour of the fill is one of the ground; a pattern is seen, and so is an edge."""
    inner, outer = _colours(style.fill), _colours(style.ground)
    edge_shown = style.edge == "none" or min(_apart(style.edge_colour, c) for c in outer) > 90
    return (
        min(_apart(a, b) for a in inner for b in outer) > 110
        and all(_apart(p.first, p.second) > 60 for p in (style.fill, style.ground))
        and edge_shown
    )


def _alike(a: Style, b: Style) -> bool:
    kinds = (a.fill.kind == b.fill.kind) + (a.ground.kind == b.ground.kind) + (a.edge == b.edge)
    return _palette(a, b) < (120 if kinds >= 2 else 50)


def _palette(a: Style, b: Style) -> float:
    """The larger of the distances of the mean fills and of the mean grounds."""
    pairs = ((a.fill, b.fill), (a.ground, b.ground))
    means = [(np.mean(_colours(x), axis=0), np.mean(_colours(y), axis=0)) for x, y in pairs]
    return float(max(np.linalg.norm(x - y) for x, y in means))


def _colours(pattern: Pattern) -> list[Colour]:
    return [pattern.first] if pattern.kind == "flat" else [pattern.first, pattern.second]


def _apart(a: Colour, b: Colour) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def as_bytes(picture: Array) -> NDArray[np.uint8]:
    """Rounded to bytes."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    rows = ",\n".join(json.dumps(asdict(style)) for style in draw_table())
    TABLE.write_text(f"[\n{rows}\n]\n", "utf-8")
