"""Train, draw and judge what a plan asks for: each adapter, picture and cell where it is not there yet.

In a folder: `adapters` and `pictures`, of which the results are made; `cells` with the counts of what is kept, in the
layout that all cells of the evidence have; `similarity` with the mean cosines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from benchmarks.evidence.real.judges import COUNTS, ROLES, Bench, Judge, Seen
from benchmarks.evidence.real.models import Model
from benchmarks.evidence.real.pictures import Subject, as_bytes, read_pixels, save_picture
from benchmarks.evidence.real.plan import NONE, Cell, Plan, Scales, point_name
from benchmarks.evidence.statistics import read, write
from comfyui_qr_lora.qrlora_core import QRLoRA, load_adapter, save_adapter

Say = Callable[[str], None]
Item = TypeVar("Item")
PLACE = ("seed", "point", "content", "style")
OFF: Scales = (0.0, 0.0)


class Learned(NamedTuple):
    """An adapter: role is "content" or "style", number its place among them."""

    method: str
    seed: int
    role: str
    number: int


class Pair(NamedTuple):
    """What is drawn of a content and a style, by their places, in a cell at some scales."""

    cell: Cell
    seed: int
    scales: Scales
    content: int
    style: int


@dataclass(frozen=True)
class Run:
    """A plan with contents and styles, in a folder."""

    plan: Plan
    contents: Sequence[Subject]
    styles: Sequence[Subject]
    folder: Path

    def adapters(self) -> list[Learned]:
        """All that are trained."""
        learned = [("content", n) for n in range(len(self.contents))] + [("style", n) for n in range(len(self.styles))]
        methods = (method for method in self.plan.methods if method != NONE)
        return [Learned(*way, *one) for way in product(methods, range(self.plan.seeds)) for one in learned]

    def pairs(self, cell: Cell) -> list[Pair]:
        """All of a cell, point by point in every seed."""
        sizes = range(self.plan.seeds), self.plan.scales, range(len(self.contents)), range(len(self.styles))
        return [Pair(cell, *place) for place in product(*sizes)]

    def left(self) -> tuple[list[Learned], list[Pair]]:
        """The adapters and the pairs that are not there yet."""
        every = dict.fromkeys(_as_drawn(pair) for cell in self.plan.cells() for pair in self.pairs(cell))
        undrawn = [pair for pair in every if not all(path.exists() for path in self.pictures_of(pair))]
        return [one for one in self.adapters() if not self.adapter_of(one).exists()], undrawn

    def cost(self) -> str:
        """What is left to do, in words."""
        adapters, pairs = self.left()
        training, drawing = self.plan.training, self.plan.drawing
        return (
            f"to do: {len(adapters)} adapters of {training.steps} updates in batches of {training.batch}, and "
            f"{len(pairs) * self.plan.pictures} pictures of {drawing.steps} steps, {drawing.size} pixels wide"
        )

    def train(self, model: Model, say: Say) -> None:
        """Every adapter that is not there."""
        left, subjects = self.left()[0], {"content": self.contents, "style": self.styles}
        learned = [subjects[one.role][one.number] for one in left]
        model.prepare([subject.caption for subject in learned], learned)
        for one, subject in timed("adapter", list(zip(left, learned, strict=True)), say):
            save_adapter(model.train(subject, one.method, self.plan.training, one.seed), self.adapter_of(one))

    def draw(self, model: Model, say: Say) -> None:
        """The pictures of every pair that are not there."""
        left = self.left()[1]
        model.prepare([*map(self._prompt, left), ""], [self.contents[pair.content] for pair in left])
        for pair in timed("pair", left, say):
            for path, picture in zip(self.pictures_of(pair), as_bytes(self._drawn(model, pair)), strict=True):
                save_picture(picture, path)

    def judge(self, judges: Sequence[Judge], say: Say) -> None:
        """Every cell that was not seen by these judges at these points."""
        cells = [cell for cell in self.plan.cells() if not self._is_judged(cell, judges)]
        bench = Bench(judges, {"content": pixels_of(self.contents), "style": pixels_of(self.styles)})
        for cell in timed("cell", cells, say):
            self._write(
                cell, [(pair, bench.look(self._read(pair), pair.content, pair.style)) for pair in self.pairs(cell)]
            )

    def adapter_of(self, one: Learned) -> Path:
        """Where an adapter is kept."""
        return self.folder / "adapters" / f"{one.method}.{one.seed}" / f"{one.role}_{one.number}.safetensors"

    def pictures_of(self, pair: Pair) -> list[Path]:
        """Where the pictures of a pair are kept."""
        pair = _as_drawn(pair)
        folder = self.folder / "pictures" / f"{pair.cell}.{point_name(pair.scales)}.{pair.seed}"
        return [folder / f"{pair.content}_{pair.style}_{number}.png" for number in range(self.plan.pictures)]

    def cell_of(self, cell: Cell, kind: str = "cells") -> Path:
        """Where the counts of a cell are kept, or its "similarity"."""
        return self.folder / kind / f"{cell}.csv.gz"

    def _drawn(self, model: Model, pair: Pair) -> Tensor:
        """Pictures (pictures, height, width, 3) of 0 to 1, for all methods and points from the same noise."""
        learned = zip(ROLES, (pair.content, pair.style), strict=True)
        adapters = [_loaded(self.adapter_of(Learned(pair.cell.method, pair.seed, role, number)))
                    for role, number in learned if pair.cell.method != NONE]  # fmt: skip
        patcher, content = model.merged(adapters, pair.scales, pair.cell.merge), self.contents[pair.content]
        noise = (pair.seed * 1_009 + pair.content) * 1_009 + pair.style
        return model.draw(patcher, self._prompt(pair), content, self.plan.drawing, self.plan.pictures, noise)

    def _prompt(self, pair: Pair) -> str:
        content, style = self.contents[pair.content].phrase, self.styles[pair.style].phrase
        return self.plan.drawing.prompt_of(content, style)

    def _read(self, pair: Pair) -> Tensor:
        return torch.cat([read_pixels(path) for path in self.pictures_of(pair)])

    def _is_judged(self, cell: Cell, judges: Sequence[Judge]) -> bool:
        path = self.cell_of(cell)
        rows = read(path) if path.exists() else []
        points = {point_name(scales) for scales in self.plan.scales}
        names = [*PLACE, *(f"{judge.name}_{count}" for judge in judges for count in COUNTS)]
        return bool(rows) and list(rows[0]) == names and {row["point"] for row in rows} == points

    def _write(self, cell: Cell, seen: Sequence[tuple[Pair, dict[str, Seen]]]) -> None:
        """The counts last: where they are, the cell is done."""
        for kind, columns, told in (("similarity", ROLES, Seen.similarities), ("cells", COUNTS, Seen.counts)):
            names = [*PLACE, *(f"{judge}_{column}" for judge in seen[0][1] for column in columns)]
            rows = (
                [
                    pair.seed,
                    point_name(pair.scales),
                    pair.content,
                    pair.style,
                    *(x for one in by.values() for x in told(one)),
                ]
                for pair, by in seen
            )
            write(self.cell_of(cell, kind), names, rows)


def _as_drawn(pair: Pair) -> Pair:
    """Without adapters all points are one."""
    return pair._replace(scales=OFF) if pair.cell.method == NONE else pair


@lru_cache(maxsize=2)
def _loaded(path: Path) -> QRLoRA:
    """An adapter. Those of the last pair are kept, with what was worked out of them for the model: large ones fill a
    memory soon, and pairs that follow each other share their content."""
    return load_adapter(path)


def pixels_of(subjects: Sequence[Subject]) -> Tensor:
    """All pictures, (subjects, height, width, 3)."""
    return torch.cat([subject.pixels for subject in subjects])


def timed(what: str, items: Sequence[Item], say: Say) -> Iterator[Item]:
    """Each item; after it, how many were done and how long the rest may take."""
    began = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        minutes = (time.monotonic() - began) / 60
        say(f"{what} {done} of {len(items)}, {minutes:.1f} min, about {minutes / done * (len(items) - done):.1f} to go")
