"""Video models with a transformer of their own: Mochi, CogVideoX, MiniMax and others."""

from __future__ import annotations

from typing import Any

from ..architecture import Architecture, Released
from ..conditioning import CONTEXT_WIDTH, normal, text_mask
from ..narrowing import layer_kinds

_MOCHI = {
    "image_model": "mochi_preview",
    "depth": 2,
    "patch_size": 2,
    "num_heads": 4,
    "hidden_size_x": 128,
    "hidden_size_y": 64,
    "mlp_ratio_x": 12288 / 128,  # the host insists on this product of both
    "mlp_ratio_y": 4.0,
    "learn_sigma": False,
    "in_channels": 12,
    "qk_norm": True,
    "qkv_bias": False,
    "out_bias": True,
    "attn_drop": 0.0,
    "patch_embed_bias": True,
    "posenc_preserve_area": True,
    "timestep_mlp_bias": True,
    "attend_to_padding": False,
    "timestep_scale": 1000.0,
    "use_t5": True,
    "t5_feat_dim": CONTEXT_WIDTH,
    "t5_token_length": 256,
    "rope_theta": 10000.0,
}
_COGVIDEOX = {
    "image_model": "cogvideox",
    "num_attention_heads": 3,  # at least: its learned positions are of thirds
    "attention_head_dim": 64,
    "time_embed_dim": 64,
    "num_layers": 2,
    "in_channels": 16,
    "patch_size": 2,
    "text_embed_dim": CONTEXT_WIDTH,
    "use_learned_positional_embeddings": False,
    "use_rotary_positional_embeddings": True,
}
_COGVIDEOX_I2V = _COGVIDEOX | {"in_channels": 32, "patch_size_t": 2, "ofs_embed_dim": 64}
_COGVIDEOX_INPAINT = _COGVIDEOX | {"in_channels": 48, "patch_size_t": 2}
_MINIMAX_H3 = {
    "image_model": "minimax_h3",
    "num_layers": 2,
    "token_refiner_num_layers": 2,
    "hidden_size": 128,
    "latents_dim": 24,
    "audio_latents_dim": 32,
    "attention_head_dim": 32,
    "num_attention_heads": 6,  # wider than the hidden size, as in the real model
    "ffn_hidden_size": 256,
    "text_dim": CONTEXT_WIDTH,
    "timestep_input_dim": 256,
    "time_embed_hidden_size": 128,
    "time_embed_dim": 64,
    "rope_inv_freq_len": 4,
}
_SEEDVR2 = {
    "image_model": "seedvr2",
    "vid_dim": 128,
    "txt_in_dim": CONTEXT_WIDTH,
    "heads": 2,
    "head_dim": 64,
    "rope_dim": 64,
    "num_layers": 4,
    "mm_layers": 2,  # own weights for the text up to here, then the same as for the video
    "norm_eps": 1e-5,
    "mlp_type": "swiglu",
    "vid_out_norm": True,
}

_MOCHI_10B = _MOCHI | {
    "depth": 48, "num_heads": 24, "hidden_size_x": 3072, "hidden_size_y": 1536, "mlp_ratio_x": 4.0, "t5_feat_dim": 4096,
}  # fmt: skip
_COGVIDEOX_2B = {"num_attention_heads": 30, "time_embed_dim": 512, "num_layers": 30, "text_embed_dim": 4096}
_COGVIDEOX_5B = _COGVIDEOX_2B | {"num_attention_heads": 48, "num_layers": 42}
_MINIMAX_H3_33B = {
    "image_model": "minimax_h3",
    "num_layers": 50,
    "token_refiner_num_layers": 2,
    "hidden_size": 5376,
    "latents_dim": 24,
    "audio_latents_dim": 32,
    "attention_head_dim": 128,
    "num_attention_heads": 56,
    "ffn_hidden_size": 14336,
    "text_dim": 5120,
    "timestep_input_dim": 256,
    "time_embed_hidden_size": 5376,
    "time_embed_dim": 2688,
    "rope_inv_freq_len": 16,
}
_MINIMAX_H3_PRUNED = {key: value for key, value in _MINIMAX_H3_33B.items() if not key.startswith("time")} | {
    "adaln_curve_grid": 1024, "time_embed_dim": 8,
}  # fmt: skip
_MINIMAX_BLOCKS = {"blocks": 50, "token_refiner.blocks": 2}
_SEEDVR2_3B = {
    "image_model": "seedvr2",
    "vid_dim": 2560,
    "heads": 20,
    "num_layers": 32,
    "norm_eps": 1e-5,
    "mlp_type": "swiglu",
    "vid_out_norm": True,
}
_SEEDVR2_7B = {
    "image_model": "seedvr2",
    "vid_dim": 3072,
    "heads": 24,
    "num_layers": 36,
    "mm_layers": 36,
    "norm_eps": 1e-5,
    "rope_type": "rope3d",
    "rope_dim": 64,
    "mlp_type": "normal",
}


def _narrow_feed_forward(network: Any) -> None:
    """Mochi's feed-forward of the video, which its host builds for a width of 3072 whatever the settings."""
    for block in network.blocks:
        block.mlp_x = type(block.mlp_x)(
            in_features=block.hidden_size_x, hidden_size=4 * block.hidden_size_x, multiple_of=64,
            ffn_dim_multiplier=None, dtype=network.dtype, operations=layer_kinds(network),
        )  # fmt: skip


def _cast_no_norms(network: Any) -> None:
    """MiniMax H3's norms of queries and keys, which its host hands to a kernel as they are: that has no float8."""
    for block in (*network.blocks, *network.token_refiner.blocks):
        for norm in (block.attn.q_norm, block.attn.k_norm):
            if norm.weight.dtype.itemsize == 1:
                norm.float()


ARCHITECTURES = {
    "mochi": Architecture(
        "Mochi 1", "GenmoMochi", _MOCHI, (12, 2, 8, 8), conditioning=(text_mask(),), narrow=_narrow_feed_forward,
        released=(
            Released("Mochi 1 10B", _MOCHI_10B, 10, {"blocks": 48}, "genmo/mochi-1-preview: 10B, 48 layers"),
        ),
    ),
    "cogvideox": Architecture(
        "CogVideoX", "CogVideoX_T2V", _COGVIDEOX, (16, 2, 8, 8), conditioning=(),
        released=(
            Released(
                "CogVideoX 2B", _COGVIDEOX | _COGVIDEOX_2B, 1.69, {"blocks": 30},
                "THUDM/CogVideoX-2b: config of its transformer; the number is that of these settings, 2B its name",
            ),
            Released(
                "CogVideoX 5B", _COGVIDEOX | _COGVIDEOX_5B, 5.57, {"blocks": 42},
                "THUDM/CogVideoX-5b: config of its transformer; the number is that of these settings, 5B its name",
            ),
            Released(
                "CogVideoX 1.5 5B", _COGVIDEOX | _COGVIDEOX_5B | {"patch_size_t": 2}, 5.57, {"blocks": 42},
                "THUDM/CogVideoX1.5-5B: config of its transformer; the number is that of these settings",
            ),
        ),
    ),
    "cogvideox_i2v": Architecture(
        "CogVideoX I2V", "CogVideoX_I2V", _COGVIDEOX_I2V, (16, 2, 8, 8),
        conditioning=(normal("concat_latent_image", 1, 16, 2, 8, 8),), variant_of="cogvideox",
        released=(
            Released(
                "CogVideoX 5B I2V",
                _COGVIDEOX | _COGVIDEOX_5B | {
                    "in_channels": 32, "use_learned_positional_embeddings": True,
                    "use_rotary_positional_embeddings": False,
                },
                5.57, {"blocks": 42}, "THUDM/CogVideoX-5b-I2V: as the 5B, with 32 channels in and learned positions",
            ),
            Released(
                "CogVideoX 1.5 5B I2V", _COGVIDEOX_I2V | _COGVIDEOX_5B | {"ofs_embed_dim": 512}, 5.57, {"blocks": 42},
                "THUDM/CogVideoX1.5-5B-I2V: as the 1.5 5B, with 32 channels in",
            ),
        ),
    ),
    "cogvideox_inpaint": Architecture(
        "CogVideoX Inpaint", "CogVideoX_Inpaint", _COGVIDEOX_INPAINT, (16, 2, 8, 8),
        conditioning=(normal("concat_latent_image", 1, 32, 2, 8, 8),), variant_of="cogvideox",
        released=(
            Released(
                "CogVideoX Fun 1.5 5B InP", _COGVIDEOX_INPAINT | _COGVIDEOX_5B, 5.57, {"blocks": 42},
                "alibaba-pai/CogVideoX-Fun-V1.5-5b-InP: as the 1.5 5B, with 48 channels in",
            ),
        ),
    ),
    "minimax_h3": Architecture(
        "MiniMax H3", "MiniMaxH3", _MINIMAX_H3, (24, 2, 4, 4), conditioning=(), sound=(32, 2, 8),
        narrow=_cast_no_norms, alone=True,
        released=(
            Released(
                "MiniMax H3 33B", _MINIMAX_H3_33B, 33, _MINIMAX_BLOCKS,
                "MiniMaxAI/MiniMax-H3: 33B in its card, settings in diffusers' transformer_minimax_h3",
            ),
            Released(
                "MiniMax H3 pruned", _MINIMAX_H3_PRUNED, 20.1, _MINIMAX_BLOCKS,
                "Comfy-Org's minimax_h3_fl2va_pruned: 37.46 GiB of bfloat16, its modulation over 8 numbers",
            ),
        ),
    ),
    "seedvr2": Architecture(
        "SeedVR2", "SeedVR2", _SEEDVR2, (16, 1, 8, 8), conditioning=(normal("condition", 1, 17, 1, 8, 8),),
        released=(
            Released(
                "SeedVR2 3B", _SEEDVR2_3B, 3.39, {"blocks": 32},
                "ByteDance-Seed/SeedVR2-3B: as ComfyUI detects it; the number is that of these settings, 3B its name",
            ),
            Released(
                "SeedVR2 7B", _SEEDVR2_7B, 8.24, {"blocks": 36},
                "ByteDance-Seed/SeedVR2-7B: as ComfyUI detects it; the number is that of these settings, 7B its name",
            ),
        ),
    ),
}  # fmt: skip
