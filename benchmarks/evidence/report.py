"""Make `docs/evidence.md` of the committed raw results: `python -m benchmarks.evidence.report [--check]`.

Every number in it is computed here; a test runs this and compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.evidence.crossings import crossings
from benchmarks.evidence.plan import BOTH, EQUAL, FULL, Cell
from benchmarks.evidence.results import RESULTS, ROOT, Evidence
from benchmarks.evidence.singles import alone, alone_gain, among_good, by_updates, equal_table
from benchmarks.evidence.statistics import JUDGES
from benchmarks.evidence.tables import NAMES, table

DOCUMENT = ROOT / "docs" / "evidence.md"
TEXT = Path(__file__).with_name("evidence.md.in")  # what people say of the numbers, with a place for each table


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


def own(evidence: Evidence) -> str:
    """Score of the pack's own roles on the tuning split, of either method."""
    cells = [(recipe, [evidence.tuned(Cell(method, recipe)) for method in BOTH]) for recipe in evidence.plan.own]
    rows = [[recipe, *(f"{one.score:.2f}" for one in tuned), f"{np.mean([one.score for one in tuned]):.2f}"]
            for recipe, tuned in cells]  # fmt: skip
    return table(["recipe", *(NAMES[method] for method in BOTH), "mean"], rows)


def document(evidence: Evidence) -> str:
    """The whole text."""
    parts = {
        **crossings(evidence),
        "frontier": frontier(evidence),
        "equal": equal_table(evidence),
        "among_good": among_good(evidence),
        "meeting": meeting(evidence),
        "alone": alone(evidence),
        "gain_alone": alone_gain(evidence),
        "own": own(evidence),
        "by_updates": by_updates(evidence),
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
    shown = ("methods_published", "peers_published", "recipes", "gain_recipes")
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
