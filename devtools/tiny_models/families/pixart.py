"""PixArt and AuraFlow."""

from __future__ import annotations

from ..architecture import Architecture, Released
from ..conditioning import CONTEXT_WIDTH

_PIXART = {  # latents below 33 x 33 make the host divide by zero
    "image_model": "pixart_sigma",
    "num_heads": 4,
    "patch_size": 2,
    "hidden_size": 96,
    "in_channels": 4,
    "depth": 2,
    "caption_channels": CONTEXT_WIDTH,
    "model_max_length": 300,
    "input_size": 128,
    "pe_interpolation": 2,
    "micro_condition": False,
}
_ALPHA = _PIXART | {"image_model": "pixart_alpha", "model_max_length": 120, "micro_condition": True}
_AURAFLOW = {
    "max_seq": 16 * 16,
    "cond_seq_dim": CONTEXT_WIDTH,
    "dim": 256,
    "global_conddim": 256,
    "n_heads": 2,
    "n_double_layers": 2,
    "n_layers": 4,
}
_TRUE_WIDTHS = {"num_heads": 16, "hidden_size": 1152, "depth": 28, "caption_channels": 4096}
_TRUE_AURAFLOW = _AURAFLOW | {
    "max_seq": 64 * 64,
    "cond_seq_dim": 2048,
    "dim": 3072,
    "global_conddim": 3072,
    "n_heads": 12,
    "n_double_layers": 4,
    "n_layers": 36,
}

ARCHITECTURES = {
    "pixart": Architecture(
        "PixArt Sigma",
        "PixArtSigma",
        _PIXART,
        (4, 36, 36),
        released=(
            Released("PixArt Sigma", _PIXART | _TRUE_WIDTHS, 0.6, {"blocks": 28}, "arXiv 2403.04692: 0.6B parameters"),
        ),
    ),
    "pixart_alpha": Architecture(
        "PixArt Alpha",
        "PixArtAlpha",
        _ALPHA,
        (4, 36, 36),
        variant_of="pixart",
        released=(
            Released("PixArt Alpha", _ALPHA | _TRUE_WIDTHS, 0.6, {"blocks": 28}, "arXiv 2310.00426: 0.6B parameters"),
        ),
    ),
    "auraflow": Architecture(
        "AuraFlow",
        "AuraFlow",
        _AURAFLOW,
        (4, 16, 16),
        released=(
            Released(
                "AuraFlow 0.1",
                _TRUE_AURAFLOW,
                6.8,
                {"double_layers": 4, "single_layers": 32},
                "blog.fal.ai, AuraFlow: 6.8B parameters",
            ),
            Released(
                "AuraFlow 0.3",
                _TRUE_AURAFLOW | {"max_seq": 96 * 96},
                6.8,
                {"double_layers": 4, "single_layers": 32},
                "blog.fal.ai, AuraFlow: 6.8B parameters; a larger table of positions",
            ),
        ),
    ),
}
