"""What a judge says of a picture, and when it had better say nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from playground import draw as plain
from playground.world.scene import Look
from playground.world.shapes import SHAPES
from playground.world.styles import styles

LIMITS = Path(__file__).with_name("limits.json")
WEIGHTS = Path(__file__).parents[1] / "weights"
SIDE = 64  # pixels of a picture as judges look at it, of two each way
UNCLEAR = Look()
CPU = torch.device("cpu")

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


@dataclass(frozen=True)
class Judge:
    """Sees shapes and looks in pictures (n, 128, 128, 3).

    Attributes:
        limits: from when on it is believed; by default as `calibrate` wrote them.
        device: where it computes.
    """

    name: ClassVar[str]  # by which reports call it
    at_once: ClassVar[dict[str, int]]  # pictures, by the kind of device

    limits: Limits | None = None
    device: torch.device = CPU

    def __call__(self, pictures: Pictures) -> list[Verdict]:
        """Judge them."""
        return self.limited(self.guesses(pictures))

    def limited(self, guesses: list[Verdict]) -> list[Verdict]:
        """Verdicts of first candidates: these, where they are clear."""
        limits = self.limits or limits_of(self.name)
        return [limits.applied(guess) for guess in guesses]

    def guesses(self, pictures: Pictures) -> list[Verdict]:
        """The first candidates, however unclear."""
        count = self.at_once[self.device.type]
        parts = (pictures[start : start + count] for start in range(0, len(pictures), count))
        return [verdict for part in parts for verdict in self._few(halved(part).to(self.device))]

    def _few(self, pictures: Tensor) -> list[Verdict]:
        """First candidates of pictures (n, 3, SIDE, SIDE) of 0 to 255."""
        raise NotImplementedError


def halved(pictures: NDArray[Any]) -> Tensor:
    """Pictures (n, 2 h, 2 w, 3) as judges look at them: (n, 3, h, w) of 0 to 255."""
    return F.avg_pool2d(torch.from_numpy(pictures).permute(0, 3, 1, 2).float(), 2)


def verdicts(candidates: tuple[Tensor, Tensor, Tensor, Tensor]) -> list[Verdict]:
    """Of the rows of shapes and of looks that stand first, each (n,), and of how far these are ahead."""
    rows = zip(*(each.tolist() for each in candidates), strict=True)
    return [Verdict(shape_names()[s], look_names()[k], a, b) for s, k, a, b in rows]


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
