"""LTX: video, and video with sound."""

from ..architecture import Architecture, Released
from ..conditioning import CONTEXT_WIDTH, constant, text_mask

_LTXV = {
    "image_model": "ltxv",
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "cross_attention_dim": 128,
    "caption_channels": CONTEXT_WIDTH,
}
_LTXV_2B = _LTXV | {
    "num_layers": 28,
    "attention_head_dim": 64,
    "num_attention_heads": 32,
    "cross_attention_dim": 2048,
    "caption_channels": 4096,
}
_LTXV_13B = _LTXV_2B | {"num_layers": 48, "attention_head_dim": 128, "cross_attention_dim": 4096}
_LTXAV = {
    "image_model": "ltxav",
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "cross_attention_dim": 128,
    "audio_attention_head_dim": 16,
    "audio_num_attention_heads": 4,
    "audio_cross_attention_dim": 64,
    "caption_channels": CONTEXT_WIDTH,
    "connector_attention_head_dim": 32,
    "connector_num_attention_heads": CONTEXT_WIDTH // 32,
    "connector_num_layers": 2,
    "rope_type": "split",
    "frequencies_precision": "float64",
    "use_middle_indices_grid": True,
}
_LTXAV_23 = _LTXAV | {
    "cross_attention_adaln": True,
    "apply_gated_attention": True,
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,  # its text encoder has it, for video and sound apart
    "connector_apply_gated_attention": True,
    "connector_num_attention_heads": 4,
    "audio_connector_num_attention_heads": 4,
    "audio_connector_attention_head_dim": 16,
}
_LTX2_WIDTHS = {
    "num_layers": 48,
    "attention_head_dim": 128,
    "num_attention_heads": 32,
    "cross_attention_dim": 4096,
    "audio_attention_head_dim": 64,
    "audio_num_attention_heads": 32,
    "audio_cross_attention_dim": 2048,
    "caption_channels": 3840,
    "connector_attention_head_dim": 128,
}
_LTX2_19B = _LTXAV | _LTX2_WIDTHS | {"connector_num_attention_heads": 30}
_LTX23_22B = _LTXAV_23 | _LTX2_WIDTHS | {
    "connector_num_attention_heads": 32,
    "audio_connector_num_attention_heads": 32,
    "audio_connector_attention_head_dim": 64,
    "connector_num_layers": 8,
}  # fmt: skip
_LTX2_BLOCKS = {"transformer_blocks": 48, "video_embeddings_connector.transformer_1d_blocks": 2}
_LTX23_BLOCKS = {"transformer_blocks": 48, "video_embeddings_connector.transformer_1d_blocks": 8}

ARCHITECTURES = {
    "ltxv": Architecture(
        "LTX-Video",
        "LTXV",
        _LTXV,
        (128, 2, 4, 4),
        conditioning=(text_mask(),),
        released=(
            Released(
                "LTX-Video 2B", _LTXV_2B, 1.92, {"transformer_blocks": 28},
                "Lightricks/LTX-Video: config of its transformer in diffusers; the number is that of its settings",
            ),
            Released(
                "LTX-Video 13B", _LTXV_13B, 13.0, {"transformer_blocks": 48},
                "Lightricks/LTX-Video 0.9.7: 13B in its name, config of its transformer in diffusers",
            ),
        ),
    ),
    "ltxav": Architecture(
        "LTX-2",
        "LTXAV",
        _LTXAV,
        (128, 2, 4, 4),
        conditioning=(constant(unprocessed_ltxav_embeds=True),),
        sound=(8, 6, 16),
        released=(
            Released(
                "LTX-2 19B", _LTX2_19B, 19.6, _LTX2_BLOCKS,
                "Lightricks/LTX-2, diffusers scripts/convert_ltx2_to_diffusers.py 2.0: 18.9 as its settings say (19B "
                "in its name), and 0.7 of the connectors, which the host has in the same network",
            ),
        ),
    ),
    "ltx23": Architecture(
        "LTX-2.3",
        "LTXAV",
        _LTXAV_23,
        (128, 2, 4, 4),
        text=(12, 128 + 64),
        conditioning=(constant(unprocessed_ltxav_embeds=True),),
        sound=(8, 6, 16),
        variant_of="ltxav",
        released=(
            Released(
                "LTX-2.3 22B", _LTX23_22B, 21.0, _LTX23_BLOCKS,
                "Lightricks/LTX-2.3, diffusers scripts/convert_ltx2_to_diffusers.py 2.3: 22B in its name, of which the "
                "projections 188160 to 4096 and to 2048 (1.2) are in the host's text encoder",
            ),
        ),
    ),
}  # fmt: skip
