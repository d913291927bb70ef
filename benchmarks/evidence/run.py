"""The tasks of a plan: trained, drawn and judged where they were not before, in any process."""

from __future__ import annotations

import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch

from benchmarks.evidence import equal
from benchmarks.evidence.alone import questions
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.measures import COUNTS, asked_pairs, non_additivity
from benchmarks.evidence.merging import Scales, cosine, merged, single
from benchmarks.evidence.plan import BOTH, EQUAL, Cell, Plan
from benchmarks.evidence.recipes import PUBLISHED
from benchmarks.evidence.statistics import write
from benchmarks.evidence.tuning import Tried, tune, tuned

Task = Callable[[], object]


@cache
def bench_of(plan: Plan, work: Path) -> Bench:
    """The process's own, made once."""
    torch.set_num_threads(1)
    return Bench(plan, work)


class Run:
    """A plan with its folders; methods are tasks for any process."""

    def __init__(self, plan: Plan, results: Path, work: Path) -> None:
        self.plan, self.results, self.work = plan, results, work

    @property
    def bench(self) -> Bench:
        return bench_of(self.plan, self.work)

    def grid(self, cell: Cell) -> Path:
        """Where the grid of a method and a recipe is kept."""
        return self.results / "tuning" / f"{cell.training}.json"

    def tune(self, cell: Cell, rates: tuple[float, ...]) -> None:
        tune(self.bench, cell, rates, self.grid(cell))

    def best_recipe(self) -> str:
        """Of those tried on the tuning split with two methods, the one with the best mean score."""
        both = {cell.method for cell in self.plan.cells(PUBLISHED.name) if cell.recipe != PUBLISHED.name}
        methods = both or set(self.plan.methods)

        def score(recipe: str) -> float:
            return statistics.mean(tuned(self.grid(Cell(method, recipe))).score for method in methods)

        best = max(self.plan.recipes, key=score)
        path = self.results / "best.json"
        path.write_text(
            json.dumps({"recipe": best, "scores": {r: round(score(r), 4) for r in self.plan.recipes}}) + "\n"
        )
        return best

    def points(self, cell: Cell) -> dict[str, tuple[Tried, Scales]]:
        """Name of a point to settings and scales: the tuned one and, for what was planned, the equal scales."""
        best = tuned(self.grid(cell))
        equal_scales = () if cell.recipe in self.plan.later else EQUAL
        return {"tuned": (best, best.scales), **{f"{scales[0]:g}": (best, scales) for scales in equal_scales}}

    def draw(self, cell: Cell) -> None:
        """Judge all pairs of a cell at all its points with all seeds."""
        self._draw(cell, self.points(cell), self.results / "cells" / f"{cell}.csv.gz")

    def single(self, cell: Cell) -> None:
        """How good a method's single content adapters are, on the tuning split."""
        equal.measure(self.bench, cell, tuned(self.grid(cell)), equal.quality_path(self.results, cell))

    def draw_equal(self, cell: Cell, other: Cell) -> None:
        """Judge all pairs of a cell with single adapters that are no better than the other's."""
        best, others = tuned(self.grid(cell)), tuned(self.grid(other))
        own, its = (equal.quality(equal.quality_path(self.results, one)) for one in (cell, other))
        how = replace(best, mark=equal.matched(own, best.mark, its, others.mark))
        self._draw(cell, {"equal": (how, how.scales)}, equal.path_of(self.results, cell, other))

    def _draw(self, cell: Cell, points: Mapping[str, tuple[Tried, Scales]], path: Path) -> None:
        if path.exists():
            return
        part, rows = self.plan.part(tuning=False), []
        for seed in self.plan.seeds:
            for point, (how, scales) in points.items():
                adapters = self.bench.adapters(cell, how.rate, how.mark, seed, tuning=False)
                counts = self.bench.judged_pairs(adapters, part, [scales], cell.merge, seed, self.plan.pictures)
                for number, ((content, style), _) in enumerate(asked_pairs(part)):
                    seen = [int(x) for judge in counts.values() for x in judge[0, number]]
                    rows.append([seed, point, content, style - len(part.contents), *seen])
        judges = self.bench.judges
        write(path, ["seed", "point", "content", "style", *(f"{j}_{c}" for j in judges for c in COUNTS)], rows)

    def alone(self, cell: Cell) -> None:
        """Ask the single adapters of a method and a recipe, and measure how their updates and effects meet."""
        path = self.results / "alone" / f"{cell.training}.csv.gz"
        if path.exists():
            return
        part, best, rows = self.plan.part(tuning=False), tuned(self.grid(cell)), []
        asking = questions(part)
        for seed in self.plan.seeds:
            adapters = self.bench.adapters(cell, best.rate, best.mark, seed, tuning=False)
            counts = self.bench.judged_alone(adapters, asking, 1.0, seed)
            for number, question in enumerate(asking):
                seen = [int(x) for judge in counts.values() for x in judge[number]]
                rows.append([seed, question.row, question.kind, int(question.is_style), *seen])
        names = [f"{judge}_{count}" for judge in self.bench.judges for count in COUNTS]
        write(path, ["seed", "adapter", "kind", "is_style", *names], rows)

    def meet(self, cell: Cell) -> None:
        """Cosine of the updates and non-additivity of the effects, of every pair."""
        path = self.results / "meet" / f"{cell.training}.csv.gz"
        if path.exists():
            return
        part, best, rows = self.plan.part(tuning=False), tuned(self.grid(cell)), []
        pairs, asked = zip(*asked_pairs(part), strict=True)
        words = self.bench.base.words.rows([one.caption for one in asked])
        for seed in self.plan.seeds:
            adapters = self.bench.adapters(cell, best.rate, best.mark, seed, tuning=False)
            alone = [single(adapters, [pair[role] for pair in pairs], best.scales[role]) for role in (0, 1)]
            joint = merged(adapters, pairs, best.scales, "sum")
            apart = non_additivity(self.bench.base, (alone[0], alone[1]), joint, words, seed)
            for (content, style), cos, share in zip(pairs, cosine(adapters, pairs), apart, strict=True):
                rows.append([seed, content, style - len(part.contents), f"{cos:.4f}", f"{share:.3f}"])
        write(path, ["seed", "content", "style", "cosine", "non_additivity"], rows)


def tuning(run: Run) -> Iterable[list[Task]]:
    """Tasks that may run side by side, phase by phase; what a phase holds may hang on the one before."""
    plan = run.plan
    first = [Cell(method, PUBLISHED.name) for method in plan.methods]
    yield [partial(run.tune, cell, plan.rates) for cell in first]
    both = dict.fromkeys(cell.method for cell in plan.cells(PUBLISHED.name) if cell.recipe != PUBLISHED.name)
    recipes = [
        Cell(method, recipe) for recipe in (*plan.recipes, *plan.own) if recipe != PUBLISHED.name for method in both
    ]
    yield [partial(run.tune, cell, (tuned(run.grid(Cell(cell.method, PUBLISHED.name))).rate,)) for cell in recipes]
    cells = plan.cells(run.best_recipe())
    yield [partial(run.tune, cell, plan.rates) for cell in cells if cell.merge == "sum" and not run.grid(cell).exists()]


def test(run: Run) -> list[Task]:
    """Tasks on the test split, those of the two methods that are compared in everything first."""
    cells = sorted(run.plan.cells(run.best_recipe()), key=lambda cell: cell.method not in BOTH)
    sums = [cell for cell in cells if cell.merge == "sum"]
    ways = (run.draw, cells), (run.alone, sums), (run.meet, sums)
    return [partial(way, cell) for way, those in ways for cell in those]


def equals(run: Run) -> Iterable[list[Task]]:
    """The methods compared at equal quality of the single adapters; and the quality of those of later recipes."""
    cells = dict.fromkeys(cell for pair in run.plan.compared() for cell in pair)
    later = [Cell(method, recipe) for method in BOTH for recipe in run.plan.later]
    yield [partial(run.single, cell) for cell in (*cells, *later)]
    yield [partial(run.draw_equal, *pair) for one in run.plan.compared() for pair in (one, one[::-1])]


def phases(run: Run, *, only_tuning: bool) -> Iterable[list[Task]]:
    """The tuning split, and then the test split."""
    yield from tuning(run)
    if not only_tuning:
        yield test(run)
        yield from equals(run)


def call(until: float, task: Task) -> str:
    """ "done", "left" if there was no time to start the task, or why it failed."""
    if time.monotonic() > until:
        return "left"
    try:
        task()
    except Exception:
        return traceback.format_exc()
    return "done"
