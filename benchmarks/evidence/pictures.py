"""The pictures of `docs/evidence.md`: the first pairs of the test split, nothing chosen.

    python -m benchmarks.evidence.pictures

A row a pair: what the content adapter and the style adapter learned from, and the pair's picture by either method, as
published, at its tuned point, first training seed, first noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.measures import asked_of, pictures_of
from benchmarks.evidence.merging import merged
from benchmarks.evidence.plan import BOTH, FULL, Cell
from benchmarks.evidence.recipes import PUBLISHED
from benchmarks.evidence.results import RESULTS, ROOT
from benchmarks.evidence.run import Run
from playground.draw import contact_sheet, save_png
from playground.world import scene
from playground.world.scene import Look

PAIRS, SEED = 6, 0
PICTURE = ROOT / "docs" / "images" / "evidence.png"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".run/evidence"), help="where adapters are kept")
    run = Run(FULL, RESULTS, parser.parse_args().work.resolve() / "full")
    columns = [*_learned_from(), *(_drawn(run, Cell(method, PUBLISHED.name)) for method in BOTH)]
    rows = [picture for row in zip(*columns, strict=True) for picture in row]
    save_png(contact_sheet(rows, columns=len(columns)), PICTURE)


def _learned_from() -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    part = FULL.part(tuning=False)
    contents = [scene.draw(content.shape, content.look) for content in part.contents[:PAIRS]]
    styles = [scene.draw(one.carrier, Look(style=one.style), seed=row) for row, one in enumerate(part.styles[:PAIRS])]
    return contents, styles


def _drawn(run: Run, cell: Cell) -> list[NDArray[np.uint8]]:
    part, (how, scales) = FULL.part(tuning=False), run.points(cell)["tuned"]
    adapters = run.bench.adapters(cell, how.rate, how.mark, SEED, tuning=False)
    pairs = [(number, len(part.contents) + number) for number in range(PAIRS)]
    asked = [asked_of(part.contents[number], part.styles[number]) for number in range(PAIRS)]
    own = merged(adapters, pairs, scales, cell.merge)
    return list(pictures_of(run.bench.base, own, asked, run.bench.drawing(1), SEED)[:, 0])


if __name__ == "__main__":
    main()
