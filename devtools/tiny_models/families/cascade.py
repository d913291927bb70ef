"""Stable Cascade: the stage that makes a picture of a text, and the one that works it out."""

from __future__ import annotations

from ..architecture import Architecture, Released
from ..conditioning import CONTEXT_WIDTH, normal, pooled

_POOLED = 64

# Levels are convolutions (C), what the time says (T) and, in the deeper ones, attention (A).
_STAGE_C = {
    "stable_cascade_stage": "c",
    "c_cond": CONTEXT_WIDTH,
    "c_hidden": [96, 96],
    "nhead": [4, 4],
    "blocks": [[1, 1], [1, 1]],
    "c_clip_text": CONTEXT_WIDTH,
    "c_clip_text_pooled": _POOLED,
}
_STAGE_B = {
    "stable_cascade_stage": "b",
    "c_cond": CONTEXT_WIDTH,
    "c_hidden": [32, 64, 96, 96],
    "nhead": [-1, -1, 4, 4],
    "blocks": [[1, 1, 1, 1], [1, 1, 1, 1]],
    "block_repeat": [[1, 1, 1, 1], [2, 2, 2, 2]],  # blocks upwards run twice
    "c_clip": _POOLED,
}
_TRUE_C = {"stable_cascade_stage": "c", "c_cond": 2048}
_TRUE_C_LITE = {
    "stable_cascade_stage": "c",
    "c_cond": 1536,
    "c_hidden": [1536, 1536],
    "nhead": [24, 24],
    "blocks": [[4, 12], [12, 4]],
}
_TRUE_B = {
    "stable_cascade_stage": "b",
    "c_hidden": [320, 640, 1280, 1280],
    "nhead": [-1, -1, 20, 20],
    "blocks": [[2, 6, 28, 6], [6, 28, 6, 2]],
    "block_repeat": [[1, 1, 1, 1], [3, 3, 2, 2]],
}
_TRUE_B_LITE = {
    "stable_cascade_stage": "b",
    "c_hidden": [320, 576, 1152, 1152],
    "nhead": [-1, 9, 18, 18],
    "blocks": [[2, 4, 14, 4], [4, 14, 4, 2]],
    "block_repeat": [[1, 1, 1, 1], [2, 2, 2, 2]],
}

ARCHITECTURES = {
    "cascade_c": Architecture(
        "Stable Cascade, stage C",
        "Stable_Cascade_C",
        _STAGE_C,
        (16, 8, 8),
        conditioning=(pooled(_POOLED),),
        released=(
            Released(
                "Stable Cascade, stage C",
                _TRUE_C,
                3.6,
                {"down_blocks.0": 3 * 8, "down_blocks.1": 3 * 24, "up_blocks.0": 3 * 24, "up_blocks.1": 3 * 8},
                "stabilityai/stable-cascade: 3.6 billion parameters",
            ),
            Released(
                "Stable Cascade, stage C lite",
                _TRUE_C_LITE,
                1.03,
                {"down_blocks.0": 3 * 4, "down_blocks.1": 3 * 12, "up_blocks.0": 3 * 12, "up_blocks.1": 3 * 4},
                "stabilityai/stable-cascade: 1 billion; size of stage_c_lite.safetensors, 4.12 GB in float32",
            ),
        ),
    ),
    "cascade_b": Architecture(
        "Stable Cascade, stage B",
        "Stable_Cascade_B",
        _STAGE_B,
        (4, 16, 16),
        conditioning=(pooled(_POOLED), normal("stable_cascade_prior", 1, 16, 4, 4)),
        variant_of="cascade_c",
        released=(
            Released(
                "Stable Cascade, stage B",
                _TRUE_B,
                1.56,
                {"down_blocks.0": 2 * 2, "down_blocks.2": 3 * 28, "up_blocks.0": 3 * 6, "up_blocks.3": 2 * 2},
                "stabilityai/stable-cascade: 1.5 billion; size of stage_b.safetensors, 6.25 GB in float32",
            ),
            Released(
                "Stable Cascade, stage B lite",
                _TRUE_B_LITE,
                0.7,
                {"down_blocks.0": 2 * 2, "down_blocks.2": 3 * 14, "up_blocks.0": 3 * 4, "up_blocks.3": 2 * 2},
                "stabilityai/stable-cascade: 700 million parameters",
            ),
        ),
    ),
}
