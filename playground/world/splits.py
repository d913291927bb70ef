"""Which shapes and styles the base model may see, and which are kept for tuning and for the one test.

`splits.json` was drawn once by `python -m playground.world.splits`, committed before anything was trained on it, and
kept since. A content stands with the look of the one picture it is learned from, a style with the shape that carries
it in its picture (the carrier).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from playground import draw as plain
from playground.world.scene import Look
from playground.world.shapes import SHAPES
from playground.world.styles import styles

TABLE = Path(__file__).with_name("splits.json")
TUNING, TEST = (6, 6), (16, 12)  # contents, styles
HELD_OUT = 16  # one pair of shape and style in so many is kept from the base model


@dataclass(frozen=True)
class Content:
    """A shape that the base model never saw, and the look of its picture."""

    shape: str
    look: Look


@dataclass(frozen=True)
class Carried:
    """A style that the base model never saw, and the known shape in its picture."""

    style: str
    carrier: str


@dataclass(frozen=True)
class Part:
    """Contents and styles of one purpose; a pair is one of each."""

    contents: tuple[Content, ...]
    styles: tuple[Carried, ...]


@dataclass(frozen=True)
class Splits:
    """What is for what: shapes and styles of the base model, and the parts for tuning and for the test."""

    shapes: tuple[str, ...]
    styles: tuple[str, ...]
    tuning: Part
    test: Part


@cache
def splits() -> Splits:
    """As the table has them."""
    table = json.loads(TABLE.read_text("utf-8"))
    return Splits(tuple(table["shapes"]), tuple(table["styles"]), _part(table["tuning"]), _part(table["test"]))


def _part(table: dict[str, list[dict[str, object]]]) -> Part:
    contents = [Content(str(row["shape"]), Look(**row["look"])) for row in table["contents"]]  # type: ignore[arg-type]
    return Part(tuple(contents), tuple(Carried(**row) for row in table["styles"]))  # type: ignore[arg-type]


def held_out(shape: str, style: str) -> bool:
    """Pairs of known shapes and styles that the base model never saw together, to see whether it combines."""
    known = splits()
    return (known.shapes.index(shape) + 5 * known.styles.index(style)) % HELD_OUT == 0


def draw_splits(seed: int = 1) -> dict[str, object]:
    """A split by chance, but that the shapes which the examples teach stay unknown, and the plain ones known."""
    rng = np.random.default_rng(seed)
    free = [shape for shape in SHAPES if shape not in (*plain.SHAPES, *plain.UNSEEN_SHAPES)]
    unseen = [str(shape) for shape in rng.permutation(free)]
    contents = [*plain.UNSEEN_SHAPES, *unseen][: TUNING[0] + TEST[0]]
    names = [str(name) for name in rng.permutation(list(styles()))][: TUNING[1] + TEST[1]]
    known = [shape for shape in SHAPES if shape not in contents]

    def part(start: tuple[int, int], count: tuple[int, int]) -> dict[str, object]:
        own = contents[start[0] : start[0] + count[0]], names[start[1] : start[1] + count[1]]
        return {
            "contents": [{"shape": shape, "look": asdict(_look(rng))} for shape in own[0]],
            "styles": [{"style": style, "carrier": str(rng.choice(known))} for style in own[1]],
        }

    parts = {"tuning": part((0, 0), TUNING), "test": part(TUNING, TEST)}
    return {"shapes": known, "styles": [name for name in styles() if name not in names], **parts}


def _look(rng: np.random.Generator) -> Look:
    """A colour before a named ground that it stands out from."""
    while True:
        colour, ground = str(rng.choice(list(plain.COLOURS))), str(rng.choice([g for g in plain.BACKGROUNDS if g]))
        if np.linalg.norm(np.subtract(plain.COLOURS[colour], plain.BACKGROUNDS[ground])) > 120:
            return Look(colour=colour, background=ground)


if __name__ == "__main__":
    TABLE.write_text(json.dumps(draw_splits(), indent=1) + "\n", "utf-8")
