"""Stable Diffusion: the UNets, and the transformers of its third version."""

from ..architecture import Architecture
from ..conditioning import CONTEXT_WIDTH, pooled

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
        "params": {"in_features": CONTEXT_WIDTH, "out_features": 128},
    },
    "num_patches": 16 * 16,
    "pos_embed_max_size": 16,
    "pos_embed_scaling_factor": None,
}

ARCHITECTURES = {
    "sd15": Architecture("Stable Diffusion 1.5", "SD15", _SD15, (4, 16, 16)),
    "sdxl": Architecture("SDXL", "SDXL", _SDXL, (4, 16, 16), conditioning=(pooled(1280),)),
    "sd3": Architecture("Stable Diffusion 3", "SD3", _SD3, (16, 16, 16), conditioning=(pooled(2048),)),
    "sd35": Architecture(
        "Stable Diffusion 3.5",
        "SD3",
        _SD3 | {"qk_norm": "rms", "x_block_self_attn_layers": [0]},
        (16, 16, 16),
        conditioning=(pooled(2048),),
    ),
}
