"""What the tests of roles share: recipes, pictures encoded by a stand-in for a VAE, a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.train.dataset import Example
from comfyui_qr_lora.nodes.host.train.role.settings import CONTENT, STYLE, Recipe, RoleSettings
from comfyui_qr_lora.nodes.host.train.samples import SampleSettings
from comfyui_qr_lora.nodes.host.train.settings import RunSettings

ROLES = (CONTENT, STYLE)


def recipe(role: str, strength: str = "medium", **numbers: Any) -> Recipe:
    return RoleSettings(strength, **({"variants": 5} | numbers)).recipe(role)


def encoded(pixels: Tensor, vae: Any, **more: Any) -> dict[str, Any]:
    return {"samples": vae.encode(pixels), **more}


def seen_with(vae: Any, **settings: Any) -> RunSettings:
    return RunSettings(samples=SampleSettings(vae=vae), **settings)


def example(pixels: Tensor, vae: Any, mask: Tensor | None = None) -> Example:
    return Example(vae.encode(pixels), (), mask, pixels=pixels)


def square(size: int = 64) -> Tensor:
    """A mask (1, size, size), 1 in the middle."""
    mask = torch.zeros(1, size, size)
    mask[:, size // 4 : -size // 4, size // 4 : -size // 4] = 1
    return mask
