"""FLUX and the models that have its blocks."""

from ..architecture import ROPE_AXES, Architecture
from ..conditioning import CONTEXT_WIDTH

_FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 768,
    "context_in_dim": CONTEXT_WIDTH,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": list(ROPE_AXES),
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
}
_FLUX2 = _FLUX | {
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "vec_in_dim": None,
    "mlp_ratio": 3.0,
    "axes_dim": [8, 8, 8, 8],
    "theta": 2000,
    "qkv_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
}
_CHROMA = {key: value for key, value in _FLUX.items() if key not in ("vec_in_dim", "guidance_embed")} | {
    "image_model": "chroma",
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 128,
    "hidden_dim": 64,
    "n_layers": 2,
}

ARCHITECTURES = {
    "flux": Architecture("FLUX.1", "Flux", _FLUX, (16, 16, 16)),
    "flux2": Architecture("FLUX.2", "Flux2", _FLUX2, (128, 8, 8)),
    "chroma": Architecture("Chroma", "Chroma", _CHROMA, (16, 16, 16)),
}
