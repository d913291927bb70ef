"""`docs/evidence.md` is what the raw results give, and the results are what the plan asks for."""

from __future__ import annotations

import csv
import gzip
import re

import pytest

from benchmarks.evidence.measures import COUNTS
from benchmarks.evidence.plan import FULL, Cell
from benchmarks.evidence.report import DOCUMENT, NAMES, RESULTS, TEXT, Evidence, document
from benchmarks.evidence.statistics import FIRST

EVIDENCE = Evidence(RESULTS, FULL)
DONE = [cell for cell in FULL.cells(EVIDENCE.best) if EVIDENCE.done(cell)]


def test_the_document_is_what_the_results_give() -> None:
    assert DOCUMENT.read_text("utf-8") == document(EVIDENCE), "run python -m benchmarks.evidence.report"


def test_no_place_is_left_open() -> None:
    assert "{{" in TEXT.read_text("utf-8")
    assert "{{" not in DOCUMENT.read_text("utf-8")


@pytest.mark.parametrize("cell", DONE, ids=str)
def test_a_cell_has_every_pair_at_every_point(cell: Cell) -> None:
    """With counts that can be: no more than pictures, and both only where either is."""
    seen = set()
    for row in _read(cell):
        seen.add((row["seed"], row["point"], row["content"], row["style"]))
        for judge in ("analytic", "learned"):
            counts = {count: int(row[f"{judge}_{count}"]) for count in COUNTS}
            assert all(0 <= count <= FULL.pictures for count in counts.values())
            assert counts["both"] <= min(counts["content"], counts["style"])
            assert all(counts[clear] <= counts[first] for clear, first in FIRST.items())
    assert len(seen) == len(FULL.seeds) * 5 * FULL.contents * FULL.styles


def test_a_share_of_the_document_is_that_of_its_rows() -> None:
    """Counted anew, without the report's own reader."""
    rows = [row for row in _read(Cell("lora", "published")) if row["point"] == "tuned"]
    shares = [sum(int(row[f"{judge}_content"]) for row in rows) / len(rows) / FULL.pictures
              for judge in ("analytic", "learned")]  # fmt: skip
    expected = " / ".join(f"{share:.2f}" for share in shares)
    line = re.search(rf"^\| {re.escape(NAMES['lora'])} \| ([^|]+) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert line
    assert line[1] == expected


def _read(cell: Cell) -> list[dict[str, str]]:
    with gzip.open(RESULTS / "cells" / f"{cell}.csv.gz", "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))
