"""Hunyuan: HunyuanDiT, HunyuanVideo, HunyuanImage."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Generator

from ..architecture import ROPE_AXES, Architecture, Released
from ..conditioning import CONTEXT_WIDTH, constant, normal, pooled, text_mask
from ..narrowing import layer_kinds

_BYT5_WIDTH = 48
_HUNYUAN = {
    "image_model": "hunyuan_video",
    "context_in_dim": CONTEXT_WIDTH,
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
    "byt5": True,
    "guidance_embed": False,
}
_HUNYUAN_REFINER = _HUNYUAN | {
    "in_channels": 128,
    "out_channels": 64,
    "patch_size": [1, 1, 1],
    "axes_dim": list(ROPE_AXES),
    "vec_in_dim": None,
    "guidance_embed": True,
    "meanflow": True,
}
_HUNYUAN_VIDEO = _HUNYUAN | {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "axes_dim": list(ROPE_AXES),
    "vec_in_dim": 768,
    "guidance_embed": True,
}
_HUNYUAN_VIDEO_15 = _HUNYUAN | {
    "in_channels": 65,
    "out_channels": 32,
    "patch_size": [1, 1, 1],
    "axes_dim": list(ROPE_AXES),
    "vec_in_dim": None,
    "depth_single_blocks": 0,
    "guidance_embed": False,
    "byt5": True,
    "use_cond_type_embedding": True,
    "vision_in_dim": CONTEXT_WIDTH,
}
_HUNYUAN_VIDEO_15_SR = _HUNYUAN_VIDEO_15 | {"in_channels": 98, "meanflow": True}
_HUNYUAN_DIT = {
    "image_model": "hydit",
    "hidden_size": 128,
    "depth": 4,  # the second half but one has skips
    "mlp_ratio": 4.3637,
    "num_heads": 4,
    "text_states_dim": CONTEXT_WIDTH,
    "text_states_dim_t5": 64,
    "text_len": 12,
    "text_len_t5": 16,
}
_HUNYUAN_DIT_G2 = {
    "image_model": "hydit",
    "hidden_size": 1408,
    "depth": 40,
    "mlp_ratio": 4.3637,
}
_WITH_STYLE = {"image_model": "hydit1", "size_cond": True, "use_style_cond": True}
_HUNYUAN_DIT_1 = _HUNYUAN_DIT | _WITH_STYLE

_DEEP = {"depth": 20, "depth_single_blocks": 40, "axes_dim": [16, 56, 56]}
_IMAGE_17B = _HUNYUAN_IMAGE | _DEEP | {
    "context_in_dim": 3584, "hidden_size": 3584, "num_heads": 28, "axes_dim": [64, 64],
}  # fmt: skip
_REFINER = _HUNYUAN_REFINER | _DEEP | {"context_in_dim": 3584, "hidden_size": 3328, "num_heads": 26}
_VIDEO_13B = _HUNYUAN_VIDEO | _DEEP | {"context_in_dim": 4096, "hidden_size": 3072, "num_heads": 24}
_VIDEO_15_WIDTHS = {
    "depth": 54, "axes_dim": [16, 56, 56], "context_in_dim": 3584, "hidden_size": 2048, "num_heads": 16,
    "vision_in_dim": 1152,
}  # fmt: skip
_BLOCKS_13B = {"double_blocks": 20, "single_blocks": 40, "txt_in.individual_token_refiner.blocks": 2}
_BLOCKS_15 = {"double_blocks": 54, "single_blocks": 0, "txt_in.individual_token_refiner.blocks": 2}


def _narrow_second_text(network: Any) -> None:
    """What takes the glyphs of the text, which its host builds for byT5 whatever the settings."""
    network.byt5_in = type(network.byt5_in)(
        in_dim=_BYT5_WIDTH, hidden_dim=_BYT5_WIDTH, out_dim=_BYT5_WIDTH, out_dim1=network.hidden_size,
        dtype=network.dtype, operations=layer_kinds(network),
    )  # fmt: skip


def _picture_seen(generator: Generator) -> dict[str, Any]:
    """The output of CLIP Vision Encode."""
    return {
        "clip_vision_output": SimpleNamespace(last_hidden_state=torch.randn(1, 5, CONTEXT_WIDTH, generator=generator))
    }


def _first_frame(channels: int, frames: int, size: int) -> tuple[Any, ...]:
    """An encoded picture and the mask of what is to be made after it."""
    mask = torch.ones(1, 1, frames, size, size)
    mask[:, :, :1] = 0
    return normal("concat_latent_image", 1, channels, frames, size, size), constant(concat_mask=mask)


_GLYPHS = (constant(pooled_output=None), normal("conditioning_byt5small", 1, 6, _BYT5_WIDTH))
_TWO_TEXTS = (
    text_mask(),
    normal("conditioning_mt5xl", 1, 16, 64),
    constant(attention_mask_mt5xl=torch.ones(1, 16, dtype=torch.long)),
)

ARCHITECTURES = {
    "hunyuan_image": Architecture(
        "HunyuanImage 2.1", "HunyuanImage21", _HUNYUAN_IMAGE, (64, 8, 8), conditioning=_GLYPHS,
        narrow=_narrow_second_text,
        released=(
            Released(
                "HunyuanImage 2.1 17B", _IMAGE_17B, 17, _BLOCKS_13B,
                "tencent/HunyuanImage-2.1: 17B in its card, depths and widths in hyimage's hunyuanimage_v2_1_cfg",
            ),
        ),
    ),
    "hunyuan_image_refiner": Architecture(
        "HunyuanImage 2.1 Refiner", "HunyuanImage21Refiner", _HUNYUAN_REFINER, (32, 1, 8, 8),
        conditioning=(normal("concat_latent_image", 1, 32, 1, 8, 8), constant(noise_augmentation=0.1)),
        variant_of="hunyuan_video",
        released=(
            Released(
                "HunyuanImage 2.1 Refiner", _REFINER, 15.0, _BLOCKS_13B,
                "tencent/HunyuanImage-2.1: hyimage's hunyuanimage_refiner_cfg; the number is that of these settings",
            ),
        ),
    ),
    "hunyuan_video": Architecture(
        "HunyuanVideo", "HunyuanVideo", _HUNYUAN_VIDEO, (16, 2, 8, 8),
        released=(
            Released(
                "HunyuanVideo 13B", _VIDEO_13B, 13, _BLOCKS_13B,
                "tencent/HunyuanVideo: over 13 billion in its report (arXiv 2412.03603), depths in its config",
            ),
        ),
    ),
    "hunyuan_video_i2v": Architecture(
        "HunyuanVideo I2V", "HunyuanVideoI2V", _HUNYUAN_VIDEO | {"in_channels": 33}, (16, 2, 8, 8),
        conditioning=(pooled(768), *_first_frame(16, 2, 8)), variant_of="hunyuan_video",
        released=(
            Released(
                "HunyuanVideo I2V 13B", _VIDEO_13B | {"in_channels": 33}, 13, _BLOCKS_13B,
                "tencent/HunyuanVideo-I2V: HunyuanVideo with 33 channels in",
            ),
        ),
    ),
    "hunyuan_skyreels_i2v": Architecture(
        "SkyReels V1 I2V", "HunyuanVideoSkyreelsI2V", _HUNYUAN_VIDEO | {"in_channels": 32}, (16, 2, 8, 8),
        conditioning=(pooled(768), *_first_frame(16, 2, 8)), variant_of="hunyuan_video",
        released=(
            Released(
                "SkyReels V1 I2V 13B", _VIDEO_13B | {"in_channels": 32}, 13, _BLOCKS_13B,
                "Skywork/SkyReels-V1-Hunyuan-I2V: HunyuanVideo with 32 channels in",
            ),
        ),
    ),
    "hunyuan_video15": Architecture(
        "HunyuanVideo 1.5", "HunyuanVideo15", _HUNYUAN_VIDEO_15, (32, 2, 4, 4),
        conditioning=(*_GLYPHS, _picture_seen, *_first_frame(32, 2, 4)), narrow=_narrow_second_text,
        released=(
            Released(
                "HunyuanVideo 1.5 8.3B", _HUNYUAN_VIDEO_15 | _VIDEO_15_WIDTHS, 8.3, _BLOCKS_15,
                "tencent/HunyuanVideo-1.5: 8.3B in its card, 54 blocks in diffusers' transformer_hunyuan_video15",
            ),
        ),
    ),
    "hunyuan_video15_sr": Architecture(
        "HunyuanVideo 1.5 SR", "HunyuanVideo15_SR_Distilled", _HUNYUAN_VIDEO_15_SR, (32, 2, 4, 4),
        conditioning=(
            *_GLYPHS, _picture_seen, normal("concat_latent_image", 1, 66, 2, 4, 4), constant(noise_augmentation=0.7)
        ),
        narrow=_narrow_second_text, variant_of="hunyuan_video15",
        released=(
            Released(
                "HunyuanVideo 1.5 SR 8.3B", _HUNYUAN_VIDEO_15_SR | _VIDEO_15_WIDTHS, 8.3, _BLOCKS_15,
                "tencent/HunyuanVideo-1.5, 1080p_sr_distilled: as the model itself, with 98 channels in",
            ),
        ),
    ),
    "hunyuan_dit": Architecture(
        "HunyuanDiT 1.2", "HunyuanDiT", _HUNYUAN_DIT, (4, 16, 16), conditioning=_TWO_TEXTS,
        released=(
            Released(
                "HunyuanDiT 1.2", _HUNYUAN_DIT_G2, 1.5, {"blocks": 40},
                "Tencent-Hunyuan/HunyuanDiT: 1.5B in its card, DiT-g/2: 40 blocks, 1408 wide",
            ),
        ),
    ),
    "hunyuan_dit1": Architecture(
        "HunyuanDiT 1.1", "HunyuanDiT1", _HUNYUAN_DIT_1, (4, 16, 16), conditioning=_TWO_TEXTS,
        variant_of="hunyuan_dit",
        released=(
            Released(
                "HunyuanDiT 1.1", _HUNYUAN_DIT_G2 | _WITH_STYLE, 1.5, {"blocks": 40},
                "Tencent-Hunyuan/HunyuanDiT: as 1.2, with sizes and style",
            ),
        ),
    ),
}  # fmt: skip
