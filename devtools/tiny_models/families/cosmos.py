"""Cosmos, Cosmos Predict2, and Anima, which has its blocks."""

from __future__ import annotations

from typing import Any

from ..architecture import Architecture, Released
from ..conditioning import CONTEXT_WIDTH, t5_tokens
from ..narrowing import layer_kinds

_COSMOS = {
    "image_model": "cosmos",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 128,
    "block_config": "FA-CA-MLP",
    "num_blocks": 2,
    "num_heads": 4,
    "crossattn_emb_channels": CONTEXT_WIDTH,
    "concat_padding_mask": True,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": False,
    "pos_emb_interpolation": "crop",
    "block_x_format": "THWBD",
    "affline_emb_norm": True,
    "use_adaln_lora": True,
    "adaln_lora_dim": 32,
    "rope_t_extrapolation_ratio": 2.0,
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
_COSMOS_PREDICT2 = {
    "image_model": "cosmos_predict2",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 128,
    "num_blocks": 2,
    "num_heads": 4,
    "crossattn_emb_channels": CONTEXT_WIDTH,
    "concat_padding_mask": True,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "adaln_lora_dim": 32,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "extra_per_block_abs_pos_emb": False,
    "rope_enable_fps_modulation": False,
}
_ANIMA = _COSMOS_PREDICT2 | {"image_model": "anima"}
_IMAGE_TO_VIDEO = {"in_channels": 17}  # one more says which frames are given

_COSMOS_7B = _COSMOS | {
    "model_channels": 4096,
    "num_blocks": 28,
    "num_heads": 32,
    "crossattn_emb_channels": 1024,
    "adaln_lora_dim": 256,
}
_COSMOS_14B = _COSMOS_7B | {
    "model_channels": 5120,
    "num_blocks": 36,
    "num_heads": 40,
    "rope_h_extrapolation_ratio": 2.0,
    "rope_w_extrapolation_ratio": 2.0,
}
_PREDICT2_2B = _COSMOS_PREDICT2 | {
    "model_channels": 2048,
    "num_blocks": 28,
    "num_heads": 16,
    "crossattn_emb_channels": 1024,
    "adaln_lora_dim": 256,
}
_PREDICT2_14B = _PREDICT2_2B | {"model_channels": 5120, "num_blocks": 36, "num_heads": 40}


def _narrow_text_adapter(network: Any) -> None:
    """Anima's own transformer for the text, which its host builds 1024 wide whatever the settings."""
    kind = type(network.llm_adapter)
    first = network.llm_adapter.blocks[0]
    like = next(network.parameters())
    network.llm_adapter = kind(
        source_dim=CONTEXT_WIDTH, target_dim=CONTEXT_WIDTH, model_dim=CONTEXT_WIDTH, num_layers=2, num_heads=4,
        use_self_attn=first.use_self_attn, dtype=like.dtype, operations=layer_kinds(network),
    )  # fmt: skip


_COSMOS_FILES = "sizes of the bfloat16 files of huggingface.co/mcmonkey/cosmos-1.0; blocks: NVIDIA's configuration"
_PREDICT2_FILES = (
    "sizes of the bfloat16 files of huggingface.co/Comfy-Org/Cosmos_Predict2_repackaged; blocks: NVIDIA's configuration"
)


def _released(title: str, unet: dict[str, Any], parameters: float, source: str) -> Released:
    return Released(title, unet, parameters, {"blocks": unet["num_blocks"]}, source)


ARCHITECTURES = {
    "anima": Architecture(
        "Anima",
        "Anima",
        _ANIMA,
        (16, 1, 16, 16),
        conditioning=(t5_tokens,),
        narrow=_narrow_text_adapter,
        released=(
            Released(
                "Anima",
                _PREDICT2_2B | {"image_model": "anima"},
                2.09,
                {"blocks": 28, "llm_adapter.blocks": 6},
                "size of anima-base-v1.0.safetensors in bfloat16, huggingface.co/circlestone-labs/Anima; "
                "blocks: its base, Cosmos Predict2 2B",
            ),
        ),
    ),
    "cosmos_predict2": Architecture(
        "Cosmos Predict2",
        "CosmosT2IPredict2",
        _COSMOS_PREDICT2,
        (16, 1, 16, 16),
        conditioning=(),
        released=(
            _released("Cosmos Predict2 2B", _PREDICT2_2B, 1.955, _PREDICT2_FILES),
            _released("Cosmos Predict2 14B", _PREDICT2_14B, 14.25, _PREDICT2_FILES),
        ),
    ),
    "cosmos_predict2_i2v": Architecture(
        "Cosmos Predict2, image to video",
        "CosmosI2VPredict2",
        _COSMOS_PREDICT2 | _IMAGE_TO_VIDEO,
        (16, 2, 8, 8),
        conditioning=(),
        variant_of="cosmos_predict2",
        released=(
            _released("Cosmos Predict2 2B Video2World", _PREDICT2_2B | _IMAGE_TO_VIDEO, 1.955, _PREDICT2_FILES),
            _released("Cosmos Predict2 14B Video2World", _PREDICT2_14B | _IMAGE_TO_VIDEO, 14.25, _PREDICT2_FILES),
        ),
    ),
    "cosmos": Architecture(
        "Cosmos",
        "CosmosT2V",
        _COSMOS,
        (16, 2, 8, 8),
        conditioning=(),
        released=(
            _released("Cosmos 1.0 7B Text2World", _COSMOS_7B, 7.25, _COSMOS_FILES),
            _released("Cosmos 1.0 14B Text2World", _COSMOS_14B, 14.25, _COSMOS_FILES),
        ),
    ),
    "cosmos_i2v": Architecture(
        "Cosmos, image to video",
        "CosmosI2V",
        _COSMOS | _IMAGE_TO_VIDEO,
        (16, 2, 8, 8),
        conditioning=(),
        variant_of="cosmos",
        released=(
            _released("Cosmos 1.0 7B Video2World", _COSMOS_7B | _IMAGE_TO_VIDEO, 7.25, _COSMOS_FILES),
            _released("Cosmos 1.0 14B Video2World", _COSMOS_14B | _IMAGE_TO_VIDEO, 14.25, _COSMOS_FILES),
        ),
    ),
}
