"""Folders of pictures with their words: what adapters learn from, and what judges compare with.

Beside `whale.png` lies `whale.txt`: the caption that the adapter is trained with and, if there is one, a second line
with what stands for it in the prompt of a pair. Of a style that is the part that names no thing: "a bird in moss style"
is learned, "in moss style" is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from benchmarks.evidence.real.errors import InputError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LEAST = 2  # with fewer, nothing could be mistaken for it


@dataclass(frozen=True, eq=False)
class Subject:
    """A content or a style, the same as itself alone.

    Attributes:
        name: of its file, without the ending.
        caption: what its picture is learned with. phrase: what stands for it in the prompt of a pair.
        pixels: (1, size, size, 3) float32, 0 to 1.
    """

    name: str
    caption: str
    phrase: str
    pixels: Tensor


def read_folder(folder: Path, size: int) -> list[Subject]:
    """All pictures of a folder by name, each cut to a square about its middle.

    Args:
        size: side of the squares in pixels.

    Raises:
        InputError: no folder, fewer than two pictures, or one that cannot be read or has no words.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of pictures, found none.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    if len(paths) < LEAST:
        raise InputError(
            f"{folder}: expected at least {LEAST} pictures ({', '.join(ENDINGS)}), found {len(paths)}. What is kept is "
            "told by which of them is the most similar."
        )
    return [Subject(path.stem, *_words(path.with_suffix(".txt")), _pixels(path, size)) for path in paths]


def digest(subjects: Sequence[Subject]) -> str:
    """Of all pictures and words, in order: other ones make other results."""
    made = hashlib.sha256()
    for subject in subjects:
        made.update(f"{subject.caption}\n{subject.phrase}\n".encode())
        made.update(as_bytes(subject.pixels).tobytes())
    return made.hexdigest()[:16]


def as_bytes(pixels: Tensor) -> NDArray[np.uint8]:
    """Pictures of 0 to 1 as bytes."""
    rounded: NDArray[np.uint8] = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return rounded


def read_pixels(path: Path) -> Tensor:
    """A picture, (1, height, width, 3) float32, 0 to 1."""
    with Image.open(path) as image:
        return _as_pixels(image)


def save_picture(picture: NDArray[np.uint8], path: Path) -> None:
    """As a PNG, whole or not at all; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(picture).save(temporary, format="png")
    temporary.replace(path)


def _words(path: Path) -> tuple[str, str]:
    if not path.is_file():
        raise InputError(f"{path}: expected a text file with the picture's caption, found none. Write one.")
    lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if len(lines) not in (1, 2):
        raise InputError(
            f"{path}: expected one or two lines, the caption and what stands for it in the prompt of a pair, found "
            f"{len(lines)}."
        )
    return lines[0], lines[-1]


def _pixels(path: Path, size: int) -> Tensor:
    try:
        with Image.open(path) as image:
            return _as_pixels(ImageOps.fit(ImageOps.exif_transpose(image), (size, size), Image.Resampling.LANCZOS))
    except OSError as error:
        raise InputError(f"{path}: expected a picture, found what cannot be read as one ({error}).") from error


def _as_pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)[None]
