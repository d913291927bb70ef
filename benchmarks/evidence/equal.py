"""Equal quality of the single adapters: at which number of updates a method's contents are kept as often as another's.

Measured on the tuning split, by the rule of the plan: the weaker of two methods stands at its tuned point, the other at
the checkpoint whose single content adapters keep their shapes most nearly as often.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.evidence.alone import questions
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.measures import COUNTS
from benchmarks.evidence.plan import Cell
from benchmarks.evidence.tuning import Tried

Quality = dict[int, float]  # updates to the share of contents kept, mean of both judges


def measure(bench: Bench, cell: Cell, best: Tried, path: Path) -> None:
    """Write the quality of the single content adapters at every number of updates, at the tuned rate and scale 1."""
    if path.exists():
        return
    asking = [one for one in questions(bench.plan.part(tuning=True)) if one.kind == "kept" and not one.is_style]
    quality: dict[int, float] = {}
    for mark in bench.plan.marks:
        seen = []
        for seed in bench.plan.seeds:
            adapters = bench.adapters(cell, best.rate, mark, seed, tuning=True)
            counts = bench.judged_alone(adapters, asking, 1.0, seed)
            seen += [judge[:, COUNTS.index("content")] for judge in counts.values()]
        quality[mark] = round(float(np.mean(seen)), 4)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(quality) + "\n", "utf-8")


def quality(path: Path) -> Quality:
    """What was measured."""
    return {int(mark): share for mark, share in json.loads(path.read_text("utf-8")).items()}


def matched(own: Quality, tuned: int, other: Quality, other_tuned: int) -> int:
    """The updates at which a method is as good as the weaker of the two; its tuned ones where it is the weaker."""
    target = min(own[tuned], other[other_tuned])
    return min(own, key=lambda mark: (abs(own[mark] - target), mark != tuned))


def quality_path(results: Path, cell: Cell) -> Path:
    """Where a method's quality is kept."""
    return results / "equal" / f"{cell.training}.json"


def path_of(results: Path, cell: Cell, other: Cell) -> Path:
    """Where a cell is kept that was drawn with single adapters no better than another's."""
    return results / "equal" / f"{cell}.as.{other.method}.csv.gz"
