"""Ideogram 4."""

from ..architecture import Architecture, Released
from ..conditioning import CONTEXT_WIDTH, text_mask

_IDEOGRAM4 = {
    "image_model": "ideogram4",
    "in_channels": 128,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "intermediate_size": 384,
    "adaln_dim": 64,
    "llm_features_dim": CONTEXT_WIDTH,
    "mrope_section": [6, 5, 5],  # of 32 frequencies, as 24, 20 and 20 of 128
}

ARCHITECTURES = {
    "ideogram4": Architecture(
        "Ideogram 4", "Ideogram4", _IDEOGRAM4, (128, 8, 8), conditioning=(text_mask(),),
        released=(
            Released(
                # All else is fixed by the host's class.
                "Ideogram 4", {"image_model": "ideogram4", "in_channels": 128, "num_layers": 34}, 9.3, {"layers": 34},
                "Ideogram's technical details: 9.3B, 34 layers; the unconditional network is another of these widths",
            ),
        ),
    ),
}  # fmt: skip
