"""What all pictures share: colours, centred text, and the way to a host image."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

INK, PAPER = (20, 20, 20), (255, 255, 255)


def as_image(picture: Image.Image) -> Tensor:
    """(1, height, width, 3) float32, 0 to 1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)[None]


def font_of(size: float) -> ImageFont.FreeTypeFont:
    """Pillow's own."""
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # of any size, it can be no other
    return font


def centred(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, x: int, y: int) -> None:
    """Text around a point."""
    draw.text((x, y), text, fill=INK, font=font, anchor="mm")
