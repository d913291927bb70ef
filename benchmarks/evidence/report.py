"""Make `docs/evidence.md` of the committed raw results: `python -m benchmarks.evidence.report [--check]`.

Every number in it is computed here; a test runs this and compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.evidence import equal
from benchmarks.evidence.alone import EACH
from benchmarks.evidence.plan import BOTH, EQUAL, FULL, PEERS, Cell, Plan
from benchmarks.evidence.recipes import PUBLISHED
from benchmarks.evidence.statistics import JUDGES, Array, Outcome, difference, interval, level, outcomes, read
from benchmarks.evidence.tables import NAMES, table, verdict
from benchmarks.evidence.tuning import Tried, tuned

ROOT = Path(__file__).parents[2]
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results" / "evidence", ROOT / "docs" / "evidence.md"
TEXT = Path(__file__).with_name("evidence.md.in")  # what people say of the numbers, with a place for each table


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
        return tuned(self.results / "tuning" / f"{cell.method}.{cell.recipe}.json")

    def has(self, kind: str, cell: Cell) -> bool:
        """Whether there is a file beside the cells, `alone` or `meet`."""
        return self._beside(kind, cell).exists()

    def rows(self, kind: str, cell: Cell) -> list[dict[str, str]]:
        """Of that file."""
        return read(self._beside(kind, cell))

    def _beside(self, kind: str, cell: Cell) -> Path:
        return self.results / kind / f"{cell.method}.{cell.recipe}.csv.gz"

    @cached_property
    def best(self) -> str:
        """The best recipe of the tuning split."""
        return str(json.loads((self.results / "best.json").read_text("utf-8"))["recipe"])


def kept(evidence: Evidence, cells: Sequence[tuple[str, Cell]], point: str = "tuned") -> str:
    """What is kept, and what comes unasked, by either judge (analytic / learned)."""
    head = [
        "",
        "content",
        "style",
        "harmonic mean, analytic",
        "learned",
        "both kept",
        "carrier unasked",
        "colours unasked",
    ]
    rows = []
    for title, cell in cells:
        if not evidence.done(cell):
            continue
        seen = evidence.outcome(cell, point)
        means = {count: " / ".join(f"{seen.mean(judge, count):.2f}" for judge in JUDGES)
                 for count in ("content", "style", "both", "carrier", "colours")}  # fmt: skip
        rows.append([title, means["content"], means["style"], *(level(seen, judge) for judge in JUDGES), means["both"],
                     means["carrier"], means["colours"]])  # fmt: skip
    return table(head, rows)


def gain(
    evidence: Evidence, pairs: Sequence[tuple[str, Cell, Cell]], count: str = "", *, first_candidates: bool = False
) -> str:
    """How much more the first of two keeps, paired, by either judge, and what may be said of it, if both were run.

    Args:
        count: which one, as `COUNTS` has them; empty for the harmonic mean of content and style.
    """
    rows = []
    for title, first, second in pairs:
        if evidence.done(first) and evidence.done(second):
            one, other = evidence.outcome(first), evidence.outcome(second)
            found = [difference(one, other, judge, count, first_candidates=first_candidates) for judge in JUDGES]
            rows.append([title, *found, verdict(found)])
    return table(
        [f"{count + ' kept' if count else 'harmonic mean'}, paired difference", "analytic", "learned", ""], rows
    )


def methods_tables(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """All methods, at the published and at the best recipe, and against ordinary LoRA."""
    for key, recipe in {"published": PUBLISHED.name, "best": evidence.best}.items():
        cells = [(NAMES[method], Cell(method, recipe)) for method in evidence.plan.methods]
        pairs = [(f"{title} less {NAMES[peer]}", cell, Cell(peer, recipe))
                 for title, cell in cells for peer in PEERS if cell.method not in PEERS]  # fmt: skip
        yield f"methods_{key}", kept(evidence, cells)
        yield f"peers_{key}", gain(evidence, pairs)
        yield f"first_{key}", gain(evidence, pairs, first_candidates=True)


def bases(evidence: Evidence) -> str:
    """Every other method but the peers against QR-LoRA `full`."""
    own = Cell(BOTH[0], PUBLISHED.name)
    others = [Cell(method, own.recipe) for method in evidence.plan.methods if method not in (own.method, *PEERS)]
    return gain(evidence, [(NAMES[cell.method], cell, own) for cell in others])


def frontier(evidence: Evidence) -> str:
    """Content and style kept at equal scales, by the analytic judge."""
    points = [f"{scales[0]:g}" for scales in EQUAL]
    rows = []
    for method in evidence.plan.methods:
        cell = Cell(method, evidence.best)
        if evidence.done(cell):
            seen = [evidence.outcome(cell, point) for point in points]
            rows.append(
                [
                    NAMES[method],
                    *(" / ".join(f"{one.mean('analytic', c):.2f}" for c in ("content", "style")) for one in seen),
                ]
            )
    return table(["content / style kept at scale", *points], rows)


def equal_table(evidence: Evidence) -> str:
    """QR-LoRA against its peers where single content adapters are equally good on the tuning split."""
    rows = []
    for cell, peer in evidence.plan.compared():
        paths = [equal.path_of(evidence.results, *pair) for pair in ((cell, peer), (peer, cell))]
        if not all(path.exists() for path in paths):
            continue
        first, second = (outcomes(path, evidence.plan.pictures)["equal"] for path in paths)
        found = [difference(first, second, judge) for judge in JUDGES]
        rows.append([f"{NAMES[cell.method]}, {NAMES[peer.method]}", *_matched(evidence, cell, peer),
                     *(" / ".join(f"{one.mean(judge, 'both'):.2f}" for judge in JUDGES) for one in (first, second)),
                     *found, verdict(found)])  # fmt: skip
    head = ["two methods", "updates", "contents kept alone (tuning split)", "both kept by the first", "by the second",
            "harmonic mean, paired difference, analytic", "learned", ""]  # fmt: skip
    return table(head, rows)


def _matched(evidence: Evidence, cell: Cell, peer: Cell) -> tuple[str, str]:
    quality = {one: equal.quality(equal.quality_path(evidence.results, one)) for one in (cell, peer)}
    tuned = {one: evidence.tuned(one).mark for one in (cell, peer)}
    marks = {a: equal.matched(quality[a], tuned[a], quality[b], tuned[b]) for a, b in ((cell, peer), (peer, cell))}
    return (
        ", ".join(str(mark) for mark in marks.values()),
        ", ".join(f"{quality[one][mark]:.2f}" for one, mark in marks.items()),
    )


def among_good(evidence: Evidence) -> str:
    """Of the pairs whose single adapters do their work with both methods: how many pictures keep both."""
    rows = []
    for cell, peer in evidence.plan.compared():
        if not all(evidence.has("alone", one) and evidence.done(one) for one in (cell, peer)):
            continue
        shares, gaps, counts = [], [], []
        for judge in JUDGES:
            good = _good(evidence, cell, judge) & _good(evidence, peer, judge)
            both = [evidence.outcome(one).shares[judge]["both"] for one in (cell, peer)]
            shares.append([f"{one[good].mean():.2f}" for one in both])
            gaps.append(interval(_ratio, (both[0] - both[1]) * good, 1.0 * good))
            counts.append(f"{good.mean():.2f}")
        rows.append([f"{NAMES[cell.method]}, {NAMES[peer.method]}", " / ".join(counts),
                     *(" / ".join(one) for one in zip(*shares, strict=True)), *gaps, verdict(gaps)])  # fmt: skip
    head = ["two methods", "share of pairs", "both kept by the first", "by the second",
            "paired difference, analytic", "learned", ""]  # fmt: skip
    return table(head, rows)


def _ratio(part: Array, whole: Array) -> Array:
    return part / np.where(whole, whole, 1)


def _good(evidence: Evidence, cell: Cell, judge: str) -> Array:
    """(seeds, contents, styles): whether both single adapters keep their half in at least half of their pictures."""
    plan = evidence.plan
    part = plan.part(tuning=False)
    kept = np.zeros((len(plan.seeds), len(part.contents) + len(part.styles)))
    for row in evidence.rows("alone", cell):
        if row["kind"] == "kept":
            half = "style" if row["is_style"] == "1" else "content"
            kept[int(row["seed"]), int(row["adapter"])] += int(row[f"{judge}_{half}"]) / EACH
    good = kept >= 0.5
    contents, styles = np.split(good, [len(part.contents)], axis=1)
    return contents[:, :, None] & styles[:, None, :]


def recipes_tables(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """All recipes for two methods, and against the published one."""
    cells = [
        (f"{NAMES[method]}, {recipe}", Cell(method, recipe)) for method in BOTH for recipe in evidence.plan.recipes
    ]
    yield "recipes", kept(evidence, cells)
    others = [(title, cell) for title, cell in cells if cell.recipe != PUBLISHED.name]
    pairs = [(title, cell, Cell(cell.method, PUBLISHED.name)) for title, cell in others]
    yield "recipes_gain", gain(evidence, pairs)
    yield "recipes_both", gain(evidence, pairs, "both")


def merges_tables(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """All merges for two methods, and against the sum."""
    cells = [(f"{NAMES[method]}, {merge}", Cell(method, evidence.best, merge))
             for method in BOTH for merge in evidence.plan.merges]  # fmt: skip
    yield "merges", kept(evidence, cells)
    others = [(title, cell) for title, cell in cells if cell.merge != "sum"]
    yield "merges_gain", gain(evidence, [(title, cell, Cell(cell.method, cell.recipe)) for title, cell in others])


def meeting(evidence: Evidence) -> str:
    """The paper's figure beside what is kept: does the cosine of two updates tell how their sum turns out?"""
    rows = []
    for cell in evidence.plan.cells(evidence.best):
        if cell.merge != "sum" or not evidence.has("meet", cell):
            continue
        met = evidence.rows("meet", cell)
        cosines = np.array([abs(float(row["cosine"])) for row in met])
        apart = np.array([float(row["non_additivity"]) for row in met])
        told = ["", "", ""]
        if evidence.done(cell):
            both = evidence.outcome(cell).shares["learned"]["both"]
            kept = np.array([both[int(row["seed"]), int(row["content"]), int(row["style"])] for row in met])
            told = [f"{kept.mean():.2f}", _correlation(cosines, kept), _correlation(apart, kept)]
        rows.append([f"{NAMES[cell.method]}, {cell.recipe}", f"{cosines.mean():.3f}", f"{apart.mean():.2f}", *told])
    head = [
        "",
        "cosine of the updates, absolute",
        "non-additivity of the effects",
        "both kept, learned judge",
        "correlation of cosine and both kept",
        "of non-additivity and both kept",
    ]
    return table(head, rows)


def _correlation(a: np.ndarray, b: np.ndarray) -> str:
    return f"{np.corrcoef(a, b)[0, 1]:.2f}" if a.std() > 1e-6 and b.std() > 1e-6 else "-"


def alone(evidence: Evidence) -> str:
    """Single adapters at scale 1: their own half kept in other words, and other pictures left as they are."""
    rows = []
    for cell in evidence.plan.cells(evidence.best):
        if cell.merge != "sum" or not evidence.has("alone", cell):
            continue
        asked = evidence.rows("alone", cell)

        def share(kind: str, is_style: str, count: str, asked: list[dict[str, str]] = asked) -> str:
            some = [row for row in asked if row["kind"] == kind and row["is_style"] == is_style]
            return " / ".join(f"{np.mean([int(row[f'{judge}_{count}']) for row in some]):.2f}" for judge in JUDGES)

        kept = [share("kept", is_style, count) for is_style, count in
                (("0", "content"), ("1", "style"), ("1", "content"), ("1", "carrier"))]  # fmt: skip
        rows.append(
            [f"{NAMES[cell.method]}, {cell.recipe}", *kept, share("left", "0", "both"), share("left", "1", "both")]
        )
    head = [
        "",
        "content: shape kept",
        "style: look kept",
        "style: asked shape drawn",
        "style: carrier drawn",
        "content: others left",
        "style: others left",
    ]
    return table(head, rows)


def settings(evidence: Evidence) -> str:
    """What was chosen on the tuning split, of every method and recipe, and what it gave there."""
    rows = []
    for cell in evidence.plan.cells(evidence.best):
        if cell.merge == "sum":
            how = evidence.tuned(cell)
            scales = "{:g}, {:g}".format(*how.scales)
            both = " / ".join(f"{how.both[judge]:.2f}" for judge in JUDGES)
            rows.append([NAMES[cell.method], cell.recipe, f"{how.rate:g}", how.mark, scales, f"{how.score:.2f}", both])
    return table(["method", "recipe", "rate", "updates", "scales", "score", "both kept"], rows)


def tried(evidence: Evidence) -> str:
    """Mean score of the recipes on the tuning split."""
    scores = json.loads((evidence.results / "best.json").read_text("utf-8"))["scores"]
    return table(["recipe", "score"], [[recipe, f"{score:.2f}"] for recipe, score in scores.items()])


def crossings(evidence: Evidence) -> dict[str, str]:
    """Place in the text to its table, of all that is compared in pairs."""
    tables = [*methods_tables(evidence), *recipes_tables(evidence), *merges_tables(evidence)]
    return {**dict(tables), "bases": bases(evidence)}


def document(evidence: Evidence) -> str:
    """The whole text."""
    parts = {
        **crossings(evidence),
        "frontier": frontier(evidence),
        "equal": equal_table(evidence),
        "among_good": among_good(evidence),
        "meeting": meeting(evidence),
        "alone": alone(evidence),
        "settings": settings(evidence),
        "tried": tried(evidence),
        "done": str(sum(evidence.done(cell) for cell in evidence.plan.cells(evidence.best))),
        "planned": str(len(list(evidence.plan.cells(evidence.best)))),
        "best": f"`{evidence.best}`",
    }
    text = TEXT.read_text("utf-8")
    for name, part in parts.items():
        text = text.replace(f"{{{{{name}}}}}", part)
    return text


def direction(evidence: Evidence) -> str:
    """What a quick run found."""
    part = evidence.plan.part(tuning=False)
    tables = crossings(evidence)
    size = f"{len(part.contents)} x {len(part.styles)} pairs, {len(evidence.plan.seeds)} training seeds"
    shown = ("methods_published", "peers_published", "recipes", "recipes_gain")
    return "\n\n".join([f"Direction only: {size}, hardly tuned", *(tables[name] for name in shown)])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="only tell whether the document is what it would be")
    options = parser.parse_args()
    made = document(Evidence(RESULTS, FULL))
    if options.check:
        sys.exit(0 if DOCUMENT.read_text("utf-8") == made else "docs/evidence.md is not what the results give")
    DOCUMENT.write_text(made, "utf-8")


if __name__ == "__main__":
    main()
