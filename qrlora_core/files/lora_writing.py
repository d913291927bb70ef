"""Ordinary LoRA files: layers to tensors, under names that other tools know."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..adapter import Layer, QRLoRA
from ..errors import AdapterError
from ..functional.lora import to_lora
from .parts import rounded, split_parameter


def tensors_of(adapter: QRLoRA, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of an ordinary LoRA with the same deltas; alpha is the rank everywhere.

    Dotted names take diffusers' and PEFT's endings, which leave alpha out. Names of a UNet, and those without dots,
    take kohya's, which every tool for SD1.5 and SDXL reads.
    """
    for (stem, is_peft), layer in _by_stem(adapter).items():
        if layer.is_vector:
            key = _difference_key(stem)
            yield key, rounded(key, layer.delta_weight().flatten(), dtype or torch.float32)
            continue
        up, down = _balanced(*to_lora(layer))
        names = ("lora_B", "lora_A") if is_peft else ("lora_up", "lora_down")
        for name, factor in zip(names, (up, down), strict=True):
            key = f"{stem}.{name}.weight"
            yield key, rounded(key, factor, dtype or torch.float32)
        if not is_peft:
            yield f"{stem}.alpha", torch.tensor(float(down.shape[0]))


def _by_stem(adapter: QRLoRA) -> dict[tuple[str, bool], Layer]:
    """Layers by their name in the file, and whether it takes PEFT's endings.

    A merge may hold one layer under the names of two trainers, which are one name here: their terms are added.
    """
    layers: dict[tuple[str, bool], Layer] = {}
    dotted: dict[tuple[str, bool], str] = {}
    for path, layer in adapter.layers.items():
        stem = _stem(path)
        if stem in layers:
            _require_same_name(stem[0], dotted.get(stem, path), path)
            try:
                layer = layer.with_terms((*layers[stem].terms, *layer.terms))
            except AdapterError as error:
                raise AdapterError(f"layer {path}: {error}") from error
        layers[stem] = layer
        if "." in path:
            dotted[stem] = path
    return layers


def _require_same_name(stem: str, first: str, second: str) -> None:
    """Two names with dots in other places mean two layers, though kohya's names leave the dots out."""
    if "." in second and _current(first) != _current(second):
        raise AdapterError(
            f"layers {first} and {second} would both be {stem} in an ordinary LoRA. Save as full instead."
        )


def _stem(path: str) -> tuple[str, bool]:
    if "." not in path:
        return path, False
    path = _current(path)
    if path.startswith("unet."):
        path, parameter = split_parameter(path)
        return f"lora_unet_{path.removeprefix('unet.').replace('.', '_')}{parameter}", False
    return path, True


def _difference_key(name: str) -> str:
    stem, parameter = split_parameter(name)
    return stem + (".diff_b" if parameter == ".bias" else ".diff")


def _current(path: str) -> str:
    """The name of today for a layer of diffusers' former attention processors."""
    if ".processor.to_" not in path:
        return path
    path = path.replace(".processor.to_", ".to_")
    return f"{path}.0" if path.endswith(".to_out") else path


def _balanced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with factors of about one size, by a power of two, so that none vanishes in float16."""
    peaks = [float(factor.abs().max()) for factor in (up, down)]
    if 0.0 in peaks:
        return up, down
    shift = round((math.log2(peaks[0]) - math.log2(peaks[1])) / 2)
    return torch.ldexp(up, torch.tensor(-shift)), torch.ldexp(down, torch.tensor(shift))
