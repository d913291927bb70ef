"""Measure the playground's pictures: `python -m playground.evaluate --models DIR --sheet FILE`.

The colour is the named one nearest to the foreground's median; the shape is the drawn one whose mask overlaps most
after both are brought to one place and size.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devtools.host import boot
from playground import assemble
from playground.draw import BACKGROUNDS, COLOURS, SHAPES, Scene, contact_sheet, draw, save_png
from playground.generate import Playground
from playground.world.scene import Look
from playground.world.train import plain_looks

Picture = NDArray[np.uint8]


def background(picture: Picture) -> NDArray[np.float64]:
    """Median colour of the outermost pixels."""
    edge = np.concatenate([picture[:3].reshape(-1, 3), picture[-3:].reshape(-1, 3)])
    return np.asarray(np.median(edge, axis=0))


def foreground(picture: Picture) -> NDArray[np.bool_]:
    """Pixels that are clearly not background, (height, width)."""
    return np.asarray(np.linalg.norm(picture - background(picture), axis=2) > 60)


def nearest(colour: NDArray[np.float64], names: dict[str, tuple[int, int, int]]) -> str:
    """The named colour nearest to this one."""
    return min(names, key=lambda name: float(np.linalg.norm(colour - names[name])))


def colour_of(picture: Picture) -> str:
    """Name of the foreground's colour, "" for an empty picture."""
    mask = foreground(picture)
    return nearest(np.median(picture[mask], axis=0), COLOURS) if mask.any() else ""


def background_of(picture: Picture) -> str:
    """Name of the background, as scenes name it."""
    return nearest(background(picture), BACKGROUNDS)


def normalised(mask: NDArray[np.bool_], side: int = 48) -> NDArray[np.bool_]:
    """The mask around its centroid at the scale of its spread, (side, side)."""
    rows, columns = np.nonzero(mask)
    centre = np.array([rows.mean(), columns.mean()])
    spread = np.sqrt(((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2).mean())
    steps = np.linspace(-2.2, 2.2, side) * spread
    at = [np.clip(np.rint(c + steps).astype(int), 0, n - 1) for c, n in zip(centre, mask.shape, strict=True)]
    return np.asarray(mask[np.ix_(*at)])


def overlaps(picture: Picture) -> dict[str, float]:
    """Intersection over union of the foreground with every known shape."""
    mask = foreground(picture)
    if mask.sum() < 50:
        return dict.fromkeys(SHAPES, 0.0)
    shape = normalised(mask)
    references = {name: normalised(foreground(draw(Scene("red", name)))) for name in SHAPES}
    return {name: float((shape & other).sum() / (shape | other).sum()) for name, other in references.items()}


def shape_of(picture: Picture) -> tuple[str, float]:
    """Name of the best overlapping shape, and the overlap."""
    scores = overlaps(picture)
    best = max(scores, key=lambda name: scores[name])
    return best, scores[best]


def evaluate(playground: Playground, seeds: int) -> tuple[str, list[Picture]]:
    """Generate every colour and shape, and report what share comes out right."""
    rows: list[tuple[bool, bool, bool, float, bool]] = []
    pictures: list[Picture] = []
    for colour in COLOURS:
        for i, shape in enumerate(SHAPES):
            scene, is_new = Scene(colour, shape), Look(colour=colour) not in plain_looks(shape)
            for picture in playground.generate(scene.caption, seed=7 * i, count=seeds):
                name, overlap = shape_of(picture)
                good = colour_of(picture) == colour, name == shape and overlap > 0.6, background_of(picture) == ""
                rows.append((*good, overlap, is_new))
            pictures.append(picture)
    table = np.array(rows, dtype=np.float64)
    lines = []
    for title, part in (("seen", table[table[:, 4] == 0]), ("never seen", table[table[:, 4] == 1]), ("all", table)):
        colour, shape, ground, overlap = part[:, :4].mean(axis=0)
        lines.append(f"{title}: {len(part)} pictures, colour {colour:.1%}, shape {shape:.1%}, "
                     f"background {ground:.1%}, mean overlap {overlap:.3f}")  # fmt: skip
    return "\n".join(lines), pictures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path(".run/playground/models"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--sheet", type=Path, help="write the last picture of every prompt here")
    options = parser.parse_args()
    boot()
    assemble.assemble(options.models)
    playground = Playground(options.models / "checkpoints" / assemble.NAME)
    playground.generate("a red circle")
    began = time.perf_counter()
    playground.generate("a red circle")
    print(f"one picture of 20 steps: {time.perf_counter() - began:.2f} s")
    report, pictures = evaluate(playground, options.seeds)
    print(report)
    if options.sheet:
        save_png(contact_sheet(pictures, len(SHAPES)), options.sheet)


if __name__ == "__main__":
    main()
