"""`docs/evidence.md` is what the raw results give, and the results are what the plan asks for."""

from __future__ import annotations

import csv
import gzip
import re
from functools import cache

import pytest

from benchmarks.evidence.crossings import crossings
from benchmarks.evidence.measures import COUNTS
from benchmarks.evidence.plan import BOTH, FULL, Cell
from benchmarks.evidence.report import DOCUMENT, TEXT, document, meeting
from benchmarks.evidence.results import RESULTS, Evidence
from benchmarks.evidence.singles import alone_gain, by_updates
from benchmarks.evidence.statistics import FIRST
from benchmarks.evidence.tables import NAMES

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
    points = 1 if cell.recipe in FULL.later else 5
    assert len(seen) == len(FULL.seeds) * points * FULL.contents * FULL.styles


def test_a_share_of_the_document_is_that_of_its_rows() -> None:
    """Counted anew, without the report's own reader."""
    rows = [row for row in _read(Cell("lora", "published")) if row["point"] == "tuned"]
    shares = [sum(int(row[f"{judge}_content"]) for row in rows) / len(rows) / FULL.pictures
              for judge in ("analytic", "learned")]  # fmt: skip
    expected = " / ".join(f"{share:.2f}" for share in shares)
    line = re.search(rf"^\| {re.escape(NAMES['lora'])} \| ([^|]+) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert line
    assert line[1] == expected


@cache
def _crossings() -> dict[str, str]:
    return crossings(EVIDENCE)


def _verdicts(name: str) -> dict[str, str]:
    """Title to verdict of a table that the document holds."""
    return {row[0]: row[-1] for row in _rows(_crossings()[name])}


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


@pytest.mark.parametrize("recipe", ["published", "best"])
def test_the_headline_holds(recipe: str) -> None:
    """No QR-LoRA is better than its peers, nor within the noise: the text says worse, of every triangle and Q."""
    assert {*_verdicts(f"peers_{recipe}").values()} == {"worse"}


@pytest.mark.parametrize(
    "crossing", ["gain_recipes", "both_recipes", "gain_roles", "both_roles", "merges_gain", "bases"]
)
def test_what_is_said_to_beat_nothing_beats_nothing(crossing: str) -> None:
    verdicts = _verdicts(crossing)
    assert verdicts
    assert "better" not in verdicts.values()


def test_every_word_of_what_costs_holds() -> None:
    for title, verdict in (_verdicts("gain_recipes") | _verdicts("merges_gain")).items():
        if title.endswith((", mild", ", strong", ", levels", ", ties", "equal rank, bare")):
            assert verdict == "worse", title
        if "null_space" in title or title.endswith((", roles", ", jitter", "`full`, bare")):
            assert verdict == "no difference shown", title


def test_what_is_said_of_roles_holds() -> None:
    """Of single adapters LoRA contents are better, moved styles worse, and nothing else differs."""
    gained = _rows(alone_gain(EVIDENCE))
    for title, *_, verdict in gained:
        if title.endswith("own_mild, style"):
            assert verdict == "worse", title
        elif title.startswith("LoRA") and title.endswith("content"):
            assert verdict == "better", title
        else:
            assert verdict == "no difference shown", title
    for count, least, most in (("content", "0.59 / 0.64", "0.82 / 0.89"), ("style", "0.65 / 0.95", "0.58 / 1.00")):
        (row,) = (row for row in gained if row[0] == f"{NAMES['lora']}, own_still, {count}")
        assert row[1:3] == [least, most]


def test_what_is_said_of_longer_trainings_holds() -> None:
    after = {title: [float(share) for share in shares] for title, *shares in _rows(by_updates(EVIDENCE))}
    for method, said in (("qr_full", (0.49, 0.72)), ("lora", (0.63, 0.76))):
        plain, *roles = (after[f"{NAMES[method]}, {recipe}"] for recipe in ("published", *FULL.later))
        for with_role in roles:
            assert with_role[0] < plain[0]
            assert (plain[-1], with_role[-1]) == said


def test_the_role_that_is_tested_beside_the_nodes_own_is_the_best_of_the_tuning_split() -> None:
    own, chosen = FULL.later
    others = [recipe for recipe in FULL.own if recipe != own]
    assert chosen == max(others, key=lambda recipe: sum(EVIDENCE.tuned(Cell(one, recipe)).score for one in BOTH))


def test_no_correlation_with_the_cosine_is_above_what_is_said() -> None:
    said = re.search(r"no correlation is above (\.\d+)", TEXT.read_text("utf-8"))
    assert said
    shown = [line.split("|")[5].strip() for line in meeting(EVIDENCE).splitlines()[2:]]
    assert max(abs(float(value)) for value in shown if value != "-") <= float(said[1])


def _read(cell: Cell) -> list[dict[str, str]]:
    with gzip.open(RESULTS / "cells" / f"{cell}.csv.gz", "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))
