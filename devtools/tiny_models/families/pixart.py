"""PixArt and AuraFlow."""

from ..architecture import Architecture
from ..conditioning import CONTEXT_WIDTH

_PIXART = {  # latents below 33 x 33 make the host divide by zero
    "image_model": "pixart_sigma",
    "num_heads": 4,
    "patch_size": 2,
    "hidden_size": 128,
    "in_channels": 4,
    "depth": 2,
    "caption_channels": CONTEXT_WIDTH,
    "model_max_length": 300,
    "input_size": 128,
    "pe_interpolation": 2,
    "micro_condition": False,
}
_AURAFLOW = {
    "max_seq": 16 * 16,
    "cond_seq_dim": CONTEXT_WIDTH,
    "dim": 256,
    "global_conddim": 256,
    "n_heads": 2,
    "n_double_layers": 2,
    "n_layers": 4,
}

ARCHITECTURES = {
    "pixart": Architecture("PixArt Sigma", "PixArtSigma", _PIXART, (4, 36, 36)),
    "auraflow": Architecture("AuraFlow", "AuraFlow", _AURAFLOW, (4, 16, 16)),
}
