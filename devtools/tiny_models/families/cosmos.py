"""Cosmos, Cosmos Predict2, and Anima, which has its blocks."""

from __future__ import annotations

from typing import Any

from ..architecture import Architecture
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


def _narrow_text_adapter(network: Any) -> None:
    """Anima's own transformer for the text, which its host builds 1024 wide whatever the settings."""
    kind = type(network.llm_adapter)
    first = network.llm_adapter.blocks[0]
    like = next(network.parameters())
    network.llm_adapter = kind(
        source_dim=CONTEXT_WIDTH, target_dim=CONTEXT_WIDTH, model_dim=CONTEXT_WIDTH, num_layers=2, num_heads=4,
        use_self_attn=first.use_self_attn, dtype=like.dtype, operations=layer_kinds(network),
    )  # fmt: skip


ARCHITECTURES = {
    "cosmos": Architecture("Cosmos", "CosmosT2V", _COSMOS, (16, 2, 8, 8)),
    "cosmos_predict2": Architecture("Cosmos Predict2", "CosmosT2IPredict2", _COSMOS_PREDICT2, (16, 1, 16, 16)),
    "anima": Architecture(
        "Anima", "Anima", _ANIMA, (16, 1, 16, 16), conditioning=(t5_tokens,), narrow=_narrow_text_adapter
    ),
}
