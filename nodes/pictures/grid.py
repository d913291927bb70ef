"""Images side by side, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...qrlora_core.errors import QRLoRAError
from .drawing import PAPER, centred, font_of


@dataclass(frozen=True)
class LabelledGrid:
    """A picture of many cells.

    Attributes:
        picture: (1, height, width, 3) float32, 0..1.
        cells: left, top, width and height of each cell, row by row, as shares of the picture's.
    """

    picture: Tensor
    cells: list[tuple[float, float, float, float]]


def labelled_grid(
    images: Sequence[Tensor], *, columns: Sequence[str], rows: Sequence[str], column_title: str, row_title: str
) -> LabelledGrid:
    """One picture of all images, row by row, with labels above the columns and left of the rows.

    Args:
        images: (height, width, 3) each, 0..1, all of one size; its values are kept exactly.
        columns, rows: labels; no rows means a single row without a label.

    Raises:
        QRLoRAError: another number of images than cells, or images of different sizes.
    """
    expected = len(columns) * max(1, len(rows))
    if len(images) != expected:
        raise QRLoRAError(f"images: expected {expected}, one per cell of the sweep, found {len(images)}.")
    sizes = {tuple(image.shape[:2]) for image in images}
    if len(sizes) > 1:
        raise QRLoRAError(f"images: expected all of one size, found {sorted(sizes)}.")
    height, width = sizes.pop()
    font = font_of(max(11, min(28, width // 12)))
    line = int(font.size * 1.5)
    left = line + max((int(font.getlength(label)) for label in rows), default=-line) + line // 2 if rows else 0
    top = 2 * line
    canvas = Image.new("RGB", (left + width * len(columns), top + height * max(1, len(rows))), PAPER)
    draw = ImageDraw.Draw(canvas)
    centred(draw, column_title, font, left + width * len(columns) // 2, line // 2)
    for index, label in enumerate(columns):
        centred(draw, label, font, left + width * index + width // 2, line + line // 2)
    for index, label in enumerate(rows):
        centred(draw, label, font, line + (left - line) // 2, top + height * index + height // 2)
    if row_title:
        _paste_upright(canvas, row_title, font, line, top, height * len(rows))
    picture = torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0)
    cells = []
    for index, image in enumerate(images):
        row, column = divmod(index, len(columns))
        y, x = top + height * row, left + width * column
        picture[y : y + height, x : x + width] = image[..., :3].cpu()
        cells.append((x / canvas.width, y / canvas.height, width / canvas.width, height / canvas.height))
    return LabelledGrid(picture[None], cells)


def shrunk(picture: Tensor, longest: int) -> Tensor:
    """(1, height, width, 3) with no side longer than this."""
    share = longest / max(picture.shape[1:3])
    if share >= 1:
        return picture
    size = [max(1, round(side * share)) for side in picture.shape[1:3]]
    return torch.nn.functional.interpolate(picture.movedim(-1, 1), size=size, mode="area").movedim(1, -1)


def _paste_upright(
    canvas: Image.Image, text: str, font: ImageFont.FreeTypeFont, line: int, top: int, height: int
) -> None:
    label = Image.new("RGB", (height, line), PAPER)
    centred(ImageDraw.Draw(label), text, font, height // 2, line // 2)
    canvas.paste(label.rotate(90, expand=True), (0, top))
