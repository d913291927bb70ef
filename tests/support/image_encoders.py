"""Small image encoders of the host's own classes: its configurations, narrowed, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.clip_vision
import torch

CONFIGURATIONS = {
    "clip": "clip_vision_config_vitl.json",
    "siglip": "clip_vision_siglip_384.json",
    "dino": "image_encoders/dino2_large.json",
}
_NARROW = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2,
}  # fmt: skip


def narrow_encoder(kind: str, folder: Path, seed: int = 0) -> Any:
    """One of `CONFIGURATIONS`, as CLIP_VISION has it.

    Args:
        folder: where its configuration is written, which the host reads from a file.
    """
    host = Path(comfy.clip_vision.__file__).parent
    settings = json.loads((host / CONFIGURATIONS[kind]).read_text("utf-8"))
    narrow = _NARROW | ({"projection_dim": 16} if "projection_dim" in settings else {})
    narrow |= {} if kind == "dino" else {"image_size": 56}  # the host has as many places for it as published
    path = folder / f"{kind}.json"
    path.write_text(json.dumps({**settings, **narrow}), "utf-8")
    encoder = comfy.clip_vision.ClipVisionModel(str(path))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in encoder.model.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise + 1 if "norm" in name and "weight" in name else noise)
    return encoder
