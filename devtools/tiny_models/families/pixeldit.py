"""PixelDiT, which draws pixels without a VAE, and PiD, which has its blocks and draws latents large."""

import torch

from ..architecture import Architecture, Released
from ..conditioning import CONTEXT_LENGTH, CONTEXT_WIDTH, constant, normal

_PIXELDIT = {
    "image_model": "pixeldit_t2i",
    "num_groups": 4,
    "hidden_size": 128,
    "pixel_hidden_size": 8,
    "pixel_attn_hidden_size": 96,
    "pixel_num_groups": 2,
    "patch_depth": 2,
    "pixel_depth": 2,
    "patch_size": 8,
    "txt_embed_dim": CONTEXT_WIDTH,
    "txt_max_length": CONTEXT_LENGTH,
}
_PID = _PIXELDIT | {
    "image_model": "pid",
    "lq_hidden_dim": 32,
    "lq_interval": 2,
    "lq_latent_channels": 16,
    "latent_spatial_down_factor": 8,
}
_LARGE_PIXELDIT = _PIXELDIT | {
    "num_groups": 24,
    "hidden_size": 1536,
    "pixel_hidden_size": 16,
    "pixel_attn_hidden_size": 1152,
    "pixel_num_groups": 16,
    "patch_depth": 14,
    "patch_size": 16,
    "txt_embed_dim": 2304,
    "txt_max_length": 300,
}
_LARGE_PID = _LARGE_PIXELDIT | {
    "image_model": "pid",
    "lq_hidden_dim": 512,
    "lq_interval": 2,
    "lq_latent_channels": 16,
    "latent_spatial_down_factor": 8,
}
_LARGE_PID_FLUX2 = _LARGE_PID | {"lq_latent_channels": 128, "latent_spatial_down_factor": 16}
_PID_SOURCE = "no count is published: its files hold 2.72 and 2.73 GB in bfloat16, on the blocks of PixelDiT"
_BLOCKS = {"patch_blocks": 14, "pixel_blocks": 2}

ARCHITECTURES = {
    "pixeldit": Architecture(
        "PixelDiT", "PixelDiTT2I", _PIXELDIT, (3, 32, 32), conditioning=(),
        released=(
            Released(
                "PixelDiT-1300M-1024px", _LARGE_PIXELDIT, 1.3, _BLOCKS,
                "model card nvidia/PixelDiT-1300M-1024px (1.3B, 14 and 2 blocks)",
            ),
        ),
    ),
    "pid": Architecture(
        "PiD", "PiD", _PID, (3, 32, 32),
        conditioning=(normal("lq_latent", 1, 16, 1, 1), constant(degrade_sigma=torch.zeros(1))),
        released=(
            Released("PiD for latents of FLUX.1 and SD3", _LARGE_PID, 1.36, _BLOCKS, _PID_SOURCE),
            Released("PiD for latents of FLUX.2", _LARGE_PID_FLUX2, 1.365, _BLOCKS, _PID_SOURCE),
        ),
    ),
}  # fmt: skip
