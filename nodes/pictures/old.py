"""Draw pictures for people: images with labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..qrlora_core import QRLoRAError

_INK, _PAPER = (20, 20, 20), (255, 255, 255)
_CURVE, _FAINT = (31, 99, 190), (168, 190, 222)
_VIEW_WIDTH, _CURVE_HEIGHT, _STRIP = 640, 200, 5


def labelled_grid(
    images: Sequence[Tensor], *, columns: Sequence[str], rows: Sequence[str], column_title: str, row_title: str
) -> Tensor:
    """One picture of all images, row by row, with labels above the columns and left of the rows.

    Args:
        images: (height, width, 3) each, 0..1, all of one size; its values are kept exactly.
        columns, rows: labels; no rows means a single row without a label.

    Returns:
        (1, height, width, 3) float32, 0..1.

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
    font = ImageFont.load_default(size=max(11, min(28, width // 12)))
    line = int(font.size * 1.5)
    left = line + max((int(font.getlength(label)) for label in rows), default=-line) + line // 2 if rows else 0
    top = 2 * line
    canvas = Image.new("RGB", (left + width * len(columns), top + height * max(1, len(rows))), _PAPER)
    draw = ImageDraw.Draw(canvas)
    _centred(draw, column_title, font, left + width * len(columns) // 2, line // 2)
    for index, label in enumerate(columns):
        _centred(draw, label, font, left + width * index + width // 2, line + line // 2)
    for index, label in enumerate(rows):
        _centred(draw, label, font, line + (left - line) // 2, top + height * index + height // 2)
    if row_title:
        _paste_upright(canvas, row_title, font, line, top, height * len(rows))
    picture = torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0)
    for index, image in enumerate(images):
        row, column = divmod(index, len(columns))
        y, x = top + height * row, left + width * column
        picture[y : y + height, x : x + width] = image[..., :3].cpu()
    return picture[None]


def training_view(losses: Sequence[float], pictures: Sequence[tuple[int, Tensor]]) -> Image.Image:
    """The loss curve, and under it a strip of the last sample pictures with their steps.

    Args:
        losses: of every step so far. The faint dots are they, the line their running mean.
        pictures: (step, picture of (height, width, 3), 0 to 1).
    """
    shown = list(pictures)[-_STRIP:]
    side = _VIEW_WIDTH // _STRIP
    font = ImageFont.load_default(size=13)
    canvas = Image.new("RGB", (_VIEW_WIDTH, _CURVE_HEIGHT + (side + 20 if shown else 0)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_curve(draw, np.asarray(losses, dtype=np.float64), font)
    for index, (step, picture) in enumerate(shown):
        tile = Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        tile.thumbnail((side - 4, side - 4))
        canvas.paste(tile, (index * side + (side - tile.width) // 2, _CURVE_HEIGHT))
        _centred(draw, f"step {step}", font, index * side + side // 2, _CURVE_HEIGHT + side + 8)
    return canvas


def _draw_curve(draw: ImageDraw.ImageDraw, losses: np.ndarray, font: ImageFont.FreeTypeFont) -> None:
    left, top, right, bottom = 56, 12, _VIEW_WIDTH - 12, _CURVE_HEIGHT - 24
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=_INK)
    if losses.size == 0:
        return
    mean = _running_mean(losses)
    # Few bad steps must not flatten the rest; every point is drawn inside the frame all the same.
    low, high = float(losses.min()), float(max(np.percentile(losses, 98), mean.max()))
    height = max(high - low, 1e-12)
    x = left + (right - left) * np.arange(1, losses.size + 1) / losses.size
    places = np.linspace(0, losses.size - 1, min(losses.size, right - left)).astype(int)

    def y(values: np.ndarray) -> np.ndarray:
        return np.clip(bottom - (bottom - top) * (values - low) / height, top, bottom)

    draw.point(list(zip(x[places], y(losses[places]), strict=True)), fill=_FAINT)
    draw.line(list(zip(x[places], y(mean[places]), strict=True)), fill=_CURVE, width=2)
    draw.text((left - 6, top), f"{high:.3g}", fill=_INK, font=font, anchor="rt")
    draw.text((left - 6, bottom), f"{low:.3g}", fill=_INK, font=font, anchor="rb")
    draw.text((right, bottom + 4), f"step {losses.size}", fill=_INK, font=font, anchor="rt")
    draw.text((left, bottom + 4), f"loss, mean now {mean[-1]:.4g}", fill=_INK, font=font, anchor="lt")


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the twentieth of all values before each, 10 at least."""
    span = max(10, values.size // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, values.size + 1)
    starts = np.maximum(0, ends - span)
    return (sums[ends] - sums[starts]) / (ends - starts)


def as_image(picture: Image.Image) -> Tensor:
    """(1, height, width, 3) float32, 0 to 1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)[None]


def _centred(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, x: int, y: int) -> None:
    draw.text((x, y), text, fill=_INK, font=font, anchor="mm")


def _paste_upright(
    canvas: Image.Image, text: str, font: ImageFont.FreeTypeFont, line: int, top: int, height: int
) -> None:
    label = Image.new("RGB", (height, line), _PAPER)
    _centred(ImageDraw.Draw(label), text, font, height // 2, line // 2)
    canvas.paste(label.rotate(90, expand=True), (0, top))
