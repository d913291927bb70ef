"""Files in the kinds of adapters that LyCORIS writes, and ComfyUI's own loader reads: each layer as what it is."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..adapter import Layer, QRLoRA
from ..errors import AdapterError, Reason
from ..kinds import dora
from ..kinds.registry import KINDS
from .lora_writing import named_layers
from .parts import rounded, split_parameter


def tensors_of(adapter: QRLoRA, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of all layers, each with the keys of its kind.

    Raises:
        AdapterError: a layer that is none of one kind: several side by side, or at a scale at which there is none.
    """
    for name, layer in named_layers(adapter).items():
        tensors = _tensors(layer)
        if tensors is None:
            kinds = " and ".join(dict.fromkeys(change.kind for change in layer.changes))
            raise AdapterError(
                f"layer {name}: {kinds} that is merged with others, or at a scale other than 1, is of no kind that "
                "other tools know. Save as full.",
                Reason.NOT_LOW_RANK,
            )
        for ending, tensor in tensors.items():
            key = _key(name, ending) if layer.is_vector else f"{name}.{ending}"
            is_number = tensor.ndim == 0 or not tensor.is_floating_point()
            yield key, tensor if is_number else rounded(key, tensor, _dtype(layer, dtype))


def _key(name: str, ending: str) -> str:
    """Of a vector, whose name has that of its parameter; there is no ending for a bias that is replaced."""
    stem, parameter = split_parameter(name)
    if parameter != ".bias":
        return f"{stem}.{ending}"
    return f"{stem}.diff_b" if ending == "diff" else f"{name}.{ending}"


def _tensors(layer: Layer) -> dict[str, Tensor] | None:
    """By how their keys end; None where the layer is of no single kind."""
    if found := dora.magnitudes_of(layer):
        inner = _tensors(found[0])
        return None if inner is None else {**inner, **found[1]}
    return next(filter(None, (kind.write(layer) for kind in KINDS)), None)


def _dtype(layer: Layer, dtype: torch.dtype | None) -> torch.dtype:
    """What is near one, such as rotations and norms, has no room for its digits in fewer bits."""
    return torch.float32 if dtype is None or layer.contains_base else dtype
