"""Shapes as signed distances to their edge, negative inside, in units of a shape's radius; y points down.

Fields are joined by ``|``, cut by ``-`` and crossed by ``&``: minimum, maximum with the opposite, and maximum of the
two distances, exact on the edge and a bound elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Point = tuple[float, float]


@dataclass(frozen=True)
class Field:
    """The distance of every place, ``at(x, y)``, to an edge."""

    at: Callable[[Array, Array], Array]

    def __call__(self, x: Array, y: Array) -> Array:
        return self.at(x, y)

    def __or__(self, other: Field) -> Field:
        return Field(lambda x, y: np.minimum(self(x, y), other(x, y)))

    def __sub__(self, other: Field) -> Field:
        return Field(lambda x, y: np.maximum(self(x, y), -other(x, y)))

    def __and__(self, other: Field) -> Field:
        return Field(lambda x, y: np.maximum(self(x, y), other(x, y)))

    def moved(self, dx: float, dy: float) -> Field:
        """The same elsewhere."""
        return Field(lambda x, y: self(x - dx, y - dy))

    def turned(self, degrees: float) -> Field:
        """The same turned about the origin, clockwise as it is seen."""
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return Field(lambda x, y: self(c * x + s * y, -s * x + c * y))

    def mirrored(self) -> Field:
        """The right half on both sides."""
        return Field(lambda x, y: self(np.abs(x), y))

    def grown(self, by: float) -> Field:
        """The same, its edge moved outwards."""
        return Field(lambda x, y: self(x, y) - by)


def disc(x: float, y: float, radius: float) -> Field:
    """A disc around a place."""
    return Field(lambda px, py: np.hypot(px - x, py - y) - radius)


def ring(x: float, y: float, radius: float, half: float) -> Field:
    """A circle drawn `half` wide to each side."""
    return Field(lambda px, py: np.abs(np.hypot(px - x, py - y) - radius) - half)


def oval(x: float, y: float, rx: float, ry: float) -> Field:
    """An ellipse; the distance is that of its level set, divided by its slope."""

    def at(px: Array, py: Array) -> Array:
        u, v = (px - x) / rx, (py - y) / ry
        level = np.hypot(u, v)
        return np.asarray(level * (level - 1) / np.maximum(np.hypot(u / rx, v / ry), 1e-9))

    return Field(at)


def box(left: float, top: float, right: float, bottom: float) -> Field:
    """A rectangle between two corners."""
    cx, cy, rx, ry = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2

    def at(px: Array, py: Array) -> Array:
        u, v = np.abs(px - cx) - rx, np.abs(py - cy) - ry
        return np.hypot(np.maximum(u, 0), np.maximum(v, 0)) + np.minimum(np.maximum(u, v), 0)

    return Field(at)


def polygon(points: Array | list[Point]) -> Field:
    """A polygon of corners (n, 2)."""
    corners = np.asarray(points, dtype=np.float64)

    def at(x: Array, y: Array) -> Array:
        nearest = np.full(x.shape, np.inf)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            nearest = np.minimum(nearest, _to_segment(x, y, (ax, ay), (bx, by)))
            if ay != by:
                inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
        return np.where(inside, -nearest, nearest)

    return Field(at)


def stroke(points: list[Point], half: float) -> Field:
    """A line through places, drawn `half` wide to each side, with round ends."""
    return Field(lambda x, y: np.minimum.reduce([_to_segment(x, y, a, b) for a, b in pairwise(points)]) - half)


def arc(x: float, y: float, radius: float, start: float, end: float, half: float) -> Field:
    """A part of a circle as a stroke; degrees run clockwise from the right."""
    turns = np.radians(np.linspace(start, end, 24))
    return stroke([(x + radius * float(np.cos(t)), y + radius * float(np.sin(t))) for t in turns], half)


def regular(corners: int, inner: float | None = None) -> Field:
    """A regular polygon, or a star when `inner` gives its inner radius; one corner points up."""
    count = corners * (2 if inner else 1)
    angles = np.arange(count) * 2 * np.pi / count - np.pi / 2
    radii = np.where(np.arange(count) % 2, inner or 1.0, 1.0)
    return polygon(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))


def petals(count: int, distance: float, radius: float) -> Field:
    """Discs around a middle, the first on top."""
    field = disc(0, -distance, radius)
    for index in range(1, count):
        field |= disc(0, -distance, radius).turned(360 * index / count)
    return field


def _to_segment(x: Array, y: Array, a: Point, b: Point) -> Array:
    ex, ey = b[0] - a[0], b[1] - a[1]
    along = np.clip(((x - a[0]) * ex + (y - a[1]) * ey) / max(ex * ex + ey * ey, 1e-12), 0, 1)
    return np.asarray(np.hypot(x - a[0] - along * ex, y - a[1] - along * ey))
