"""FLUX and the models that have its blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator

from ..architecture import ROPE_AXES, Architecture, Released
from ..conditioning import CONTEXT_WIDTH, constant, normal, pooled, reference_latents, text_mask

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
_SCHNELL = _FLUX | {"guidance_embed": False}
_CONTROL = _FLUX | {"in_channels": 32}  # the noisy latent, and that of the edges or of the depth
_FILL = _FLUX | {"in_channels": 96}  # the noisy latent, that of the picture, and 64 numbers of the mask for each pixel
_OVIS = _SCHNELL | {"vec_in_dim": None, "txt_ids_dims": [1, 2], "yak_mlp": True, "txt_norm": True}
_LONGCAT = _SCHNELL | {"vec_in_dim": None, "txt_ids_dims": [1, 2]}
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
_KLEIN = _FLUX2 | {"guidance_embed": False}
_LENS = {
    "image_model": "lens",
    "in_channels": 128,
    "out_channels": 32,
    "num_layers": 2,
    "num_attention_heads": 2,  # of 64
    "enc_hidden_dim": CONTEXT_WIDTH // 3,
    "multi_layer_encoder_feature": True,
    "selected_layer_index": (0, 1, 2),
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
_RADIANCE = _CHROMA | {
    "image_model": "chroma_radiance",
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 16,
    "nerf_hidden_size": 16,
    "nerf_mlp_ratio": 4,
    "nerf_depth": 2,
    "nerf_max_freqs": 8,
    "nerf_tile_size": 512,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32,
}

_TRUE_FLUX = {
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
}
_TRUE_OVIS = _TRUE_FLUX | {"context_in_dim": 2048, "depth": 6, "depth_single_blocks": 27}
_TRUE_LONGCAT = _TRUE_FLUX | {"context_in_dim": 3584, "depth": 10, "depth_single_blocks": 20}
_TRUE_LENS = {
    "num_layers": 48,
    "num_attention_heads": 24,
    "enc_hidden_dim": 2880,
    "selected_layer_index": (0, 1, 2, 3),
}
_TRUE_APPROXIMATOR = {"out_dim": 3072, "hidden_dim": 5120, "n_layers": 5}

_NOT_POOLED = constant(pooled_output=None)  # the text has none, and older hosts ask for it by name


def _half_masked(generator: Generator) -> dict[str, Any]:
    """What is to be drawn anew, in pixels, (1, 1, height, width)."""
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1.0
    return {"concat_mask": mask}


def _flux(title: str, unet: dict[str, Any], parameters: float, source: str, double: int = 19) -> Released:
    blocks = {"double_blocks": double, "single_blocks": 38}
    return Released(title, unet | _TRUE_FLUX | {"depth": double}, parameters, blocks, source)


def _flux2(
    title: str, unet: dict[str, Any], parameters: float, widths: tuple[int, int], depths: tuple[int, int], source: str
) -> Released:
    """With the widths of network and text, and the numbers of double and single blocks."""
    (width, text), (double, single) = widths, depths
    true = {
        "axes_dim": [32, 32, 32, 32],
        "hidden_size": width,
        "num_heads": width // 128,
        "context_in_dim": text,
        "depth": double,
        "depth_single_blocks": single,
    }
    blocks = {"double_blocks": double, "single_blocks": single}
    return Released(title, unet | true, parameters, blocks, source)


_SOLD_AS_12B = "12B: model card; 11.90 with 19 and 38 blocks in diffusers' FluxTransformer2DModel"
_BLOCKS_OF_FLUX2 = "blocks and widths of text: SimpleTuner documentation/quickstart/FLUX2.md"
_KLEIN_4B = f"named 4B; counted in diffusers' Flux2Transformer2DModel; {_BLOCKS_OF_FLUX2}"

ARCHITECTURES = {
    "flux": Architecture(
        "FLUX.1", "Flux", _FLUX, (16, 16, 16), reference=(reference_latents(16, 16, 16),),
        released=(
            _flux("FLUX.1 dev", _FLUX, 12.0, _SOLD_AS_12B),
            _flux("FLUX.1 Kontext dev", _FLUX, 12.0, _SOLD_AS_12B),
            _flux("FLUX.1 Krea dev", _FLUX, 12.0, _SOLD_AS_12B),
            _flux("Flex.1 alpha", _FLUX, 8.0, "8B and 8 double blocks: model card", double=8),
        ),
    ),
    "flux_schnell": Architecture(
        "FLUX.1 schnell", "FluxSchnell", _SCHNELL, (16, 16, 16), variant_of="flux",
        released=(_flux("FLUX.1 schnell", _SCHNELL, 12.0, _SOLD_AS_12B),),
    ),
    "flux_control": Architecture(
        "FLUX.1 Canny and Depth", "Flux", _CONTROL, (16, 16, 16), variant_of="flux",
        conditioning=(pooled(768), normal("concat_latent_image", 1, 16, 16, 16)),
        released=(
            _flux("FLUX.1 Canny dev", _CONTROL, 12.0, _SOLD_AS_12B),
            _flux("FLUX.1 Depth dev", _CONTROL, 12.0, _SOLD_AS_12B),
        ),
    ),
    "flux_fill": Architecture(
        "FLUX.1 Fill", "FluxInpaint", _FILL, (16, 16, 16), variant_of="flux",
        conditioning=(pooled(768), normal("concat_latent_image", 1, 16, 16, 16), _half_masked),
        released=(_flux("FLUX.1 Fill dev", _FILL, 12.0, _SOLD_AS_12B),),
    ),
    "flux2": Architecture(
        "FLUX.2", "Flux2", _FLUX2, (128, 8, 8), conditioning=(_NOT_POOLED,), reference=(reference_latents(128, 8, 8),),
        released=(
            _flux2("FLUX.2 dev", _FLUX2, 32.0, (6144, 15_360), (8, 48), f"32B: model card; {_BLOCKS_OF_FLUX2}"),
        ),
    ),
    "flux2_klein": Architecture(
        "FLUX.2 klein", "Flux2", _KLEIN, (128, 8, 8), conditioning=(_NOT_POOLED,), variant_of="flux2",
        reference=(reference_latents(128, 8, 8),),
        released=(
            _flux2("FLUX.2 klein 4B", _KLEIN, 3.88, (3072, 7680), (5, 20), _KLEIN_4B),
            _flux2("FLUX.2 klein 9B", _KLEIN, 9.0, (4096, 12_288), (8, 24), f"9B: model card; {_BLOCKS_OF_FLUX2}"),
        ),
    ),
    "chroma": Architecture(
        "Chroma", "Chroma", _CHROMA, (16, 16, 16), conditioning=(_NOT_POOLED, text_mask()),
        released=(_flux("Chroma1", _CHROMA | _TRUE_APPROXIMATOR, 8.9, "8.9B: model card of Chroma1-Base (also HD)"),),
    ),
    "radiance": Architecture(
        "Chroma Radiance", "ChromaRadiance", _RADIANCE, (3, 64, 64), conditioning=(_NOT_POOLED, text_mask()),
        released=(
            _flux(
                "Chroma1 Radiance", _RADIANCE | _TRUE_APPROXIMATOR | {"nerf_hidden_size": 64, "nerf_depth": 4}, 9.51,
                "19,012,346,302 bytes in bfloat16: lodestones/Chroma1-Radiance, v0.4",
            ),
        ),
    ),
    "ovis": Architecture(
        "Ovis-Image", "FluxSchnell", _OVIS, (16, 16, 16), conditioning=(_NOT_POOLED,),
        needs=("comfy.ldm.flux.layers", "YakMLP"),
        released=(
            Released(
                "Ovis-Image", _OVIS | _TRUE_OVIS, 7.37, {"double_blocks": 6, "single_blocks": 27},
                "named 7B; counted in diffusers' OvisImageTransformer2DModel, 6 and 27 blocks",
            ),
        ),
    ),
    "longcat": Architecture(
        "LongCat-Image", "LongCatImage", _LONGCAT, (16, 16, 16), conditioning=(_NOT_POOLED,),
        reference=(reference_latents(16, 16, 16), constant(reference_latents_method="index")),
        variant_of="flux",
        released=(
            Released(
                "LongCat-Image", _LONGCAT | _TRUE_LONGCAT, 6.27, {"double_blocks": 10, "single_blocks": 20},
                "named 6B (also Dev and Edit); counted in diffusers' LongCatImageTransformer2DModel, 10 and 20 blocks",
            ),
        ),
    ),
    "lens": Architecture(
        "Lens", "Lens", _LENS, (128, 8, 8), conditioning=(text_mask(),),
        released=(
            Released(
                "Lens", _LENS | _TRUE_LENS, 4.1, {"transformer_blocks": 48},
                "8.21 GB in bfloat16: Comfy-Org/Lens (also Base and Turbo; the card says 3.8B and 48 blocks)",
            ),
        ),
    ),
}  # fmt: skip
