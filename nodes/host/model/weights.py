"""Read base weights as they are without any patch, whatever their storage: never changed, never kept."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor

from ....qrlora_core import QRLoRAError
from .host_types import Patcher
from .key_map import Target

_FINGERPRINT_SAMPLES = 4096


def base_weight(patcher: Patcher, target: Target) -> Tensor:
    """The unpatched base weight of a target: float32, (out, in), on the device where it is stored.

    Float8, GGUF and other quantized storage is dequantized, with what the layer multiplies its input by
    (`input_scale`) in its columns; a stock LoRA loaded before is not part of it.

    Raises:
        QRLoRAError: a weight of GGUF's, without the package that reads it.
    """
    weight, convert = _stored(patcher, target.key)
    if is_quantized(weight):
        scale = input_scale(patcher.model.get_submodule(target.module))
        return target.of(_dequantized(weight) if scale is None else _dequantized(weight) * scale.to(weight.device))
    if _is_packed(weight):
        return target.of(_unpacked(weight))
    if convert is None:
        return target.of(weight).float()
    # The scale of scaled float8 must be applied in float32, and may be one per row of the whole weight.
    return target.of(convert(weight.float(), inplace=False)).float()


def base_bias(patcher: Patcher, target: Target) -> Tensor | None:
    """The unpatched bias beside a target's weight, float32, of all its rows; None where the layer has none."""
    if getattr(patcher.model.get_submodule(target.module), "bias", None) is None:
        return None
    bias, convert = _stored(patcher, f"{target.module}.bias")
    if _is_packed(bias):
        return _unpacked(bias)
    return bias.float() if convert is None else convert(bias.float(), inplace=False).float()


def is_quantized(weight: object) -> bool:
    """Whether the host stores a weight in a tensor of its own kind, which knows how it is to be read."""
    return hasattr(weight, "_qdata")


def input_scale(module: object) -> Tensor | None:
    """(in,): what a layer multiplies its input by, as ModelOpt's checkpoints have it, or None.

    Its stored weight is divided by that, so that both together are the base: ``W x = (W / s) (s x)``.
    """
    scale: Tensor | None = getattr(module, "pre_quant_scale", None)
    return scale


def _stored(patcher: Patcher, key: str) -> tuple[Tensor, Any]:
    """The unpatched weight as it is stored, and the host's function that undoes its scaling, or None."""
    weight, _, convert = comfy.model_patcher.get_key_weight(patcher.model, key)
    if key in patcher.backup:  # a patched weight is in place of the base one
        weight = patcher.backup[key].weight
    return weight.detach(), convert


def _dequantized(weight: Any) -> Tensor:
    """In float32: by itself it would take the dtype that it was last used in, and so change its bits."""
    exact: Tensor = type(weight)(weight._qdata, *_layout_in_float32(weight)).dequantize()
    return exact


def _layout_in_float32(weight: Any) -> tuple[str, Any]:
    if hasattr(weight, "_layout_params"):  # older hosts
        return weight._layout_type, {**weight._layout_params, "orig_dtype": torch.float32}
    return weight._layout_cls, dataclasses.replace(weight._params, orig_dtype=torch.float32)


def _is_packed(weight: object) -> bool:
    """Whether this is a tensor of a GGUF file: bytes, and beside them of which kind and shape they are."""
    return hasattr(weight, "tensor_type") and hasattr(weight, "tensor_shape")


def _unpacked(weight: Any) -> Tensor:
    """By the format's own package, which whatever loads such files brings along; a pack's own way is rounded more."""
    packed: Tensor = weight.as_subclass(Tensor)
    if packed.is_floating_point():
        return packed.float()
    try:
        import gguf
    except ImportError as error:
        raise QRLoRAError(
            f"this model's weights are packed as in GGUF files ({weight.tensor_type}), which needs the Python package "
            "gguf. Install it into ComfyUI's own Python."
        ) from error
    kind = gguf.GGMLQuantizationType(int(weight.tensor_type))
    values = torch.from_numpy(gguf.quants.dequantize(packed.cpu().numpy(), kind))
    return values.reshape(tuple(weight.tensor_shape)).to(packed.device)


def fingerprint(patcher: Patcher, targets: Mapping[str, Target]) -> dict[str, str]:
    """Module path to a digest of its base weight as stored, without scales: 4096 entries at even distance, as float32.

    Scales stay out, since hosts differ in where they keep those of one and the same file.
    """
    weights = {path: _stored(patcher, target.key)[0] for path, target in targets.items()}
    return {path: _digest(targets[path].of(getattr(weight, "_qdata", weight))) for path, weight in weights.items()}


def _digest(weight: Tensor) -> str:
    flat = weight.flatten()
    step = max(1, flat.numel() // _FINGERPRINT_SAMPLES)
    sample = flat[::step].float().cpu().contiguous().numpy()
    return hashlib.blake2b(sample.tobytes(), digest_size=8).hexdigest()


def base_name(patcher: Patcher) -> str:
    """What the host calls the architecture of the model, for example ``SD3`` or ``Flux``."""
    return type(getattr(patcher.model, "model_config", patcher.model)).__name__


def compute_dtype(patcher: Patcher) -> torch.dtype:
    """The dtype in which the model computes, which for quantized weights is not their storage dtype."""
    if not hasattr(patcher.model, "manual_cast_dtype"):
        return torch.float32  # text encoders: small, and they may compute in another dtype than they are stored in
    return patcher.model.manual_cast_dtype or patcher.model.get_dtype()
