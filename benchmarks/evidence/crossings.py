"""Tables of what is compared in pairs: methods, bases, recipes and merges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.evidence.plan import BOTH, PEERS, Cell
from benchmarks.evidence.recipes import PUBLISHED
from benchmarks.evidence.results import Evidence
from benchmarks.evidence.statistics import JUDGES, difference, level
from benchmarks.evidence.tables import NAMES, table, verdict


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


def recipes_tables(evidence: Evidence, key: str, recipes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Recipes for two methods, and against the published one."""
    cells = [(f"{NAMES[method]}, {recipe}", Cell(method, recipe)) for method in BOTH for recipe in recipes]
    others = [(title, cell) for title, cell in cells if cell.recipe != PUBLISHED.name]
    pairs = [(title, cell, Cell(cell.method, PUBLISHED.name)) for title, cell in others]
    yield key, kept(evidence, cells)
    yield f"gain_{key}", gain(evidence, pairs)
    yield f"both_{key}", gain(evidence, pairs, "both")


def merges_tables(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """All merges for two methods, and against the sum."""
    cells = [(f"{NAMES[method]}, {merge}", Cell(method, evidence.best, merge))
             for method in BOTH for merge in evidence.plan.merges]  # fmt: skip
    yield "merges", kept(evidence, cells)
    others = [(title, cell) for title, cell in cells if cell.merge != "sum"]
    yield "merges_gain", gain(evidence, [(title, cell, Cell(cell.method, cell.recipe)) for title, cell in others])


def crossings(evidence: Evidence) -> dict[str, str]:
    """Place in the text to its table, of all that is compared in pairs."""
    plan = evidence.plan
    recipes = recipes_tables(evidence, "recipes", plan.recipes)
    roles = recipes_tables(evidence, "roles", (PUBLISHED.name, *plan.later))
    tables = [*methods_tables(evidence), *recipes, *roles, *merges_tables(evidence)]
    return {**dict(tables), "bases": bases(evidence)}
