"""Choose rate, updates and scales of a method with a recipe, on the tuning split alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.bench import Bench
from benchmarks.evidence.measures import COUNTS
from benchmarks.evidence.merging import Scales
from benchmarks.evidence.plan import Cell
from benchmarks.evidence.statistics import harmonic

SEED = 100  # of trainings that are not reported


@dataclass(frozen=True)
class Tried:
    """A point of the grid and what came of it: shares by judge, and the mean of their harmonic means."""

    rate: float
    mark: int
    scales: Scales
    content: dict[str, float]
    style: dict[str, float]
    both: dict[str, float]
    score: float


def tune(bench: Bench, cell: Cell, rates: tuple[float, ...], path: Path) -> Tried:
    """The best point of the grid, which is written whole, best first; read where that was done before."""
    if not path.exists():
        tried = [tried for rate in rates for mark in bench.plan.marks for tried in _try(bench, cell, rate, mark)]
        tried.sort(key=lambda one: -one.score)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[\n" + ",\n".join(json.dumps(asdict(one)) for one in tried) + "\n]\n", "utf-8")
    return tuned(path)


def tuned(path: Path) -> Tried:
    """The best point of a grid that was tried."""
    best = json.loads(path.read_text("utf-8"))[0]
    return Tried(**{**best, "scales": tuple(best["scales"])})


def _try(bench: Bench, cell: Cell, rate: float, mark: int) -> list[Tried]:
    """At all scales."""
    part, points = bench.plan.part(tuning=True), bench.plan.scales
    adapters = bench.adapters(cell, rate, mark, SEED, tuning=True)
    counts = bench.judged_pairs(adapters, part, points, cell.merge, SEED, pictures=1)
    return [_scored(rate, mark, scales, {judge: seen[at] for judge, seen in counts.items()})
            for at, scales in enumerate(points)]  # fmt: skip


def _scored(rate: float, mark: int, scales: Scales, counts: dict[str, NDArray[np.int64]]) -> Tried:
    share = {judge: dict(zip(COUNTS, (float(x) for x in seen.mean(0)), strict=True)) for judge, seen in counts.items()}
    score = float(np.mean([harmonic(one["content"], one["style"]) for one in share.values()]))
    kept = ({judge: one[name] for judge, one in share.items()} for name in ("content", "style", "both"))
    return Tried(rate, mark, scales, *kept, score)
