"""Stable Diffusion: the UNets, what others made of them, and the transformers of its third version."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from ..architecture import Architecture, Released
from ..conditioning import CONTEXT_WIDTH, Conditioning, constant, normal, pooled

_LATENT = (4, 16, 16)
_LEAST = (4, 8, 8)  # of variants

_UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "model_channels": 32,
    "context_dim": CONTEXT_WIDTH,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
_SD15 = _UNET | {
    "adm_in_channels": None,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "transformer_depth": [1, 1, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    "use_linear_in_transformer": False,
}
_SDXL = _UNET | {
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "transformer_depth": [0, 1, 2],
    "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "use_linear_in_transformer": True,
}
# As small as a UNet gets that has blocks with and without attention, at the host's width of a head, 64.
_SMALLEST = _UNET | {
    "adm_in_channels": None,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 0, 0],
    "use_linear_in_transformer": True,
}
_LIKE_SDXL = _SMALLEST | {"num_classes": "sequential", "adm_in_channels": 2816}
_UNCLIP = {"num_classes": "sequential"}
_LOTUS = _SMALLEST | {"num_classes": "sequential", "adm_in_channels": 4, "num_head_channels": 64}
_X4 = _UNET | {  # the host switches self-attention off by level, for four levels
    "in_channels": 7,
    "adm_in_channels": None,
    "num_res_blocks": [1, 1, 1, 1],
    "channel_mult": [1, 1, 1, 1],
    "transformer_depth": [0, 1, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1, 1, 1, 1, 1],
    "use_linear_in_transformer": True,
}
_VIDEO = _SMALLEST | {
    "in_channels": 8,
    "num_classes": "sequential",
    "adm_in_channels": 768,
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
    "use_temporal_resblock": True,
    "use_temporal_attention": True,
    "disable_temporal_crossattention": False,
}
_SD3: dict[str, Any] = {  # the host fixes hidden size = 64 * depth
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "depth": 2,
    "input_size": None,
    "adm_in_channels": 2048,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": CONTEXT_WIDTH, "out_features": 128},
    },
    "num_patches": 16 * 16,
    "pos_embed_max_size": 16,
    "pos_embed_scaling_factor": None,
    "x_block_self_attn_layers": [],
}
_SD35 = _SD3 | {"qk_norm": "rms", "x_block_self_attn_layers": [0]}  # the medium one: a second attention in front

# True settings of the published networks.
_FOUR_LEVELS = {
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
_TRUE_SD15 = _SD15 | _FOUR_LEVELS | {"context_dim": 768}
_TRUE_SD2 = _SMALLEST | _FOUR_LEVELS | {"context_dim": 1024}
_TRUE_SDXL = _SDXL | {
    "model_channels": 320,
    "context_dim": 2048,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}
_TRUE_REFINER = _TRUE_SDXL | {
    "model_channels": 384,
    "adm_in_channels": 2560,
    "context_dim": 1280,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
    "transformer_depth_middle": 4,
    "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
}
_TRUE_SSD1B = _TRUE_SDXL | {
    "transformer_depth": [0, 0, 2, 2, 4, 4],
    "transformer_depth_middle": -1,
    "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
}
_TRUE_VEGA = _TRUE_SDXL | {
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": -1,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
}
_TRUE_KOALA_700M = _TRUE_SDXL | {
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 2, 5],
    "transformer_depth_middle": -2,
    "transformer_depth_output": [0, 0, 2, 2, 5, 5],
}
_TRUE_KOALA_1B = _TRUE_KOALA_700M | {
    "transformer_depth": [0, 2, 6],
    "transformer_depth_middle": 6,
    "transformer_depth_output": [0, 0, 2, 2, 6, 6],
}
_TRUE_X4 = _X4 | {
    "model_channels": 256,
    "context_dim": 1024,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 2, 4],
    "transformer_depth": [0, 0, 1, 1, 1, 1, 1, 1],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
}
_TRUE_VIDEO = _VIDEO | _FOUR_LEVELS | {"context_dim": 1024}
_TRUE_SD3 = _SD3 | {
    "depth": 24,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 64 * 24},
    },
    "num_patches": 192 * 192,
    "pos_embed_max_size": 192,
}
_TRUE_SD35_MEDIUM = _TRUE_SD3 | {
    "qk_norm": "rms",
    "x_block_self_attn_layers": list(range(13)),
    "num_patches": 384 * 384,
    "pos_embed_max_size": 384,
}
_TRUE_SD35_LARGE = _TRUE_SD3 | {
    "depth": 38,
    "qk_norm": "rms",
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 64 * 38},
    },
}

_UNET_BLOCKS = {"input_blocks": 12, "middle_block": 3, "output_blocks": 12}
_SDXL_BLOCKS = {
    "input_blocks": 9,
    "input_blocks.4.1.transformer_blocks": 2,
    "input_blocks.8.1.transformer_blocks": 10,
    "middle_block.1.transformer_blocks": 10,
    "output_blocks": 9,
    "output_blocks.0.1.transformer_blocks": 10,
}
_VIDEO_BLOCKS = _UNET_BLOCKS | {"input_blocks.1.1.transformer_blocks": 1, "input_blocks.1.1.time_stack": 1}


def _picture_seen(width: int) -> Conditioning:
    """What a CLIP vision model saw in a picture, as unCLIPConditioning puts it."""

    def make(generator: Generator) -> dict[str, Any]:
        import comfy.clip_vision

        seen = comfy.clip_vision.Output()
        seen.image_embeds = torch.randn(1, width, generator=generator)
        return {"unclip_conditioning": [{"clip_vision_output": seen, "strength": 1.0, "noise_augmentation": 0.0}]}

    return make


def _predicts_velocity() -> dict[str, Tensor]:
    """The host tells it by how far this norm of the last block is spread."""
    return {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([-1.0, 1.0])}


_POSE = 4  # numbers of a camera's position, beside what was seen of the object


def _projects_what_was_seen() -> dict[str, Tensor]:
    weight = torch.randn(CONTEXT_WIDTH, CONTEXT_WIDTH + _POSE, generator=torch.Generator().manual_seed(0))
    return {"cc_projection.weight": weight / weight.shape[1] ** 0.5, "cc_projection.bias": torch.zeros(CONTEXT_WIDTH)}


def _beside(*shape: int) -> Conditioning:
    """The picture that the noise is joined by, encoded."""
    return normal("concat_latent_image", 1, *shape)


def _mask(*shape: int) -> Conditioning:
    """Where to paint, in pixels: half of the picture."""
    height, width = (8 * side for side in shape[-2:])
    where = torch.zeros(1, height, width)
    where[:, : height // 2] = 1
    return lambda generator: {"concat_mask": where.clone()}


ARCHITECTURES = {
    "sd15": Architecture(
        "Stable Diffusion 1.5",
        "SD15",
        _SD15,
        _LATENT,
        released=(
            Released("Stable Diffusion 1.5", _TRUE_SD15, 0.8595, _UNET_BLOCKS, "CompVis/stable-diffusion: 860M UNet"),
        ),
    ),
    "sd15_inpaint": Architecture(
        "Stable Diffusion 1.5 inpainting",
        "SD15",
        _SD15 | {"in_channels": 9},
        _LEAST,
        conditioning=(_beside(*_LEAST), _mask(*_LEAST)),
        variant_of="sd15",
        released=(
            Released(
                "Stable Diffusion 1.5 inpainting",
                _TRUE_SD15 | {"in_channels": 9},
                0.8595,
                _UNET_BLOCKS,
                "CompVis/stable-diffusion: 860M UNet; five more channels in its first convolution",
            ),
        ),
    ),
    "sd15_ip2p": Architecture(
        "InstructPix2Pix",
        "SD15_instructpix2pix",
        _SD15 | {"in_channels": 8},
        _LEAST,
        reference=(_beside(*_LEAST),),
        variant_of="sd15",
        released=(
            Released(
                "InstructPix2Pix",
                _TRUE_SD15 | {"in_channels": 8},
                0.8595,
                _UNET_BLOCKS,
                "CompVis/stable-diffusion: 860M UNet; four more channels in its first convolution",
            ),
        ),
    ),
    "sd2": Architecture(
        "Stable Diffusion 2.1",
        "SD20",
        _SMALLEST,
        _LEAST,
        variant_of="sd15",
        beside=_predicts_velocity,
        released=(
            Released(
                "Stable Diffusion 2.1", _TRUE_SD2, 0.8659, _UNET_BLOCKS, "Stability-AI/stablediffusion: 865M UNet"
            ),
        ),
    ),
    "sd2_base": Architecture(
        "Stable Diffusion 2.1 base",
        "SD20",
        _SMALLEST,
        _LEAST,
        variant_of="sd15",
        released=(
            Released(
                "Stable Diffusion 2.1 base", _TRUE_SD2, 0.8659, _UNET_BLOCKS, "Stability-AI/stablediffusion: 865M UNet"
            ),
            Released(
                "Stable Diffusion 2 inpainting",
                _TRUE_SD2 | {"in_channels": 9},
                0.8659,
                _UNET_BLOCKS,
                "Stability-AI/stablediffusion: 865M UNet; five more channels in its first convolution",
            ),
        ),
    ),
    "sd21_unclip_l": Architecture(
        "Stable Diffusion 2.1 unCLIP, small",
        "SD21UnclipL",
        _SMALLEST | _UNCLIP | {"adm_in_channels": 2 * 768},
        _LEAST,
        conditioning=(_picture_seen(768),),
        variant_of="sd15",
        beside=_predicts_velocity,
        released=(
            Released(
                "Stable Diffusion 2.1 unCLIP, small",
                _TRUE_SD2 | _UNCLIP | {"adm_in_channels": 2 * 768},
                0.8695,
                _UNET_BLOCKS,
                "Stability-AI/stablediffusion: 865M UNet; 3.6M of the embedding of pictures, by its config",
            ),
        ),
    ),
    "sd21_unclip_h": Architecture(
        "Stable Diffusion 2.1 unCLIP",
        "SD21UnclipH",
        _SMALLEST | _UNCLIP | {"adm_in_channels": 2 * 1024},
        _LEAST,
        conditioning=(_picture_seen(1024),),
        variant_of="sd15",
        beside=_predicts_velocity,
        released=(
            Released(
                "Stable Diffusion 2.1 unCLIP",
                _TRUE_SD2 | _UNCLIP | {"adm_in_channels": 2 * 1024},
                0.8702,
                _UNET_BLOCKS,
                "Stability-AI/stablediffusion: 865M UNet; 4.3M of the embedding of pictures, by its config",
            ),
        ),
    ),
    "sdxl": Architecture(
        "SDXL",
        "SDXL",
        _SDXL,
        _LATENT,
        conditioning=(pooled(1280),),
        released=(
            Released("SDXL base", _TRUE_SDXL, 2.567, _SDXL_BLOCKS, "arXiv 2307.01952, table 1: 2.6B"),
            Released(
                "SDXL inpainting",
                _TRUE_SDXL | {"in_channels": 9},
                2.567,
                _SDXL_BLOCKS,
                "arXiv 2307.01952, table 1: 2.6B; five more channels in its first convolution",
            ),
        ),
    ),
    "sdxl_refiner": Architecture(
        "SDXL refiner",
        "SDXLRefiner",
        _LIKE_SDXL | {"adm_in_channels": 2560},
        _LEAST,
        conditioning=(pooled(1280),),
        variant_of="sdxl",
        released=(
            Released(
                "SDXL refiner",
                _TRUE_REFINER,
                2.26,
                _UNET_BLOCKS | {"middle_block.1.transformer_blocks": 4},
                "size of sd_xl_refiner_1.0.safetensors, 6.08 GB in float16, less CLIP-G (0.69B) and VAE (0.08B)",
            ),
        ),
    ),
    "ssd1b": Architecture(
        "SSD-1B",
        "SSD1B",
        _LIKE_SDXL | {"transformer_depth_middle": -1},
        _LEAST,
        conditioning=(pooled(1280),),
        variant_of="sdxl",
        released=(
            Released(
                "SSD-1B",
                _TRUE_SSD1B,
                1.3,
                {"input_blocks": 9, "middle_block": 1, "output_blocks.2.1.transformer_blocks": 10},
                "arXiv 2401.02677",
            ),
        ),
    ),
    "vega": Architecture(
        "Segmind Vega",
        "Segmind_Vega",
        _LIKE_SDXL | {"transformer_depth_middle": -1},
        _LEAST,
        conditioning=(pooled(1280),),
        variant_of="sdxl",
        released=(
            Released(
                "Segmind Vega",
                _TRUE_VEGA,
                0.74,
                {"input_blocks": 9, "middle_block": 1, "output_blocks.0.1.transformer_blocks": 2},
                "arXiv 2401.02677",
            ),
        ),
    ),
    "koala_700m": Architecture(
        "KOALA 700M",
        "KOALA_700M",
        _LIKE_SDXL | {"transformer_depth_middle": -2},
        _LEAST,
        conditioning=(pooled(1280),),
        variant_of="sdxl",
        released=(
            Released(
                "KOALA 700M",
                _TRUE_KOALA_700M,
                0.782,
                {"input_blocks": 6, "output_blocks": 6, "input_blocks.5.1.transformer_blocks": 5},
                "arXiv 2312.04005",
            ),
        ),
    ),
    "koala_1b": Architecture(
        "KOALA 1B",
        "KOALA_1B",
        _LIKE_SDXL,
        _LEAST,
        conditioning=(pooled(1280),),
        variant_of="sdxl",
        released=(
            Released(
                "KOALA 1B",
                _TRUE_KOALA_1B,
                1.161,
                {"input_blocks": 6, "output_blocks": 6, "middle_block.1.transformer_blocks": 6},
                "arXiv 2312.04005",
            ),
        ),
    ),
    "sdxl_ip2p": Architecture(
        "SDXL InstructPix2Pix",
        "SDXL_instructpix2pix",
        _LIKE_SDXL | {"in_channels": 8},
        _LEAST,
        conditioning=(pooled(1280),),
        reference=(_beside(*_LEAST),),
        variant_of="sdxl",
        released=(
            Released(
                "SDXL InstructPix2Pix",
                _TRUE_SDXL | {"in_channels": 8},
                2.567,
                _SDXL_BLOCKS,
                "arXiv 2307.01952, table 1: 2.6B; four more channels in its first convolution",
            ),
        ),
    ),
    "lotus": Architecture(
        "Lotus-D",
        "LotusD",
        _LOTUS,
        _LEAST,
        variant_of="sd15",
        released=(
            Released(
                "Lotus-D",
                _LOTUS | _FOUR_LEVELS | {"context_dim": 1024},
                0.8676,
                _UNET_BLOCKS,
                "Stability-AI/stablediffusion: 865M UNet; 1.6M of the embedding of tasks, by its config",
            ),
        ),
    ),
    "zero123": Architecture(
        "Stable Zero123",
        "Stable_Zero123",
        _SD15 | {"in_channels": 8},
        _LEAST,
        text=(1, CONTEXT_WIDTH + _POSE),
        conditioning=(_beside(*_LEAST),),
        variant_of="sd15",
        beside=_projects_what_was_seen,
        released=(
            Released(
                "Stable Zero123",
                _TRUE_SD15 | {"in_channels": 8},
                0.8595,
                _UNET_BLOCKS,
                "CompVis/stable-diffusion: 860M UNet; four more channels in its first convolution",
            ),
        ),
    ),
    "x4_upscaler": Architecture(
        "Stable Diffusion x4 upscaler",
        "SD_X4Upscaler",
        _X4,
        _LATENT,
        conditioning=(normal("concat_image", 1, 3, 16, 16), constant(noise_augmentation=0.1)),
        variant_of="sd15",
        released=(
            Released(
                "Stable Diffusion x4 upscaler",
                _TRUE_X4,
                0.473,
                _UNET_BLOCKS,
                "size of unet/diffusion_pytorch_model.safetensors, 1.89 GB in float32",
            ),
        ),
        limits={
            "quantized": "ComfyUI cannot store it in float8: it fills the embedding of noise levels with random "
            "numbers, which torch does not draw in float8. int8 works where ComfyUI has it"
        },
    ),
    "svd": Architecture(
        "Stable Video Diffusion",
        "SVD_img2vid",
        _VIDEO,
        _LEAST,
        text=(1, CONTEXT_WIDTH),
        conditioning=(_beside(*_LEAST), constant(fps=6, motion_bucket_id=127, augmentation_level=0.0)),
        released=(
            Released("Stable Video Diffusion", _TRUE_VIDEO, 1.521, _VIDEO_BLOCKS, "arXiv 2311.15127: 1521M parameters"),
        ),
    ),
    "sv3d_u": Architecture(
        "Stable Video 3D, orbit",
        "SV3D_u",
        _VIDEO | {"adm_in_channels": 256},
        _LEAST,
        text=(1, CONTEXT_WIDTH),
        conditioning=(_beside(*_LEAST),),
        variant_of="svd",
        released=(
            Released(
                "Stable Video 3D, orbit",
                _TRUE_VIDEO | {"adm_in_channels": 256},
                1.521,
                _VIDEO_BLOCKS,
                "arXiv 2403.12008: the network of Stable Video Diffusion, 1521M parameters",
            ),
        ),
    ),
    "sv3d_p": Architecture(
        "Stable Video 3D, camera path",
        "SV3D_p",
        _VIDEO | {"adm_in_channels": 1280},
        _LEAST,
        text=(1, CONTEXT_WIDTH),
        conditioning=(_beside(*_LEAST), constant(elevation=[10.0], azimuth=[30.0])),
        variant_of="svd",
        released=(
            Released(
                "Stable Video 3D, camera path",
                _TRUE_VIDEO | {"adm_in_channels": 1280},
                1.521,
                _VIDEO_BLOCKS,
                "arXiv 2403.12008: the network of Stable Video Diffusion, 1521M parameters",
            ),
        ),
    ),
    "sd3": Architecture(
        "Stable Diffusion 3",
        "SD3",
        _SD3,
        (16, 16, 16),
        conditioning=(pooled(2048),),
        released=(
            Released(
                "Stable Diffusion 3 medium", _TRUE_SD3, 2.03, {"joint_blocks": 24}, "stability.ai: 2 billion parameters"
            ),
        ),
    ),
    "sd35": Architecture(
        "Stable Diffusion 3.5 medium",
        "SD3",
        _SD35,
        (16, 16, 16),
        conditioning=(pooled(2048),),
        released=(
            Released(
                "Stable Diffusion 3.5 medium",
                _TRUE_SD35_MEDIUM,
                2.243,
                {"joint_blocks": 24},
                "stability.ai: 2.5 billion, with the 0.23 billion numbers of the table of positions",
            ),
        ),
    ),
    "sd35_large": Architecture(
        "Stable Diffusion 3.5 large",
        "SD3",
        _SD3 | {"qk_norm": "rms"},
        (16, 16, 16),
        conditioning=(pooled(2048),),
        variant_of="sd3",
        released=(
            Released(
                "Stable Diffusion 3.5 large",
                _TRUE_SD35_LARGE,
                8.06,
                {"joint_blocks": 38},
                "stability.ai: 8.1 billion parameters",
            ),
        ),
    ),
}
