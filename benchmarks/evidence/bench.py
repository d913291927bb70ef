"""One process's bench: the network, the judges, and adapters that are trained when they are first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from benchmarks.evidence import training
from benchmarks.evidence.alone import Question, questions
from benchmarks.evidence.base import Adapters, Base, Factors, Words
from benchmarks.evidence.measures import Drawing, Judges, asked_pairs, judged, pictures_of
from benchmarks.evidence.merging import Scales, merged, single, stacked
from benchmarks.evidence.methods import METHODS
from benchmarks.evidence.plan import Cell, Plan
from benchmarks.evidence.recipes import OWN, RECIPES, lessons
from benchmarks.evidence.training import Settings
from benchmarks.setting import DEVICE
from playground.judges.analytic import AnalyticJudge
from playground.judges.learned import LearnedJudge
from playground.world.splits import Part

_ALL = {**RECIPES, **OWN}


@dataclass(frozen=True)
class Bench:
    """What is run with. Not shared between processes.

    Attributes:
        work: caches of what can be made again.
    """

    plan: Plan
    work: Path

    @cached_property
    def base(self) -> Base:
        """The network."""
        return Base.trained(self.words)

    @cached_property
    def words(self) -> Words:
        """All of the plan."""
        parts = [self.plan.part(tuning=tuning) for tuning in (True, False)]
        taught = [lesson.caption for part in parts for recipe in _ALL.values() for lesson in lessons(part, recipe)]
        asked = [one.caption for part in parts for _, one in asked_pairs(part)]
        alone = [question.asked.caption for part in parts for question in questions(part)]
        return Words.encoded([*taught, *asked, *alone], self.work)

    @cached_property
    def judges(self) -> Judges:
        """Both of them by name."""
        return {judge.name: judge(device=DEVICE) for judge in (AnalyticJudge, LearnedJudge)}

    def drawing(self, pictures: int) -> Drawing:
        """How so many pictures are drawn."""
        return Drawing(pictures, self.plan.steps, self.plan.cfg)

    def adapters(self, cell: Cell, rate: float, mark: int, seed: int, *, tuning: bool) -> Adapters:
        """Of all contents and styles of a part; all marks of a training are kept once it has run."""
        folder = self.work / ("tuning" if tuning else "test") / f"{cell.training}.{rate:g}.{seed}"
        path = folder / f"{mark}.safetensors"
        if not path.exists():
            recipe, part = _ALL[cell.recipe], self.plan.part(tuning=tuning)
            marks = tuple(m for m in self.plan.marks if m <= mark) if not tuning else self.plan.marks
            how = Settings(rate, self.plan.rank, self.plan.batch, marks)
            for at, made in training.train(
                self.base, METHODS[cell.method], recipe, lessons(part, recipe), how, seed
            ).items():
                _save(made, folder / f"{at}.safetensors")
        return _load(path)

    def judged_pairs(
        self, adapters: Adapters, part: Part, points: Sequence[Scales], how: str, seed: int, pictures: int
    ) -> dict[str, NDArray[np.int64]]:
        """Counts (points, pairs, counts) of each pair of a part at some scales, see `measures.judged`."""
        pairs, asked = zip(*asked_pairs(part), strict=True)
        each = [merged(adapters, pairs, scales, how) for scales in points]
        together = {name: stacked([one[name] for one in each]) for name in adapters}
        every = asked * len(points)
        seen = pictures_of(self.base, together, every, self.drawing(pictures), seed, times=len(points))
        return {judge: counts.reshape(len(points), len(pairs), -1)
                for judge, counts in judged(self.judges, seen, every).items()}  # fmt: skip

    def judged_alone(
        self, adapters: Adapters, asking: list[Question], scale: float, seed: int
    ) -> dict[str, NDArray[np.int64]]:
        """Counts of each question to a single adapter."""
        asked = [question.asked for question in asking]
        own = single(adapters, [question.row for question in asking], scale)
        return judged(self.judges, pictures_of(self.base, own, asked, self.drawing(1), seed), asked)


def _save(adapters: Adapters, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}:{part}": getattr(factors, part).half().contiguous()
               for name, factors in adapters.items() for part in ("up", "down")}  # fmt: skip
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.replace(path)


def _load(path: Path) -> Adapters:
    tensors = {key: value.float().to(DEVICE) for key, value in load_file(path).items()}
    names = dict.fromkeys(key.rpartition(":")[0] for key in tensors)
    return {name: Factors(tensors[f"{name}:up"], tensors[f"{name}:down"]) for name in names}
