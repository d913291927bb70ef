"""Kandinsky 5."""

import torch

from ..architecture import ROPE_AXES, Architecture, Released
from ..conditioning import CONTEXT_WIDTH, constant, normal, pooled

_KANDINSKY5 = {
    "image_model": "kandinsky5",
    "model_dim": 128,
    "axes_dims": ROPE_AXES,
    "time_dim": 64,
    "ff_dim": 256,
    "visual_embed_dim": 132,
    "num_text_blocks": 2,
    "num_visual_blocks": 2,
    "in_text_dim": CONTEXT_WIDTH,
    "in_text_dim2": CONTEXT_WIDTH,
}
_KANDINSKY5_IMAGE = _KANDINSKY5 | {"visual_embed_dim": 64, "rope_scale_factor": (1.0, 1.0, 1.0)}

_LITE = _KANDINSKY5 | {
    "model_dim": 1792,
    "axes_dims": (16, 24, 24),
    "time_dim": 512,
    "ff_dim": 7168,
    "num_visual_blocks": 32,
    "in_text_dim": 3584,
    "in_text_dim2": 768,
}
_PRO = _LITE | {
    "model_dim": 4096,
    "axes_dims": (32, 48, 48),
    "time_dim": 1024,
    "ff_dim": 16384,
    "num_text_blocks": 4,
    "num_visual_blocks": 60,
}
_IMAGE = _LITE | {
    "model_dim": 2560,
    "axes_dims": (32, 48, 48),
    "rope_scale_factor": (1.0, 1.0, 1.0),
    "ff_dim": 10240,
    "visual_embed_dim": 64,
    "num_visual_blocks": 50,
}


def _blocks(text: int, visual: int) -> dict[str, int]:
    return {"text_transformer_blocks": text, "visual_transformer_blocks": visual}


_SOURCE = "arXiv 2511.14993 (2B, 19B and 6B), and the transformers' config.json"
_POOLED = pooled(CONTEXT_WIDTH)
# The first frame is clean and the mask says so, as `Kandinsky5ImageToVideo` makes them.
_FIRST_FRAME = (
    normal("time_dim_replace", 1, 16, 1, 8, 8),
    constant(concat_mask=torch.tensor([0.0, 1.0]).reshape(1, 1, 2, 1, 1).expand(1, 1, 2, 8, 8)),
)

ARCHITECTURES = {
    "kandinsky5": Architecture(
        "Kandinsky 5 Video", "Kandinsky5", _KANDINSKY5, (16, 2, 8, 8), conditioning=(_POOLED,), reference=_FIRST_FRAME,
        released=(
            Released("Kandinsky 5.0 Video Lite", _LITE, 2.0, _blocks(2, 32), _SOURCE),
            Released("Kandinsky 5.0 Video Pro", _PRO, 19.0, _blocks(4, 60), _SOURCE),
        ),
    ),
    "kandinsky5_image": Architecture(
        "Kandinsky 5 Image", "Kandinsky5Image", _KANDINSKY5_IMAGE, (16, 16, 16), conditioning=(_POOLED,),
        variant_of="kandinsky5",
        released=(Released("Kandinsky 5.0 Image Lite", _IMAGE, 6.0, _blocks(2, 50), _SOURCE),),
    ),
}  # fmt: skip
