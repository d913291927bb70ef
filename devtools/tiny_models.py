"""Small random-weight models of true architecture: the host's own classes, key names and key maps.

Only widths and depths are reduced. What a newer host asks for beyond the settings here, its own detection is asked.
Call `devtools.host.boot()` first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

if TYPE_CHECKING:
    from comfyui_qr_lora.nodes.host.model.host_types import HostModel, Patcher

__all__ = [
    "NAMES",
    "TITLES",
    "build",
    "example",
    "lacking",
    "predict",
    "quantized",
    "quantized_forms",
    "real_width_flux",
    "sample_inputs",
]

_CONTEXT_WIDTH = 96
_CONTEXT_LENGTH = 12
_NOISE_LEVEL = 0.5  # share of the sampling schedule at which inputs are made
_GUIDANCE = 4.0  # 1000 times this is a bfloat16 number: the host embeds it in the model's dtype
BLOCK = 1_048_583  # random numbers drawn per tensor; a prime, so that no two rows of a larger one are equal
_ROPE_AXES = (8, 12, 12)  # of heads 32 wide


@dataclass(frozen=True)
class _Architecture:
    """A configuration class of the host, how to fill it, and what its model takes.

    Args:
        title: what people call it.
        config: name in `comfy.supported_models`.
        unet: keyword arguments of the model, as the host's detection would find them.
        latent: shape of one latent, without the batch.
        pooled: width of the pooled text embedding, where the model takes one.
        masked: whether the model needs the text encoder's mask.
        tokens: whether the model takes the numbers of the text's tokens beside the text.
        narrow: replaces what the host gives a fixed width that is too large for a small model.
    """

    title: str
    config: str
    unet: dict[str, Any] = field(repr=False)
    latent: tuple[int, ...]
    pooled: int = 768
    masked: bool = False
    tokens: bool = False
    narrow: Callable[[nn.Module], None] = lambda network: None


_UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "model_channels": 32,
    "context_dim": _CONTEXT_WIDTH,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
_SD15 = _UNET | {
    "adm_in_channels": None,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_linear_in_transformer": False,
}
_SDXL = _UNET | {
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_linear_in_transformer": True,
}
_SD3 = {  # the host fixes hidden size = 64 * depth
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "depth": 2,
    "input_size": None,
    "adm_in_channels": 2048,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": _CONTEXT_WIDTH, "out_features": 128},
    },
    "num_patches": 16 * 16,
    "pos_embed_max_size": 16,
    "pos_embed_scaling_factor": None,
}
_FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 768,
    "context_in_dim": _CONTEXT_WIDTH,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": list(_ROPE_AXES),
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
}
_FLUX2 = _FLUX | {
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "vec_in_dim": None,
    "mlp_ratio": 3.0,
    "axes_dim": [8, 8, 8, 8],
    "theta": 2000,
    "qkv_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
}
_CHROMA = {key: value for key, value in _FLUX.items() if key not in ("vec_in_dim", "guidance_embed")} | {
    "image_model": "chroma",
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 128,
    "hidden_dim": 64,
    "n_layers": 2,
}
_LUMINA2 = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 192,
    "cap_feat_dim": _CONTEXT_WIDTH,
    "n_layers": 2,
    "qk_norm": True,
    "n_heads": 6,
    "n_kv_heads": 2,  # grouped queries, three to one as in the real model
    "axes_dims": list(_ROPE_AXES),
    "axes_lens": [300, 512, 512],
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 4.0,
}
_Z_IMAGE = _LUMINA2 | {
    "dim": 256,  # at least: its time embedding is 256 wide
    "n_heads": 8,
    "n_kv_heads": 8,
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
_QWEN_IMAGE = {
    "image_model": "qwen_image",
    "in_channels": 64,
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": _CONTEXT_WIDTH,
    "axes_dims_rope": _ROPE_AXES,
}
_WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 128,
    "out_dim": 16,
    "num_heads": 4,
    "ffn_dim": 512,
    "num_layers": 2,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
    "text_dim": _CONTEXT_WIDTH,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "in_dim": 16,
}
_HUNYUAN = {
    "image_model": "hunyuan_video",
    "context_in_dim": _CONTEXT_WIDTH,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 2,
    "theta": 256,
    "qkv_bias": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
}
_HUNYUAN_IMAGE = _HUNYUAN | {
    "in_channels": 64,
    "out_channels": 64,
    "patch_size": [1, 1],
    "axes_dim": [16, 16],
    "vec_in_dim": None,
    "guidance_embed": False,
}
_HUNYUAN_VIDEO = _HUNYUAN | {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "axes_dim": list(_ROPE_AXES),
    "vec_in_dim": 768,
    "guidance_embed": True,
}
_LTXV = {
    "image_model": "ltxv",
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "cross_attention_dim": 128,
    "caption_channels": _CONTEXT_WIDTH,
}
_OMNIGEN2 = {
    "image_model": "omnigen2",
    "axes_dim_rope": list(_ROPE_AXES),
    "axes_lens": [1024, 1664, 1664],
    "ffn_dim_multiplier": None,
    "hidden_size": 192,
    "in_channels": 16,
    "multiple_of": 256,
    "norm_eps": 1e-5,
    "num_attention_heads": 6,
    "num_kv_heads": 2,
    "num_layers": 2,
    "num_refiner_layers": 2,
    "out_channels": None,
    "patch_size": 2,
    "text_feat_dim": _CONTEXT_WIDTH,
    "timestep_scale": 1000.0,
}
_COSMOS = {
    "image_model": "cosmos",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 128,
    "block_config": "FA-CA-MLP",
    "num_blocks": 2,
    "num_heads": 4,
    "crossattn_emb_channels": _CONTEXT_WIDTH,
    "concat_padding_mask": True,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": False,
    "pos_emb_interpolation": "crop",
    "block_x_format": "THWBD",
    "affline_emb_norm": True,
    "use_adaln_lora": True,
    "adaln_lora_dim": 32,
    "rope_t_extrapolation_ratio": 2.0,
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
_COSMOS_PREDICT2 = {
    "image_model": "cosmos_predict2",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 128,
    "num_blocks": 2,
    "num_heads": 4,
    "crossattn_emb_channels": _CONTEXT_WIDTH,
    "concat_padding_mask": True,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "adaln_lora_dim": 32,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "extra_per_block_abs_pos_emb": False,
    "rope_enable_fps_modulation": False,
}
_ANIMA = _COSMOS_PREDICT2 | {"image_model": "anima"}
_KREA2 = {
    "image_model": "krea2",
    "features": 128,
    "heads": 4,
    "kvheads": 2,
    "layers": 2,
    "channels": 16,
    "patch": 2,
    "txtlayers": 3,
    "txtdim": _CONTEXT_WIDTH // 3,
    "txtheads": 2,
    "txtkvheads": 2,
}
_PIXART = {  # latents below 33 x 33 make the host divide by zero
    "image_model": "pixart_sigma",
    "num_heads": 4,
    "patch_size": 2,
    "hidden_size": 128,
    "in_channels": 4,
    "depth": 2,
    "caption_channels": _CONTEXT_WIDTH,
    "model_max_length": 300,
    "input_size": 128,
    "pe_interpolation": 2,
    "micro_condition": False,
}
_AURAFLOW = {
    "max_seq": 16 * 16,
    "cond_seq_dim": _CONTEXT_WIDTH,
    "dim": 256,
    "global_conddim": 256,
    "n_heads": 2,
    "n_double_layers": 2,
    "n_layers": 4,
}


def _narrow_text_adapter(network: Any) -> None:
    """Anima's own transformer for the text, which its host builds 1024 wide whatever the settings."""
    kind = type(network.llm_adapter)
    first = network.llm_adapter.blocks[0]
    like = next(network.parameters())
    network.llm_adapter = kind(
        source_dim=_CONTEXT_WIDTH, target_dim=_CONTEXT_WIDTH, model_dim=_CONTEXT_WIDTH, num_layers=2, num_heads=4,
        use_self_attn=first.use_self_attn, dtype=like.dtype, operations=_Operations(network),
    )  # fmt: skip


class _Operations:
    """The classes of layers that a network was built from, by name."""

    def __init__(self, network: nn.Module) -> None:
        self._kinds = {type(module).__name__: type(module) for module in network.modules()}

    def __getattr__(self, name: str) -> Any:
        return self._kinds[name]


_ARCHITECTURES = {
    "sd15": _Architecture("Stable Diffusion 1.5", "SD15", _SD15, (4, 16, 16)),
    "sdxl": _Architecture("SDXL", "SDXL", _SDXL, (4, 16, 16), pooled=1280),
    "sd3": _Architecture("Stable Diffusion 3", "SD3", _SD3, (16, 16, 16), pooled=2048),
    "sd35": _Architecture(
        "Stable Diffusion 3.5",
        "SD3",
        _SD3 | {"qk_norm": "rms", "x_block_self_attn_layers": [0]},
        (16, 16, 16),
        pooled=2048,
    ),
    "flux": _Architecture("FLUX.1", "Flux", _FLUX, (16, 16, 16)),
    "flux2": _Architecture("FLUX.2", "Flux2", _FLUX2, (128, 8, 8)),
    "chroma": _Architecture("Chroma", "Chroma", _CHROMA, (16, 16, 16)),
    "lumina2": _Architecture("Lumina Image 2", "Lumina2", _LUMINA2, (16, 16, 16)),
    "z_image": _Architecture("Z-Image", "ZImage", _Z_IMAGE, (16, 16, 16)),
    "qwen_image": _Architecture("Qwen-Image", "QwenImage", _QWEN_IMAGE, (16, 1, 16, 16)),
    "wan": _Architecture("Wan 2.1", "WAN21_T2V", _WAN, (16, 2, 8, 8)),
    "hunyuan_image": _Architecture("HunyuanImage 2.1", "HunyuanImage21", _HUNYUAN_IMAGE, (64, 8, 8)),
    "hunyuan_video": _Architecture("HunyuanVideo", "HunyuanVideo", _HUNYUAN_VIDEO, (16, 2, 8, 8)),
    "ltxv": _Architecture("LTX-Video", "LTXV", _LTXV, (128, 2, 4, 4), masked=True),
    "omnigen2": _Architecture("OmniGen2", "Omnigen2", _OMNIGEN2, (16, 16, 16), masked=True),
    "cosmos": _Architecture("Cosmos", "CosmosT2V", _COSMOS, (16, 2, 8, 8)),
    "cosmos_predict2": _Architecture("Cosmos Predict2", "CosmosT2IPredict2", _COSMOS_PREDICT2, (16, 1, 16, 16)),
    "pixart": _Architecture("PixArt Sigma", "PixArtSigma", _PIXART, (4, 36, 36)),
    "auraflow": _Architecture("AuraFlow", "AuraFlow", _AURAFLOW, (4, 16, 16)),
    "krea2": _Architecture("Krea 2", "Krea2", _KREA2, (16, 1, 16, 16)),
    "anima": _Architecture("Anima", "Anima", _ANIMA, (16, 1, 16, 16), tokens=True, narrow=_narrow_text_adapter),
}

NAMES: tuple[str, ...] = tuple(_ARCHITECTURES)
TITLES = {name: architecture.title for name, architecture in _ARCHITECTURES.items()}


def lacking(name: str) -> str:
    """Why the host cannot build this model, as a reason to skip it; empty where it can."""
    import comfy.supported_models

    config = _ARCHITECTURES[name].config
    return "" if hasattr(comfy.supported_models, config) else f"this ComfyUI has no {config}"


def build(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    compute_dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Patcher:
    """A tiny model with seeded random weights, as the host's loaders would return it.

    Args:
        name: one of `NAMES`.
        dtype: storage of the weights; float8 is computed by the host's manual cast.
        compute_dtype: what a manual cast computes in, None for `dtype` itself (float32 where that is float8).
        device: where the host runs it.
        seed: of all weights.

    Raises:
        KeyError: an unknown name.
    """
    return _patcher(_ARCHITECTURES[name], dtype, compute_dtype, device, seed)


# What a layer's entry says, and how its weight is quantized, by our name of the form.
_Recipe = tuple[dict[str, Any], dict[str, Any]]
_SMOOTHED = "nvfp4_smoothed"  # as ModelOpt has it: every layer's input is scaled, its weight divided by the same
_GROUP = 16  # inputs that are rotated together; divides every width here
_FINEST = {"w4a4": 64}  # inputs that share a scale: a layer of another width stays as it is, as in real checkpoints
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
    device: str | torch.device = "cpu",
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
    architecture, plain = _ARCHITECTURES[name], build(name, seed=seed).model.diffusion_model
    paths = [
        path
        for path, module in plain.named_modules()
        if isinstance(module, nn.Linear) and only(path) and module.in_features % _FINEST.get(form, 1) == 0
    ]
    load = _load_quantized if _quantizes_by_entry() else _load_float8_of_old
    state = plain.state_dict()
    return _on(lambda: load(architecture, dict(state), paths, form, compute_dtype), device)


def _quantizes_by_entry() -> bool:
    """Whether a checkpoint says of each layer in an entry of its own how it is quantized; older hosts had a table."""
    import comfy.supported_models_base

    return hasattr(comfy.supported_models_base.BASE, "quant_config")


def _load_quantized(
    architecture: _Architecture, state: dict[str, Tensor], paths: list[str], form: str, compute_dtype: torch.dtype
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
    config = _config(architecture)
    config.quant_config = comfy.utils.detect_layer_quantization(state, "")
    config.set_inference_dtype(compute_dtype, compute_dtype)
    model: HostModel = config.get_model({}, "")
    architecture.narrow(model.diffusion_model)
    model.diffusion_model.load_state_dict(state)
    return model


def _smoothing(weight: Tensor) -> Tensor:
    """(in,): the root of each column's mean size, so that the columns that are left are more alike."""
    size = weight.abs().mean(dim=0).clamp_min(1e-4)
    return (size / size.mean()).sqrt() * 1.7  # in all not one either


def _load_float8_of_old(
    architecture: _Architecture, state: dict[str, Tensor], paths: list[str], form: str, compute_dtype: torch.dtype
) -> HostModel:
    config = _config(architecture)
    if form == "scaled":
        config.scaled_fp8 = torch.float8_e4m3fn
        config.set_inference_dtype(compute_dtype, None)
    else:
        config.layer_quant_config = {path: {"format": "float8_e4m3fn"} for path in paths}
        config.set_inference_dtype(compute_dtype, compute_dtype)
    model: HostModel = config.get_model({}, "")
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


def real_width_flux(
    *,
    hidden: int = 3072,
    depth: int = 1,
    depth_single: int = 1,
    dtype: torch.dtype = torch.float32,
    compute_dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Patcher:
    """FLUX.1-dev with its true widths and few blocks, for benchmarks: 545 million parameters at the defaults.

    Args:
        hidden: width, a multiple of 128.
        depth: double blocks, 19 in the real model.
        depth_single: single blocks, 38 in the real model.
        dtype, compute_dtype, device, seed: as for `build`.
    """
    widths = {"hidden_size": hidden, "num_heads": hidden // 128, "axes_dim": [16, 56, 56], "context_in_dim": 4096}
    depths = {"depth": depth, "depth_single_blocks": depth_single}
    return _patcher(replace(_ARCHITECTURES["flux"], unet=_FLUX | widths | depths), dtype, compute_dtype, device, seed)


def sample_inputs(name: str, patcher: Patcher, *, batch: int = 1, seed: int = 1) -> dict[str, Any]:
    """Keyword arguments of the host's `apply_model`: a noisy latent, a sigma, a text and what else the model takes.

    Args:
        name: the patcher's entry in `NAMES`; "flux" also fits `real_width_flux`.
        batch: number of latents, each with its own text.
        seed: of latent, noise and text.
    """
    import comfy.model_management

    model, architecture = patcher.model, _ARCHITECTURES[name]
    unet, generator = model.model_config.unet_config, torch.Generator().manual_seed(seed)
    context_width = unet.get("context_in_dim", _CONTEXT_WIDTH)
    latent, noise = (torch.randn(batch, *architecture.latent, generator=generator) for _ in range(2))
    text = torch.randn(batch, _CONTEXT_LENGTH, context_width, generator=generator)
    pooled = torch.randn(batch, architecture.pooled, generator=generator)
    device = patcher.load_device
    sigma = torch.full((batch,), float(model.model_sampling.percent_to_sigma(_NOISE_LEVEL)))
    per_sample = sigma.reshape(-1, *[1] * (latent.ndim - 1))
    # In inference mode a host that prepares the text first does so here, where no adapter is at work.
    with torch.inference_mode(False), torch.no_grad():
        conds = model.extra_conds(
            cross_attn=text.clone(),
            guidance=_GUIDANCE,
            noise=noise,
            device=noise.device,
            **{"pooled_output": pooled.clone(), "attention_mask": None, **_text_options(architecture, generator)},
        )
    extra = {key: cond.process_cond(batch_size=batch, device=device, area=None).cond for key, cond in conds.items()}
    inputs = {"x": model.model_sampling.noise_scaling(per_sample, noise, latent), "t": sigma} | extra
    return {
        key: comfy.model_management.cast_to_device(value, device, None) if torch.is_tensor(value) else value
        for key, value in inputs.items()
    }


def example(name: str, patcher: Patcher, *, seed: int = 1) -> tuple[dict[str, Any], list[Any]]:
    """A picture and its caption, as the host's nodes give them: LATENT and CONDITIONING.

    Args:
        name: the patcher's entry in `NAMES`; "flux" also fits `real_width_flux`.
        seed: of both.
    """
    architecture, generator = _ARCHITECTURES[name], torch.Generator().manual_seed(seed)
    width = patcher.model.model_config.unet_config.get("context_in_dim", _CONTEXT_WIDTH)
    latent = torch.randn(1, *architecture.latent, generator=generator)
    text = torch.randn(1, _CONTEXT_LENGTH, width, generator=generator)
    options = {"pooled_output": torch.randn(1, architecture.pooled, generator=generator)}
    return {"samples": latent}, [[text, options | _text_options(architecture, generator)]]


def _text_options(architecture: _Architecture, generator: Generator) -> dict[str, Tensor]:
    """What the host's text encoder says of a text beside its encoding."""
    options = {}
    if architecture.masked:
        options["attention_mask"] = torch.ones(1, _CONTEXT_LENGTH, dtype=torch.long)
    if architecture.tokens:
        options["t5xxl_ids"] = torch.randint(1, 32_000, (_CONTEXT_LENGTH,), generator=generator)
        options["t5xxl_weights"] = torch.ones(_CONTEXT_LENGTH)
    return options


def predict(patcher: Patcher, inputs: dict[str, Any]) -> Tensor:
    """The denoised latent, float32, after the host has loaded the model with its patches and injections.

    Args:
        inputs: from `sample_inputs`.
    """
    import comfy.model_management

    comfy.model_management.load_models_gpu([patcher])
    options = patcher.model_options.get("transformer_options", {}).copy()  # models write into it
    with torch.no_grad():
        prediction: Tensor = patcher.model.apply_model(**inputs, transformer_options=options)
    return prediction.float()


def _patcher(
    architecture: _Architecture,
    dtype: torch.dtype,
    compute_dtype: torch.dtype | None,
    device: str | torch.device,
    seed: int,
) -> Patcher:
    if dtype.itemsize == 1 and compute_dtype is None:
        compute_dtype = torch.float32

    def make() -> HostModel:
        config = _config(architecture)
        config.set_inference_dtype(dtype, compute_dtype)
        model: HostModel = config.get_model({}, "")
        architecture.narrow(model.diffusion_model)
        _fill(model.diffusion_model, torch.Generator().manual_seed(seed))
        return model

    return _on(make, device)


def _config(architecture: _Architecture) -> Any:
    """The host's configuration with all settings that this host asks for, and none that it does not know."""
    import comfy.supported_models

    kind = getattr(comfy.supported_models, architecture.config)
    return kind(_completed(kind, architecture.unet))


_ASKED = re.compile(r"missing \d+ required .*argument")


def _completed(kind: Any, unet: dict[str, Any]) -> dict[str, Any]:
    """Settings, with those that a newer host demands as its own detection finds them in a checkpoint of the model."""
    import comfy.model_detection

    try:
        _on_no_memory(kind, unet)
    except TypeError as error:
        if not _ASKED.search(str(error)):
            raise
        names = re.findall(r"'(\w+)'", str(error))
        state = _on_no_memory(kind, unet | dict.fromkeys(names)).diffusion_model.state_dict()
        found = comfy.model_detection.detect_unet_config(state, "") or {}
        return unet | {name: found.get(name) for name in names}
    return unet


def _on_no_memory(kind: Any, unet: dict[str, Any]) -> Any:
    config = kind(dict(unet))
    config.set_inference_dtype(torch.float32, None)
    return config.get_model({}, "", device=torch.device("meta"))


def _on(make: Callable[[], HostModel], device: str | torch.device) -> Patcher:
    import comfy.model_patcher

    load_device = torch.empty(0, device=device).device  # "cuda" with its index, as the host compares devices
    patcher = comfy.model_patcher.ModelPatcher(make(), load_device, torch.device("cpu"))
    # As loaders leave it on newer hosts: how to have the model a second time.
    patcher.cached_patcher_init = (lambda *, disable_dynamic=False: _on(make, device), ())
    made: Patcher = patcher
    return made


@torch.no_grad()
def _fill(model: nn.Module, generator: Generator) -> None:
    """Overwrite everything that a checkpoint would hold: fresh host layers have uninitialised memory."""
    saved = model.state_dict(keep_vars=True)
    for path, module in model.named_modules():
        for name, tensor in {**module._parameters, **module._buffers}.items():
            if f"{path}.{name}".lstrip(".") in saved:
                tensor.copy_(_draw(tensor.shape, *_scale_of(module, name, tensor), generator))


def _draw(shape: torch.Size, mean: float, spread: float, generator: Generator) -> Tensor:
    """Normal random numbers, float32 whatever the storage: a seed means the same model in every dtype."""
    count = shape.numel()
    block = torch.empty(min(count, BLOCK)).normal_(mean, spread, generator=generator)
    return block.repeat(-(-count // BLOCK))[:count].reshape(shape)


def _scale_of(module: nn.Module, name: str, tensor: Tensor) -> tuple[float, float]:
    """Mean and standard deviation that keep activations near one."""
    if name == "bias":
        return 0.0, 0.02
    if name in ("weight", "scale") and (tensor.ndim == 1 or "Norm" in type(module).__name__):
        return 1.0, 0.02
    if name == "weight" and not isinstance(module, nn.Embedding):
        return 0.0, tensor[0].numel() ** -0.5
    return 0.0, 0.1  # position embeddings, learned tokens, modulation tables
