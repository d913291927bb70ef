"""Lumina and the models that have its blocks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Generator

from ..architecture import ROPE_AXES, Architecture, Released
from ..conditioning import CONTEXT_LENGTH, CONTEXT_WIDTH, pooled, reference_latents, text_mask

_LUMINA2 = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 192,
    "cap_feat_dim": CONTEXT_WIDTH,
    "n_layers": 2,
    "qk_norm": True,
    "n_heads": 6,
    "n_kv_heads": 2,  # grouped queries, three to one as in the real model
    "axes_dims": list(ROPE_AXES),
    "axes_lens": [300, 512, 512],
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 4.0,
}
_NEWBIE = _LUMINA2 | {"clip_text_dim": CONTEXT_WIDTH}
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
_Z_IMAGE_OMNI = _Z_IMAGE | {"siglip_feat_dim": CONTEXT_WIDTH}
_Z_IMAGE_PIXEL = _Z_IMAGE | {
    "image_model": "zimage_pixel",
    "patch_size": 8,
    "in_channels": 3,
    "decoder_in_channels": 192,
    "decoder_hidden_size": 128,
    "decoder_num_res_blocks": 2,
    "decoder_max_freqs": 8,
    "use_x0": True,
}
_OMNIGEN2 = {
    "image_model": "omnigen2",
    "axes_dim_rope": list(ROPE_AXES),
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
    "text_feat_dim": CONTEXT_WIDTH,
    "timestep_scale": 1000.0,
}
_BOOGU = {
    "image_model": "boogu",
    "hidden_size": 256,
    "num_layers": 2,
    "num_double_stream_layers": 2,
    "num_refiner_layers": 2,
    "instruction_feat_dim": CONTEXT_WIDTH,
    "num_attention_heads": 8,
    "num_kv_heads": 2,  # grouped queries, four to one as in the real model
    "axes_dim_rope": ROPE_AXES,
}

_LARGE_LUMINA2 = _LUMINA2 | {
    "dim": 2304,
    "cap_feat_dim": 2304,
    "n_layers": 26,
    "n_heads": 24,
    "n_kv_heads": 8,
    "axes_dims": [32, 32, 32],
}
_LARGE_NEWBIE = _LARGE_LUMINA2 | {"cap_feat_dim": 2560, "n_layers": 36, "clip_text_dim": 1024}
_LARGE_Z_IMAGE = _Z_IMAGE | {
    "dim": 3840,
    "cap_feat_dim": 2560,
    "n_layers": 30,
    "n_heads": 30,
    "n_kv_heads": 30,
    "axes_dims": [32, 48, 48],
}
_LARGE_Z_IMAGE_PIXEL = _LARGE_Z_IMAGE | {
    "image_model": "zimage_pixel",
    "patch_size": 32,
    "in_channels": 3,
    "decoder_in_channels": 3072,
    "decoder_hidden_size": 3840,
    "decoder_num_res_blocks": 4,
    "decoder_max_freqs": 8,
    "use_x0": True,
}
_LARGE_OMNIGEN2 = _OMNIGEN2 | {
    "axes_dim_rope": [40, 40, 40],
    "hidden_size": 2520,
    "num_attention_heads": 21,
    "num_kv_heads": 7,
    "num_layers": 32,
    "text_feat_dim": 2048,
}
_LARGE_BOOGU = _BOOGU | {
    "hidden_size": 3360,
    "num_layers": 32,
    "num_double_stream_layers": 8,
    "instruction_feat_dim": 4096,
    "num_attention_heads": 28,
    "num_kv_heads": 7,
    "axes_dim_rope": (40, 40, 40),
}


def _refined(layers: int, **others: int) -> dict[str, int]:
    return {"layers": layers, "noise_refiner": 2, "context_refiner": 2, **others}


def _seen_pictures(generator: Generator) -> dict[str, Any]:
    """What `TextEncodeZImageOmni` adds beside the latent of a picture: its SigLIP features and the text around it."""
    seen = SimpleNamespace(
        image_sizes=[(3, 32, 32)], last_hidden_state=torch.randn(1, 4, CONTEXT_WIDTH, generator=generator)
    )
    around = [torch.randn(1, CONTEXT_LENGTH, CONTEXT_WIDTH, generator=generator) for _ in range(2)]
    return {"clip_vision_outputs": [seen], "reference_latents_text_embeds": around}


_ZETA_SOURCE = "no count is published: summed from the layers in ai-toolkit's zeta_chroma_transformer.py"
_PICTURE = (reference_latents(16, 8, 8),)

ARCHITECTURES = {
    "lumina2": Architecture(
        "Lumina Image 2", "Lumina2", _LUMINA2, (16, 16, 16), conditioning=(text_mask(),),
        released=(
            Released("Lumina-Image 2.0", _LARGE_LUMINA2, 2.6, _refined(26), "arXiv 2503.21758 (2.6B, 26 blocks)"),
        ),
    ),
    "newbie": Architecture(
        "NewBie Image", "Lumina2", _NEWBIE, (16, 16, 16), conditioning=(text_mask(), pooled(CONTEXT_WIDTH)),
        variant_of="lumina2",
        released=(
            Released(
                "NewBie-Image Exp 0.1", _LARGE_NEWBIE, 3.5, _refined(36),
                "model card NewBie-AI/NewBie-image-v0.1-exp-model-repo",
            ),
        ),
    ),
    "z_image": Architecture(
        "Z-Image", "ZImage", _Z_IMAGE, (16, 16, 16), conditioning=(),
        released=(
            Released("Z-Image and Turbo", _LARGE_Z_IMAGE, 6.15, _refined(30), "arXiv 2511.22699 (6.15B, 30 layers)"),
        ),
    ),
    "z_image_omni": Architecture(
        "Z-Image Omni", "ZImage", _Z_IMAGE_OMNI, (16, 16, 16), conditioning=(),
        reference=(*_PICTURE, _seen_pictures), variant_of="z_image",
    ),
    "z_image_pixel": Architecture(
        "Z-Image in pixels", "ZImagePixelSpace", _Z_IMAGE_PIXEL, (3, 64, 64), conditioning=(),
        released=(Released("Zeta-Chroma", _LARGE_Z_IMAGE_PIXEL, 6.5, _refined(30), _ZETA_SOURCE),),
        limits={
            "quantized": "ComfyUI cannot compute it in float8: it makes positions in the dtype of its weights. int8 "
            "works where ComfyUI has it"
        },
    ),
    "omnigen2": Architecture(
        "OmniGen2", "Omnigen2", _OMNIGEN2, (16, 16, 16), conditioning=(text_mask(),), reference=_PICTURE,
        released=(
            Released(
                "OmniGen2", _LARGE_OMNIGEN2, 4.0, _refined(32, ref_image_refiner=2),
                "arXiv 2506.18871 (4B, 32 layers)",
            ),
        ),
    ),
    "boogu": Architecture(
        "Boogu", "Boogu", _BOOGU, (16, 16, 16), conditioning=(text_mask(),), reference=_PICTURE,
        released=(
            Released(
                "Boogu-Image 0.1", _LARGE_BOOGU, 10.3,
                {
                    "double_stream_layers": 8, "single_stream_layers": 32, "noise_refiner": 2,
                    "context_refiner": 2, "ref_image_refiner": 2,
                },
                "docs.comfy.org (10B); 20.6 GB in bfloat16 in Comfy-Org/Boogu-Image, which is 10.3",
            ),
        ),
    ),
}  # fmt: skip
