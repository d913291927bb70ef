"""Ordinary LoRA files on the layers of a small model, for the stock loader and for our nodes alike."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import comfy.lora
import folder_paths
import torch
from safetensors.torch import save_file
from torch import Tensor

import nodes as host_nodes
from devtools import tiny_models

RANK = 4
_numbers = itertools.count()


@cache
def model(name: str) -> Any:
    """The small model of this name, shared by all tests of a process."""
    return tiny_models.build(name)


def predict(name: str, patcher: Any) -> Tensor:
    """What a model, or one that was made of it, predicts."""
    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher))


def matrices(patcher: Any) -> dict[str, tuple[int, ...]]:
    """kohya's names of all whole weights of the network in the host's own table, and their shapes."""
    parameters = dict(patcher.model.named_parameters())
    found = comfy.lora.model_lora_keys_unet(patcher.model, {})
    shapes = {
        name: tuple(parameters[key].shape)
        for name, key in found.items()
        if name.startswith("lora_unet_") and isinstance(key, str) and key in parameters and parameters[key].ndim >= 2
    }
    by_key = {found[name]: name for name in shapes}  # one name for each
    return {name: shapes[name] for name in by_key.values()}


def factors(name: str, shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    """A layer with factors at random."""
    out, inner, *kernel = shape
    up, down = torch.randn(out, RANK, generator=generator), torch.randn(RANK, inner, *kernel, generator=generator)
    return {
        f"{name}.lora_up.weight": 0.1 * up.reshape(out, RANK, *(1 for _ in kernel)),
        f"{name}.lora_down.weight": down / down[0].numel() ** 0.5,
        f"{name}.alpha": torch.tensor(6.0),
    }


def saved(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """A file in models/loras; its name there."""
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"beside_{next(_numbers)}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file, metadata)
    return file.name


def by_stock(patcher: Any, file: str, strength: float) -> Any:
    """The model through the stock node."""
    return host_nodes.LoraLoaderModelOnly().load_lora_model_only(patcher, file, strength)[0]
