"""Hunyuan: HunyuanDiT, HunyuanVideo, HunyuanImage."""

from ..architecture import ROPE_AXES, Architecture
from ..conditioning import CONTEXT_WIDTH

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
    "guidance_embed": False,
}
_HUNYUAN_VIDEO = _HUNYUAN | {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "axes_dim": list(ROPE_AXES),
    "vec_in_dim": 768,
    "guidance_embed": True,
}

ARCHITECTURES = {
    "hunyuan_image": Architecture("HunyuanImage 2.1", "HunyuanImage21", _HUNYUAN_IMAGE, (64, 8, 8)),
    "hunyuan_video": Architecture("HunyuanVideo", "HunyuanVideo", _HUNYUAN_VIDEO, (16, 2, 8, 8)),
}
