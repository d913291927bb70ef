"""LTX: video, and video with sound."""

from ..architecture import Architecture
from ..conditioning import CONTEXT_WIDTH, text_mask

_LTXV = {
    "image_model": "ltxv",
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "cross_attention_dim": 128,
    "caption_channels": CONTEXT_WIDTH,
}

ARCHITECTURES = {
    "ltxv": Architecture("LTX-Video", "LTXV", _LTXV, (128, 2, 4, 4), conditioning=(text_mask(),)),
}
