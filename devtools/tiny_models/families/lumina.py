"""Lumina and the models that have its blocks."""

from ..architecture import ROPE_AXES, Architecture
from ..conditioning import CONTEXT_WIDTH, text_mask

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

ARCHITECTURES = {
    "lumina2": Architecture("Lumina Image 2", "Lumina2", _LUMINA2, (16, 16, 16)),
    "z_image": Architecture("Z-Image", "ZImage", _Z_IMAGE, (16, 16, 16)),
    "omnigen2": Architecture("OmniGen2", "Omnigen2", _OMNIGEN2, (16, 16, 16), conditioning=(text_mask(),)),
}
