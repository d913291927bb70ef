"""Folders to try the command with: contents and styles of the world that the embedded model's evidence is of.

python -m benchmarks.evidence.real.example DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.real.pictures import save_picture
from playground.world import scene
from playground.world.scene import Look
from playground.world.splits import splits


def write_example(folder: Path, count: int) -> None:
    """So many contents and styles of the tuning part, as pictures with their words, in `contents` and `styles`."""
    part = splits().tuning
    for content in part.contents[:count]:
        words = content.look.caption(content.shape), scene.bare_caption(content.shape)
        _write(folder / "contents" / content.shape, scene.draw(content.shape, content.look), words)
    for number, style in enumerate(part.styles[:count]):
        look = Look(style=style.style)
        words = look.caption(style.carrier), f"in {style.style} style"
        _write(folder / "styles" / style.style, scene.draw(style.carrier, look, seed=number), words)


def _write(path: Path, picture: NDArray[np.uint8], words: tuple[str, str]) -> None:
    save_picture(picture, path.with_suffix(".png"))
    path.with_suffix(".txt").write_text("\n".join(words) + "\n", "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=3, help="of each (default: %(default)s)")
    options = parser.parse_args()
    write_example(options.folder, options.count)
