"""Adapters for host tests, and the same deltas as ordinary LoRA files for the stock nodes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import folder_paths
import torch
from safetensors.torch import save_file
from torch import Tensor

import nodes as host_nodes
from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.host.model.weights import base_weight
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA, decompose, select

_numbers = itertools.count()


def random_adapter(
    patcher: Any, *, rank: int = 8, seed: int = 0, targets: str = "paper", size: float = 0.3, mirrored: bool = False
) -> QRLoRA:
    """An adapter on the model's true basis with a random dR, ``size`` times as large as R.

    Args:
        mirrored: flip the sign of every other column of Q: a basis that another machine may have made.
    """
    generator = torch.Generator().manual_seed(seed)
    available = KeyMap(patcher.model).linear(patcher.model)
    layers = {}
    for path in select(available, targets):
        weight = base_weight(patcher, available[path])
        factors = decompose(weight, min(rank, *weight.shape), alpha=1.5 * rank)
        delta_r = torch.randn(factors.base_r.shape, generator=generator)
        delta_r *= size * factors.base_r.norm() / delta_r.norm()
        signs = torch.ones(factors.rank)
        signs[::2] = -1.0 if mirrored else 1.0
        layers[path] = Layer.single(factors.q * signs, delta_r, alpha=factors.alpha, base_r=factors.base_r)
    return QRLoRA(layers, {"qr_lora.base_model": "a tiny model"}, name=f"random_{seed}.safetensors")


def stock_lora_name(path: str) -> str:
    """The name by which the host's own LoRA loader knows a layer."""
    return f"lora_unet_{path.removeprefix('unet.').replace('.', '_')}" if path.startswith("unet.") else path


def as_stock_tensors(adapter: QRLoRA) -> dict[str, Tensor]:
    """The deltas as an ordinary LoRA: up = Q, down = dR, alpha as it is."""
    tensors = {}
    for path, layer in adapter.layers.items():
        (term,) = layer.terms
        name = stock_lora_name(path)
        tensors[f"{name}.lora_up.weight"] = term.q.clone(memory_format=torch.contiguous_format)
        tensors[f"{name}.lora_down.weight"] = term.delta_r.clone(memory_format=torch.contiguous_format)
        tensors[f"{name}.alpha"] = torch.tensor(term.alpha)
    return tensors


def with_stock_lora(patcher: Any, adapter: QRLoRA, scale: float) -> Any:
    """The model through the stock node LoraLoaderModelOnly, with the adapter as an ordinary LoRA file."""
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"stock_{next(_numbers)}.safetensors"
    save_file(as_stock_tensors(adapter), file)
    return host_nodes.LoraLoaderModelOnly().load_lora_model_only(patcher, file.name, scale)[0]


def relative_error(found: Tensor, expected: Tensor, base: Tensor) -> float:
    """Error relative to the adapter's effect, never to the output."""
    return float((found - expected).norm() / (expected - base).norm())


def merged(patcher: Any, *pairs: tuple[QRLoRA, float], apply: str = "live", **more: Any) -> Any:
    """The model output of the QR-LoRA Merge node."""
    from comfyui_qr_lora.nodes.merge import Merge

    slots = {f"adapter_{slot}": adapter for slot, (adapter, _) in enumerate(pairs, 1)}
    slots |= {f"scale_{slot}": scale for slot, (_, scale) in enumerate(pairs, 1)}
    return Merge.execute(model=patcher, apply=apply, **slots, **more).args[0]
