"""The raw results of the experiment, as the report reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.evidence.plan import Cell, Plan
from benchmarks.evidence.statistics import Outcome, outcomes, read
from benchmarks.evidence.tuning import Tried, tuned

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "evidence"


@dataclass(frozen=True)
class Evidence:
    """The raw results of a plan, read when they are asked for."""

    results: Path
    plan: Plan

    def done(self, cell: Cell) -> bool:
        """Whether the cell was run."""
        return self._path(cell).exists()

    def outcome(self, cell: Cell, point: str = "tuned") -> Outcome:
        """Of a cell at a point."""
        return self._all(cell)[point]

    @cached_property
    def _read(self) -> dict[Cell, dict[str, Outcome]]:
        return {}

    def _all(self, cell: Cell) -> dict[str, Outcome]:
        if cell not in self._read:
            self._read[cell] = outcomes(self._path(cell), self.plan.pictures)
        return self._read[cell]

    def _path(self, cell: Cell) -> Path:
        return self.results / "cells" / f"{cell}.csv.gz"

    def tuned(self, cell: Cell) -> Tried:
        """The settings that were chosen on the tuning split."""
        return tuned(self.results / "tuning" / f"{cell.training}.json")

    def has(self, kind: str, cell: Cell) -> bool:
        """Whether there is a file beside the cells, `alone` or `meet`."""
        return self._beside(kind, cell).exists()

    def rows(self, kind: str, cell: Cell) -> list[dict[str, str]]:
        """Of that file."""
        return read(self._beside(kind, cell))

    def _beside(self, kind: str, cell: Cell) -> Path:
        return self.results / kind / f"{cell.training}.csv.gz"

    @cached_property
    def best(self) -> str:
        """The best recipe of the tuning split."""
        return str(json.loads((self.results / "best.json").read_text("utf-8"))["recipe"])
