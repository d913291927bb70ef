"""ERNIE-Image."""

from ..architecture import ROPE_AXES, Architecture, Released
from ..conditioning import CONTEXT_WIDTH

_ERNIE = {
    "image_model": "ernie",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_layers": 2,
    "ffn_hidden_size": 384,
    "text_in_dim": CONTEXT_WIDTH,
    "rope_axes_dim": ROPE_AXES,
}

ARCHITECTURES = {
    "ernie": Architecture(
        "ERNIE-Image", "ErnieImage", _ERNIE, (128, 8, 8), conditioning=(),
        released=(
            Released(
                # Its widths are the defaults of the host's class: detection finds nothing but the model's name.
                "ERNIE-Image", {"image_model": "ernie"}, 8.0, {"layers": 36},
                "8B: model card of baidu/ERNIE-Image (also Turbo, Aes); 36 layers: DiffSynth-Studio pull 1389",
            ),
        ),
    ),
}  # fmt: skip
