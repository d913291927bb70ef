"""What single adapters are asked: their own half in other words, and pictures that they have nothing to do with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.evidence.measures import Asked, content_alone, plain, style_alone
from playground import draw as drawn
from playground.world.scene import Look
from playground.world.splits import Part, splits

EACH = 4  # pictures asked of every adapter, of either kind


@dataclass(frozen=True)
class Question:
    """One picture asked of one adapter: whether it keeps its half ("kept"), or leaves other pictures alone ("left")."""

    row: int
    kind: str
    is_style: bool
    asked: Asked


def questions(part: Part) -> list[Question]:
    """For every adapter of a part, contents first: as many of either kind, chosen by chance and always the same."""
    made: list[Question] = []
    for row, content in enumerate(part.contents):
        rng = np.random.default_rng((23, row))
        looks = [Look(style=str(style)) for style in rng.choice(splits().styles, EACH // 2, replace=False)]
        looks += [_other(content.look, rng) for _ in range(EACH - len(looks))]
        made += [Question(row, "kept", False, content_alone(content, look)) for look in looks]
        made += [Question(row, "left", False, _unrelated(rng)) for _ in range(EACH)]
    for number, style in enumerate(part.styles):
        rng, row = np.random.default_rng((29, number)), len(part.contents) + number
        shapes = [shape for shape in splits().shapes if shape != style.carrier]
        chosen = [str(shape) for shape in rng.choice(shapes, EACH, replace=False)]
        made += [Question(row, "kept", True, style_alone(style, shape)) for shape in chosen]
        made += [Question(row, "left", True, _unrelated(rng)) for _ in range(EACH)]
    return made


def _other(look: Look, rng: np.random.Generator) -> Look:
    """Another colour before another ground."""
    colours = [colour for colour in drawn.COLOURS if colour != look.colour]
    grounds = [ground for ground in drawn.BACKGROUNDS if ground and ground != look.background]
    return Look(colour=str(rng.choice(colours)), background=str(rng.choice(grounds)))


def _unrelated(rng: np.random.Generator) -> Asked:
    shape = str(rng.choice(splits().shapes))
    return plain(shape, Look(colour=str(rng.choice(list(drawn.COLOURS)))))
