"""Qwen-Image and its relatives."""

from ..architecture import ROPE_AXES, Architecture, Released
from ..conditioning import CONTEXT_WIDTH, reference_latents

_QWEN_IMAGE = {
    "image_model": "qwen_image",
    "in_channels": 64,
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": CONTEXT_WIDTH,
    "axes_dims_rope": ROPE_AXES,
}
_EDIT_2511 = {"default_ref_method": "index_timestep_zero"}
_LAYERED = {"default_ref_method": "negative_index", "use_additional_t_cond": True}
_MAGE_FLOW = _QWEN_IMAGE | {"image_model": "mage_flow", "in_channels": 128}
_JOYIMAGE = {
    "image_model": "joyimage",
    "in_channels": 16,
    "hidden_size": 256,
    "patch_size": [1, 2, 2],
    "num_layers": 2,
    "num_attention_heads": 2,  # of heads 128 wide, as its host embeds positions
    "text_dim": CONTEXT_WIDTH,
}

_LARGE_QWEN_IMAGE = _QWEN_IMAGE | {
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "axes_dims_rope": (16, 56, 56),
}
_LARGE_MAGE_FLOW = _LARGE_QWEN_IMAGE | {
    "image_model": "mage_flow",
    "in_channels": 128,
    "num_layers": 12,
    "joint_attention_dim": 2560,
}
_LARGE_JOYIMAGE = _JOYIMAGE | {
    "hidden_size": 4096,
    "num_layers": 40,
    "num_attention_heads": 32,
    "text_dim": 4096,
}
_SIXTY = {"transformer_blocks": 60}
_QWEN_SOURCE = "arXiv 2508.02324 (20B, 60 blocks), and the transformers' config.json"
_JOYIMAGE_SOURCE = "model card jdopensource/JoyAI-Image-Edit-Diffusers (16B); blocks: its 894 weights, 22 a block"
_MAGE_SOURCE = "microsoft/Mage (4B, 12 blocks), as ai-toolkit describes it in mageflow.py"
_PICTURE = (reference_latents(16, 1, 8, 8),)

ARCHITECTURES = {
    "qwen_image": Architecture(
        "Qwen-Image", "QwenImage", _QWEN_IMAGE, (16, 1, 16, 16), conditioning=(), reference=_PICTURE,
        released=(
            Released("Qwen-Image, Edit and Edit 2509", _LARGE_QWEN_IMAGE, 20.0, _SIXTY, _QWEN_SOURCE),
        ),
    ),
    "qwen_image_edit": Architecture(
        "Qwen-Image-Edit 2511", "QwenImage", _QWEN_IMAGE | _EDIT_2511, (16, 1, 16, 16), conditioning=(),
        reference=_PICTURE, variant_of="qwen_image",
        released=(Released("Qwen-Image-Edit 2511", _LARGE_QWEN_IMAGE | _EDIT_2511, 20.0, _SIXTY, _QWEN_SOURCE),),
    ),
    "qwen_image_layered": Architecture(
        "Qwen-Image-Layered", "QwenImage", _QWEN_IMAGE | _LAYERED, (16, 3, 8, 8), conditioning=(),
        reference=_PICTURE, variant_of="qwen_image",
        released=(Released("Qwen-Image-Layered", _LARGE_QWEN_IMAGE | _LAYERED, 20.0, _SIXTY, _QWEN_SOURCE),),
    ),
    "joyimage": Architecture(
        "JoyAI-Image", "JoyImage", _JOYIMAGE, (16, 1, 16, 16), conditioning=(), reference=_PICTURE,
        released=(
            Released("JoyAI-Image-Edit and Edit-Plus", _LARGE_JOYIMAGE, 16.0, {"double_blocks": 40}, _JOYIMAGE_SOURCE),
        ),
    ),
    "mage_flow": Architecture(
        "Mage-Flow", "MageFlow", _MAGE_FLOW, (128, 8, 8), conditioning=(), reference=(reference_latents(128, 8, 8),),
        released=(
            Released("Mage-Flow and Mage-Flow-Edit", _LARGE_MAGE_FLOW, 4.0, {"transformer_blocks": 12}, _MAGE_SOURCE),
        ),
    ),
}  # fmt: skip
