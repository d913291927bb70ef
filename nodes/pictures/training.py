"""How a training goes: its losses and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .drawing import INK, PAPER, centred, font_of

_CURVE, _FAINT = (31, 99, 190), (168, 190, 222)
_VIEW_WIDTH, _CURVE_HEIGHT, _STRIP = 640, 200, 5
_SIDE = _VIEW_WIDTH // _STRIP
_ROW, _HEADING = _SIDE + 20, 20

Row = Sequence[tuple[int, Tensor]]  # (step, picture of (height, width, 3), 0 to 1)


def training_view(losses: Sequence[float], samples: Mapping[str, Row]) -> Image.Image:
    """The loss curve, and under it a row of the last sample pictures of each kind with their steps.

    Args:
        losses: of every step so far. The faint dots are they, the line their running mean.
        samples: rows by kind; the first has no heading.
    """
    rows = {kind: row[-_STRIP:] for kind, row in samples.items() if row}
    font = font_of(13)
    height = _CURVE_HEIGHT + len(rows) * _ROW + max(0, len(rows) - 1) * _HEADING
    canvas = Image.new("RGB", (_VIEW_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_curve(draw, np.asarray(losses, dtype=np.float64), font)
    top = _CURVE_HEIGHT
    for number, (kind, row) in enumerate(rows.items()):
        if number:
            draw.text((8, top), kind.replace("_", " "), fill=INK, font=font, anchor="lt")
            top += _HEADING
        _draw_row(canvas, draw, row, top, font)
        top += _ROW
    return canvas


def _draw_row(canvas: Image.Image, draw: ImageDraw.ImageDraw, row: Row, top: int, font: ImageFont.FreeTypeFont) -> None:
    for index, (step, picture) in enumerate(row):
        tile = Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        tile.thumbnail((_SIDE - 4, _SIDE - 4))
        canvas.paste(tile, (index * _SIDE + (_SIDE - tile.width) // 2, top))
        centred(draw, f"step {step}" if step else "base", font, index * _SIDE + _SIDE // 2, top + _SIDE + 8)


def _draw_curve(draw: ImageDraw.ImageDraw, losses: np.ndarray, font: ImageFont.FreeTypeFont) -> None:
    left, top, right, bottom = 56, 12, _VIEW_WIDTH - 12, _CURVE_HEIGHT - 24
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=INK)
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
    draw.text((left - 6, top), f"{high:.3g}", fill=INK, font=font, anchor="rt")
    draw.text((left - 6, bottom), f"{low:.3g}", fill=INK, font=font, anchor="rb")
    draw.text((right, bottom + 4), f"step {losses.size}", fill=INK, font=font, anchor="rt")
    draw.text((left, bottom + 4), f"loss, mean now {mean[-1]:.4g}", fill=INK, font=font, anchor="lt")


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the twentieth of all values before each, 10 at least."""
    span = max(10, values.size // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, values.size + 1)
    starts = np.maximum(0, ends - span)
    means: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return means
