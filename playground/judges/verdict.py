"""What a judge says of a picture, and when it had better say nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from playground import draw as plain
from playground.world.scene import Look
from playground.world.shapes import SHAPES
from playground.world.styles import styles

LIMITS = Path(__file__).with_name("limits.json")
UNCLEAR = Look()

Pictures = NDArray[np.uint8]  # (n, 128, 128, 3)


@dataclass(frozen=True)
class Verdict:
    """The shape and the look that a judge sees; "" and ``Look()`` where it is unclear.

    Attributes:
        shape_margin, look_margin: 0 to 1, how far the first candidate is ahead of the second; what limits are set on.
    """

    shape: str
    look: Look
    shape_margin: float
    look_margin: float


@dataclass(frozen=True)
class Limits:
    """The margins from which on a judge is believed."""

    shape: float = 0.0
    look: float = 0.0

    def applied(self, verdict: Verdict) -> Verdict:
        """The verdict, less what is unclear in it."""
        shape = verdict.shape if verdict.shape_margin >= self.shape else ""
        look = verdict.look if verdict.look_margin >= self.look else UNCLEAR
        return replace(verdict, shape=shape, look=look)


class Judge(Protocol):
    """Sees shapes and looks in pictures."""

    @property
    def name(self) -> str:
        """By which reports call it."""

    def guesses(self, pictures: Pictures) -> list[Verdict]:
        """The first candidates, however unclear."""

    def __call__(self, pictures: Pictures) -> list[Verdict]:
        """The verdicts on pictures (n, 128, 128, 3)."""


def limits_of(name: str) -> Limits:
    """A judge's limits, as `calibrate` wrote them."""
    return Limits(**json.loads(LIMITS.read_text("utf-8"))[name])


@cache
def shape_names() -> tuple[str, ...]:
    """All shapes that a judge may see."""
    return tuple(SHAPES)


@cache
def look_names() -> tuple[Look, ...]:
    """All looks that a judge may see: the styles, and every colour before every ground."""
    grounds = [Look(colour=colour, background=ground) for colour in plain.COLOURS for ground in plain.BACKGROUNDS]
    return (*(Look(style=name) for name in styles()), *grounds)
