"""What the pack's own roles make of a picture and its caption, as Train QR-LoRA and QR-LoRA Role have them."""

from __future__ import annotations

import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.train.role.captions import read_caption
from comfyui_qr_lora.nodes.host.train.role.geometry import draw_move
from comfyui_qr_lora.nodes.host.train.role.jitter import jittered
from comfyui_qr_lora.nodes.host.train.role.settings import CONTENT, STYLE, RoleSettings


def bias(strength: str) -> float:
    """How far noise levels are bent: to low noise for a style, and as far to high noise for a content."""
    return RoleSettings(strength).recipe(STYLE).noise_bias


def without_appearance(caption: str) -> str:
    """What the switch `drop_appearance` leaves of it."""
    return read_caption(caption).without_appearance


def looks(picture: Tensor, strength: str, count: int, seed: int) -> Tensor:
    """A content's picture (1, 3, h, w) and its variants, (count, 3, h, w)."""
    recipe, generator = RoleSettings(strength).recipe(CONTENT), torch.Generator().manual_seed(seed)
    pixels = picture.movedim(1, -1)
    return torch.cat([picture, *(jittered(pixels, recipe, generator).movedim(-1, 1) for _ in range(1, count))])


def moves(picture: Tensor, strength: str, count: int, seed: int) -> Tensor:
    """A style's picture (1, 3, h, w) and its variants, (count, 3, h, w); in no tiles: nothing here masks seams."""
    recipe, generator = RoleSettings(strength, tiles=1).recipe(STYLE), torch.Generator().manual_seed(seed)
    size = picture.shape[-2:]
    return torch.cat([picture, *(draw_move(*size, recipe, generator).of(picture) for _ in range(1, count))])
