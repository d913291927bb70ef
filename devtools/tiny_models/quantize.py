"""Small models as the host loads them from quantized checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .architecture import Architecture
from .build import build, configuration, model_of, patcher_of
from .registry import ARCHITECTURES

if TYPE_CHECKING:
    from comfyui_qr_lora.nodes.host.model.host_types import HostModel, Patcher

# What a layer's entry says, and how its weight is quantized, by our name of the form.
_Recipe = tuple[dict[str, Any], dict[str, Any]]
_SMOOTHED = "nvfp4_smoothed"  # as ModelOpt has it: every layer's input is scaled, its weight divided by the same
_GROUP = 16  # inputs that are rotated together; divides every width here
_FINEST = {"w4a4": 64}  # inputs that share a scale: a layer of another width stays as it is, as in real checkpoints
_KERNEL = 4  # a GPU's int8 products want both widths in multiples of it: a sum over layers, one wide, stays as it is
_RECIPES: dict[str, _Recipe] = {
    "mixed": ({"format": "float8_e4m3fn"}, {"scale": "recalculate"}),
    "float8_e5m2": ({"format": "float8_e5m2"}, {"scale": "recalculate"}),
    "mxfp8": ({"format": "mxfp8"}, {}),
    "nvfp4": ({"format": "nvfp4"}, {}),
    _SMOOTHED: ({"format": "nvfp4"}, {}),
    "int8": ({"format": "int8_tensorwise"}, {"scale": "recalculate"}),
    "int8_rows": ({"format": "int8_tensorwise"}, {"per_channel": True}),
    "int8_rotated": (
        {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": _GROUP},
        {"per_channel": True, "convrot": True, "convrot_groupsize": _GROUP},
    ),
    "w4a4": ({"format": "convrot_w4a4", "convrot_groupsize": _GROUP}, {"convrot_groupsize": _GROUP}),
    "w4a8": ({"format": "asym_w4a8_int8", "convrot_groupsize": _GROUP}, {"convrot_groupsize": _GROUP}),
}


def quantized_forms() -> tuple[str, ...]:
    """The forms that `quantized` knows and the host can load: ``scaled`` and ``mixed`` are float8, everywhere."""
    import comfy.quant_ops

    known = getattr(comfy.quant_ops, "QUANT_ALGOS", {})
    later = [form for form, (entry, _) in _RECIPES.items() if form != "mixed" and entry["format"] in known]
    return ("scaled", "mixed", *later)


def quantized(
    name: str,
    form: str,
    *,
    compute_dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    seed: int = 0,
    only: Callable[[str], bool] = lambda path: True,
) -> Patcher:
    """A tiny model whose linear layers are quantized, as the host loads such checkpoints.

    Args:
        name: one of `NAMES`.
        form: one of `quantized_forms`. ``scaled`` is a checkpoint of the older kind, float8 with a ``scale_weight``
            beside; in the others weights are the host's `QuantizedTensor`.
        compute_dtype: of all other parameters, and what layers compute in.
        device, seed: as for `build`; the weights are those of `build`, but for rounding.
        only: tells of a layer's dotted name whether it is quantized.
    """
    architecture, plain = ARCHITECTURES[name], build(name, seed=seed).model.diffusion_model
    paths = [
        path
        for path, module in plain.named_modules()
        if isinstance(module, nn.Linear) and only(path) and _quantizes(module, form)
    ]
    load = _load_quantized if _quantizes_by_entry() else _load_float8_of_old
    state = plain.state_dict()
    return patcher_of(lambda: load(architecture, dict(state), paths, form, compute_dtype), device)


def _quantizes(layer: nn.Linear, form: str) -> bool:
    entry = _RECIPES[form][0] if form in _RECIPES else {"format": form}
    if "int8" in entry["format"] and (layer.in_features % _KERNEL or layer.out_features % _KERNEL):
        return False
    return layer.in_features % _FINEST.get(form, 1) == 0


def _quantizes_by_entry() -> bool:
    """Whether a checkpoint says of each layer in an entry of its own how it is quantized; older hosts had a table."""
    import comfy.supported_models_base

    return hasattr(comfy.supported_models_base.BASE, "quant_config")


def _load_quantized(
    architecture: Architecture, state: dict[str, Tensor], paths: list[str], form: str, compute_dtype: torch.dtype
) -> HostModel:
    import comfy.quant_ops
    import comfy.utils

    if form == "scaled":
        state = {**_scaled_float8(state, paths, "scale_weight"), "scaled_fp8": torch.zeros(2)}
        state, _ = comfy.utils.convert_old_quants(state, "", {})
    else:
        entry, how = _RECIPES[form]
        layout = comfy.quant_ops.QUANT_ALGOS[entry["format"]]["comfy_tensor_layout"]
        for path in paths:
            stored = state.pop(f"{path}.weight")
            if form == _SMOOTHED:
                state[f"{path}.pre_quant_scale"] = scale = _smoothing(stored)
                stored = stored / scale
            weight = comfy.quant_ops.QuantizedTensor.from_float(stored, layout, **how)
            state |= weight.state_dict(f"{path}.weight")
            state[f"{path}.comfy_quant"] = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
    config = configuration(architecture)
    config.quant_config = comfy.utils.detect_layer_quantization(state, "")
    config.set_inference_dtype(compute_dtype, compute_dtype)
    model = model_of(architecture, config)
    model.diffusion_model.load_state_dict(state)
    return model


def _smoothing(weight: Tensor) -> Tensor:
    """(in,): the root of each column's mean size, so that the columns that are left are more alike."""
    size = weight.abs().mean(dim=0).clamp_min(1e-4)
    return (size / size.mean()).sqrt() * 1.7  # in all not one either


def _load_float8_of_old(
    architecture: Architecture, state: dict[str, Tensor], paths: list[str], form: str, compute_dtype: torch.dtype
) -> HostModel:
    config = configuration(architecture)
    if form == "scaled":
        config.scaled_fp8 = torch.float8_e4m3fn
        config.set_inference_dtype(compute_dtype, None)
    else:
        config.layer_quant_config = {path: {"format": "float8_e4m3fn"} for path in paths}
        config.set_inference_dtype(compute_dtype, compute_dtype)
    model = model_of(architecture, config)
    name = {"scaled": "scale_weight", "mixed": "weight_scale"}[form]
    model.diffusion_model.load_state_dict(_scaled_float8(state, paths, name))
    return model


def _scaled_float8(state: dict[str, Tensor], paths: list[str], scale_name: str) -> dict[str, Tensor]:
    made = dict(state)
    for path in paths:
        weight = state[f"{path}.weight"]
        scale = weight.abs().amax() / torch.finfo(torch.float8_e4m3fn).max
        made |= {f"{path}.weight": (weight / scale).to(torch.float8_e4m3fn), f"{path}.{scale_name}": scale}
    return made
