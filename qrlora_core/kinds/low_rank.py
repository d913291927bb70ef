"""LoRA: ``alpha / rank * up @ down``, also of convolutions in Tucker form (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from ..adapter import Layer
from ..functional.lora import from_lora, to_lora
from .kind import Kind
from .tensors import require_parts

# How a key ends, by what it holds: kohya, diffusers, ComfyUI, OneTrainer, SimpleTuner.
_ENDINGS = {
    "up": (".lora_up.weight", "_lora.up.weight", ".lora.up.weight", ".lora_linear_layer.up.weight"),
    "down": (".lora_down.weight", "_lora.down.weight", ".lora.down.weight", ".lora_linear_layer.down.weight"),
    "mid": (".lora_mid.weight",),
}
# PEFT: `.lora_A.weight`, with the adapter's name (`.lora_A.default.weight`), or bare.
_PEFT = re.compile(r"^(?P<stem>.+)\.lora_(?P<factor>[AB])(?:\.(?!bias$)[^.]+)?(?:\.weight)?$")
_PEFT_PARTS = {"A": "down", "B": "up"}


@lru_cache(maxsize=2**14)  # files for one model have the same keys
def _part(key: str) -> tuple[str, str] | None:
    for part, endings in _ENDINGS.items():
        for ending in endings:
            if key.endswith(ending) and key != ending:
                return key.removesuffix(ending), part
    match = _PEFT.match(key)
    return (match["stem"], _PEFT_PARTS[match["factor"]]) if match else None


def _layer(name: str, tensors: Mapping[str, Tensor], alpha: float) -> tuple[str, Layer]:
    require_parts(tensors, ("up", "down"))
    return name, Layer((from_lora(tensors["up"], tensors["down"], alpha, tensors.get("mid")),))


def _tensors(layer: Layer) -> dict[str, Tensor] | None:
    if layer.changes or layer.is_vector:
        return None
    up, down = to_lora(layer)
    return {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(float(len(down)))}


LOW_RANK = Kind("LoRA", _part, _layer, ranked="down", write=_tensors)
