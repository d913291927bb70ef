"""Whether the base model and single adapters are good enough for merges to be judged.

    python -m benchmarks.evidence.gates

1. Pairs of known shapes and styles that the base never saw together: shape and style right in at least 95 %.
2. An ordinary LoRA of a style, trained on one picture: an asked known shape is drawn in at least 70 %.
3. An ordinary LoRA of a content, trained on one picture: its shape is kept in other looks in at least 70 %.

All by the analytic judge; the learned one stands beside it. The adapters are those of the tuning part.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.evidence.alone import questions
from benchmarks.evidence.base import Base, Words
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.measures import COUNTS, Asked, Drawing, judged, pictures_of, plain
from benchmarks.evidence.plan import FULL, Cell
from benchmarks.ratios import claim, finish
from playground.draw import contact_sheet, save_png
from playground.world.scene import Look
from playground.world.splits import held_out, splits

PAIRS, RATE = 96, 3e-3


def held_out_pairs(count: int) -> list[Asked]:
    """Some of the pairs that were kept from the base model, by chance and always the same."""
    known = splits()
    pairs = [(shape, style) for shape in known.shapes for style in known.styles if held_out(shape, style)]
    chosen = np.random.default_rng(31).choice(len(pairs), count, replace=False)
    return [plain(shape, Look(style=style)) for shape, style in (pairs[index] for index in chosen)]


def told(title: str, counts: dict[str, np.ndarray], name: str) -> float:
    """Print the share of one count by each judge; the analytic judge's is returned."""
    at = COUNTS.index(name)
    shares = {judge: float(seen[:, at].mean()) for judge, seen in counts.items()}
    print(f"{title}: " + ", ".join(f"{judge} {share:.1%}" for judge, share in shares.items()))
    return shares["analytic"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".run/evidence/full"))
    parser.add_argument("--sheet", type=Path, help="write pictures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(FULL, options.work.resolve())
    asked = held_out_pairs(PAIRS)
    base = Base.trained(Words.encoded([one.caption for one in asked], bench.work))
    pictures = pictures_of(base, {}, asked, Drawing(1, FULL.steps, FULL.cfg), 0)
    seen = judged(bench.judges, pictures, asked)
    for name in ("content", "style"):
        claim(f"held-out pairs, {name} right", told(f"{len(asked)} held-out pairs, {name}", seen, name), 0.95)
    asking = [question for question in questions(FULL.part(tuning=True)) if question.kind == "kept"]
    adapters = bench.adapters(Cell("lora", "published"), RATE, FULL.marks[-1], 0, tuning=True)
    counts = bench.judged_alone(adapters, asking, 1.0, 0)
    for is_style, title in ((True, "style adapter, asked shape drawn"), (False, "content adapter, shape kept")):
        rows = [row for row, question in enumerate(asking) if question.is_style == is_style]
        share = told(f"{title}, {len(rows)} pictures", {judge: c[rows] for judge, c in counts.items()}, "content")
        claim(title, share, 0.7)
    if options.sheet:
        save_png(contact_sheet(list(pictures[:, 0]), 12), options.sheet)
    finish()


if __name__ == "__main__":
    main()
