"""Whether the base model and single adapters are good enough for merges to be judged.

    python -m benchmarks.evidence.gates

1. Pairs of known shapes and styles that the base never saw together: shape and style right in at least 95 %.
2. An ordinary LoRA of a style, trained on one picture: an asked known shape is drawn in at least 70 %.
3. An ordinary LoRA of a content, trained on one picture: its shape is kept in other looks in at least 70 %.

All by the analytic judge; the learned one stands beside it. Of each the share of its verdicts that are right, in which
"unclear" counts as wrong, and of its first candidates. The adapters are those of the tuning part, at every rate and
number of updates of the plan; what counts is the setting at which the worse of 2 and 3 is best.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.evidence.alone import questions
from benchmarks.evidence.base import Base, Words
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.measures import COUNTS, Asked, judged, pictures_of, plain
from benchmarks.evidence.plan import FULL, Cell
from benchmarks.evidence.recipes import PUBLISHED
from benchmarks.evidence.statistics import FIRST
from benchmarks.evidence.tuning import SEED
from benchmarks.ratios import claim, finish
from benchmarks.setting import machine
from playground.draw import contact_sheet, save_png
from playground.world.scene import Look
from playground.world.splits import held_out, splits

PAIRS = 96
# What is asked of single adapters: title, role and what is looked for. The first two are the gates.
QUESTIONS = (
    ("style adapter, asked shape drawn", True, "content"),
    ("content adapter, shape kept", False, "content"),
    ("style adapter, style kept", True, "style"),
)


def held_out_pairs(count: int) -> list[Asked]:
    """Some of the pairs that were kept from the base model, by chance and always the same."""
    known = splits()
    pairs = [(shape, style) for shape in known.shapes for style in known.styles if held_out(shape, style)]
    chosen = np.random.default_rng(31).choice(len(pairs), count, replace=False)
    return [plain(shape, Look(style=style)) for shape, style in (pairs[index] for index in chosen)]


Shares = dict[str, float]  # by judge, and by judge and " first"


def shares_of(counts: dict[str, NDArray[np.int64]], name: str) -> Shares:
    """Of pictures that show one of `COUNTS`, content or style."""
    ways = {"": COUNTS.index(name), " first": COUNTS.index(FIRST[name])}
    return {judge + way: float(seen[:, at].mean()) for judge, seen in counts.items() for way, at in ways.items()}


def told(title: str, shares: Shares) -> str:
    return f"{title}: " + ", ".join(f"{judge} {share:.1%}" for judge, share in shares.items())


def on_held_out(bench: Bench) -> tuple[dict[str, Shares], NDArray[np.uint8]]:
    """What the base draws of pairs that it never saw."""
    asked = held_out_pairs(PAIRS)
    base = Base.trained(Words.encoded([one.caption for one in asked], bench.work))
    pictures = pictures_of(base, {}, asked, bench.drawing(1), 0)
    seen = judged(bench.judges, pictures, asked)
    return {name: shares_of(seen, name) for name in ("content", "style")}, pictures


def of_single(bench: Bench, rate: float, mark: int) -> dict[str, Shares]:
    """What single adapters of ordinary LoRA keep, each share over all of a role."""
    asking = [question for question in questions(bench.plan.part(tuning=True)) if question.kind == "kept"]
    adapters = bench.adapters(Cell("lora", PUBLISHED.name), rate, mark, SEED, tuning=True)
    counts = bench.judged_alone(adapters, asking, 1.0, SEED)
    found = {}
    for title, is_style, name in QUESTIONS:
        rows = [row for row, question in enumerate(asking) if question.is_style == is_style]
        found[title] = shares_of({judge: seen[rows] for judge, seen in counts.items()}, name)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".run/evidence/full"))
    parser.add_argument("--sheet", type=Path, help="write pictures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(FULL, options.work.resolve())
    print(machine())
    held, pictures = on_held_out(bench)
    for name, shares in held.items():
        print(told(f"{PAIRS} held-out pairs, {name}", shares))
    tried = {(rate, mark): of_single(bench, rate, mark) for rate in FULL.rates for mark in FULL.marks}
    for (rate, mark), found in tried.items():
        for title, shares in found.items():
            print(told(f"LoRA, rate {rate:g}, {mark} updates, {title}", shares))
    for way in ("analytic", "analytic first"):
        for name, shares in held.items():
            claim(f"held-out pairs, {name} right, {way}", shares[way], 0.95)
        best = max(tried.values(), key=lambda found: min(found[title][way] for title, *_ in QUESTIONS[:2]))
        for title, *_ in QUESTIONS[:2]:
            claim(f"LoRA, {title}, {way}", best[title][way], 0.7)
    if options.sheet:
        save_png(contact_sheet(list(pictures[:, 0]), 12), options.sheet)
    finish()


if __name__ == "__main__":
    main()
