"""Tables of single adapters, and of pairs whose single adapters are equally good."""

from __future__ import annotations

import numpy as np

from benchmarks.evidence import equal
from benchmarks.evidence.alone import EACH
from benchmarks.evidence.plan import BOTH, Cell
from benchmarks.evidence.recipes import PUBLISHED
from benchmarks.evidence.results import Evidence
from benchmarks.evidence.statistics import JUDGES, Array, difference, interval, outcomes
from benchmarks.evidence.tables import NAMES, table, verdict


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


def by_updates(evidence: Evidence) -> str:
    """Contents kept by single adapters after so many updates, on the tuning split, mean of both judges."""
    cells = [Cell(method, recipe) for method in BOTH for recipe in (PUBLISHED.name, *evidence.plan.later)]
    paths = {cell: equal.quality_path(evidence.results, cell) for cell in cells}
    rows = [[f"{NAMES[cell.method]}, {cell.recipe}", *(f"{share:.2f}" for share in equal.quality(path).values())]
            for cell, path in paths.items() if path.exists()]  # fmt: skip
    return table(["contents kept after updates", *map(str, evidence.plan.marks)], rows)


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
    contents, styles = (kept >= 0.5 for kept in _kept_alone(evidence, cell, judge))
    return contents[:, :, None] & styles[:, None, :]


def _kept_alone(evidence: Evidence, cell: Cell, judge: str) -> tuple[Array, Array]:
    """Share of its pictures in which each single adapter keeps its half: (seeds, contents) and (seeds, styles)."""
    plan = evidence.plan
    part = plan.part(tuning=False)
    kept = np.zeros((len(plan.seeds), len(part.contents) + len(part.styles)))
    for row in evidence.rows("alone", cell):
        if row["kind"] == "kept":
            half = "style" if row["is_style"] == "1" else "content"
            kept[int(row["seed"]), int(row["adapter"])] += int(row[f"{judge}_{half}"]) / EACH
    contents, styles = np.split(kept, [len(part.contents)], axis=1)
    return contents, styles


def alone_gain(evidence: Evidence) -> str:
    """How much more single adapters of the recipes that came later keep than those of the published one, paired."""
    rows = []
    for cell in (Cell(method, recipe) for method in BOTH for recipe in evidence.plan.later):
        published = Cell(cell.method, PUBLISHED.name)
        if not all(evidence.has("alone", one) for one in (cell, published)):
            continue
        for half, name in enumerate(("content", "style")):
            now, before = ([_kept_alone(evidence, one, judge)[half] for judge in JUDGES] for one in (cell, published))
            found = [interval(_same, (a - b)[:, :, None]) for a, b in zip(now, before, strict=True)]
            shares = (" / ".join(f"{kept.mean():.2f}" for kept in some) for some in (before, now))
            rows.append([f"{NAMES[cell.method]}, {cell.recipe}, {name}", *shares, *found, verdict(found)])
    head = ["kept by single adapters", "published", "with roles", "paired difference, analytic", "learned", ""]
    return table(head, rows)


def _same(gap: Array) -> Array:
    return gap
