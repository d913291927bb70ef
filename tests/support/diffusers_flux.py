"""The same FLUX in diffusers: a twin of a host model, and what both predict for the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.utils
import torch
from diffusers import FluxTransformer2DModel
from einops import rearrange
from torch import Tensor

from devtools import tiny_models

_PATCH = {"ph": 2, "pw": 2}


def twin_of(patcher: Any) -> FluxTransformer2DModel:
    """A diffusers FLUX of the host model's configuration with copies of its weights, float32."""
    unet = patcher.model.model_config.unet_config
    twin = FluxTransformer2DModel(
        in_channels=unet["in_channels"] * unet["patch_size"] ** 2,
        num_layers=unet["depth"],
        num_single_layers=unet["depth_single_blocks"],
        attention_head_dim=unet["hidden_size"] // unet["num_heads"],
        num_attention_heads=unet["num_heads"],
        joint_attention_dim=unet["context_in_dim"],
        pooled_projection_dim=unet["vec_in_dim"],
        guidance_embeds=unet["guidance_embed"],
        axes_dims_rope=tuple(unet["axes_dim"]),
    ).eval()
    host = patcher.model.diffusion_model.state_dict()
    table = comfy.utils.flux_to_diffusers(unet)
    twin.load_state_dict({name: _entry(host, table[name]) for name in twin.state_dict()})
    return twin


def _entry(host: Mapping[str, Tensor], entry: Any) -> Tensor:
    """What an entry of the host's table means: a key, then perhaps a slice, then perhaps a reordering of rows."""
    key, offset, reorder = (entry, None, None) if isinstance(entry, str) else (*entry, None)[:3]
    weight = host[key] if offset is None else host[key].narrow(*offset)
    return weight if reorder is None else reorder(weight)  # swapping scale and shift is its own inverse


def host_velocity(patcher: Any, inputs: Mapping[str, Any]) -> Tensor:
    """The host network's own output: its prediction is ``x - sigma * velocity``."""
    x, sigma = inputs["x"], inputs["t"].reshape(-1, 1, 1, 1)
    return (x - tiny_models.predict(patcher, dict(inputs))) / sigma


def twin_velocity(
    twin: FluxTransformer2DModel, inputs: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None
) -> Tensor:
    """The diffusers network's output for the host's inputs, unpacked to the shape of the latent.

    Args:
        inputs: from `tiny_models.sample_inputs`: latents (batch, 16, height, width), sigma from 0 to 1, text.
        weights: parameter name to what stands in its place in this call.
    """
    height, width = (size // 2 for size in inputs["x"].shape[-2:])
    arguments = {
        "hidden_states": rearrange(inputs["x"], "b c (h ph) (w pw) -> b (h w) (c ph pw)", **_PATCH),
        "encoder_hidden_states": inputs["c_crossattn"],
        "pooled_projections": inputs["y"],
        "timestep": inputs["t"],  # both multiply sigma and guidance by 1000
        "guidance": inputs["guidance"],
        "img_ids": _positions(height, width),
        "txt_ids": torch.zeros(inputs["c_crossattn"].shape[1], 3),
        "return_dict": False,
    }
    with torch.no_grad():
        (packed,) = torch.func.functional_call(twin, dict(weights or {}), kwargs=arguments)
    return rearrange(packed, "b (h w) (c ph pw) -> b c (h ph) (w pw)", h=height, **_PATCH)


def _positions(height: int, width: int) -> Tensor:
    """(0, row, column) of every 2 x 2 patch."""
    return torch.cartesian_prod(torch.zeros(1), torch.arange(float(height)), torch.arange(float(width)))
