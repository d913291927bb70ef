"""Ordinary LoRA files: layers to tensors, under names that other tools know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..adapter import Layer, QRLoRA
from ..errors import AdapterError, Reason
from ..functional.lora import balancing_exponent, to_lora
from .parts import rounded, split_parameter
from .text_encoder_names import are_numbered, dotted_names, is_of_text_encoder, kohya_name

_UNET = "unet."  # before diffusers' names of the layers of a UNet


def tensors_of(adapter: QRLoRA, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of an ordinary LoRA with the same deltas; alpha is the rank everywhere.

    A file has one kind of names, since diffusers takes all of it for what a part of it is. With dotted names of layers
    it has diffusers' and PEFT's endings, which leave alpha out. With names of a UNet, or all without dots, it has
    kohya's names and endings, which every tool for SD1.5 and SDXL reads.
    """
    names = _Names(adapter.layers)
    for stem, given in _by_stem(adapter, names).items():
        layer = _as_low_rank(stem, given)
        if layer.is_vector:
            key = _difference_key(stem)
            yield key, rounded(key, layer.delta_weight().flatten(), dtype or torch.float32)
            continue
        up, down = _balanced(*to_lora(layer))
        is_kohyas = names.are_kohyas and "." not in stem
        endings = ("lora_up", "lora_down") if is_kohyas else ("lora_B", "lora_A")
        for ending, factor in zip(endings, (up, down), strict=True):
            key = f"{stem}.{ending}.weight"
            yield key, rounded(key, factor, dtype or torch.float32)
        if is_kohyas:
            yield f"{stem}.alpha", torch.tensor(float(down.shape[0]))


def named_layers(adapter: QRLoRA) -> dict[str, Layer]:
    """Layers by their name in the file."""
    return _by_stem(adapter, _Names(adapter.layers))


def _as_low_rank(stem: str, layer: Layer) -> Layer:
    """In terms, exactly: what is larger than the weight itself is no ordinary LoRA of any use."""
    if not layer.changes:
        return layer
    kind = layer.changes[0].kind
    if layer.contains_base:
        told = (
            f"layer {stem}: {layer.contains_base} contains the base weight, which no ordinary LoRA does. Save as full."
        )
        raise AdapterError(told, Reason.NOT_LOW_RANK)
    out, inner = layer.shape[0], math.prod(layer.shape[1:])
    if layer.rank * (out + inner) > out * inner:
        raise AdapterError(
            f"layer {stem}: {kind} of rank {layer.rank}, as which an ordinary LoRA would be larger than the weight "
            f"{layer.shape} itself. Save as full.",
            Reason.NOT_LOW_RANK,
        )
    return layer.as_terms()


class _Names:
    """The names of layers in one file.

    Attributes:
        are_kohyas: whether they are kohya's, as far as there are such for the layers, and not dotted ones.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._dotted = dotted_names(paths)
        given = {split_parameter(path)[0] for path in self._dotted}
        named = {split_parameter(_current(name))[0] for name in self._dotted.values()}
        of_network = {name for name in named if not is_of_text_encoder(name)}
        of_unet = any(name.startswith(_UNET) for name in named)
        self.are_kohyas = of_unet or not any("." in name for name in of_network or given)
        self._numbered = are_numbered(given | named)

    def dotted(self, path: str) -> str:
        """The name with the most dots that is known for a layer."""
        return _current(self._dotted[path])

    def stem(self, path: str) -> str:
        """The name in the file."""
        name = self.dotted(path)
        if not self.are_kohyas:
            return name
        if name.startswith(_UNET):
            name, parameter = split_parameter(name)
            return f"lora_unet_{name.removeprefix(_UNET).replace('.', '_')}{parameter}"
        return kohya_name(name, numbered=self._numbered)


def _by_stem(adapter: QRLoRA, names: _Names) -> dict[str, Layer]:
    """Layers by their name in the file.

    A merge may hold one layer under the names of two trainers, which are one name here: their terms are added.
    """
    layers: dict[str, Layer] = {}
    dotted: dict[str, str] = {}
    for path, layer in adapter.layers.items():
        stem, name = names.stem(path), names.dotted(path)
        if stem in layers:
            _require_same_name(stem, dotted.get(stem, name), name)
            try:
                layer = Layer.joined([layers[stem], layer])
            except AdapterError as error:
                raise AdapterError(f"layer {path}: {error}") from error
        layers[stem] = layer
        if "." in name:
            dotted[stem] = name
    return layers


def _require_same_name(stem: str, first: str, second: str) -> None:
    """Two names with dots in other places mean two layers, though kohya's names leave the dots out."""
    if "." in second and first != second:
        raise AdapterError(
            f"layers {first} and {second} would both be {stem} in an ordinary LoRA. Save as full instead."
        )


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
    shift = balancing_exponent(*peaks)
    return torch.ldexp(up, torch.tensor(-shift)), torch.ldexp(down, torch.tensor(shift))
