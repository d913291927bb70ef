"""Wan: video, and pictures of one frame."""

from ..architecture import Architecture
from ..conditioning import CONTEXT_WIDTH

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
    "text_dim": CONTEXT_WIDTH,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "in_dim": 16,
}

ARCHITECTURES = {
    "wan": Architecture("Wan 2.1", "WAN21_T2V", _WAN, (16, 2, 8, 8)),
}
