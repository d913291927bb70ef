"""Qwen-Image and its relatives."""

from ..architecture import ROPE_AXES, Architecture
from ..conditioning import CONTEXT_WIDTH

_QWEN_IMAGE = {
    "image_model": "qwen_image",
    "in_channels": 64,
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": CONTEXT_WIDTH,
    "axes_dims_rope": ROPE_AXES,
}

ARCHITECTURES = {
    "qwen_image": Architecture("Qwen-Image", "QwenImage", _QWEN_IMAGE, (16, 1, 16, 16)),
}
