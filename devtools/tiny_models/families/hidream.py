"""HiDream I1 and E1, and O1, a language model that draws pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator

from ..architecture import Architecture, Released
from ..conditioning import CONTEXT_LENGTH, CONTEXT_WIDTH, normal, pooled

_HIDREAM = {
    "image_model": "hidream",
    "attention_head_dim": 32,
    "axes_dims_rope": [16, 8, 8],
    "caption_channels": [CONTEXT_WIDTH, CONTEXT_WIDTH],
    "max_resolution": [128, 128],
    "in_channels": 16,
    "llama_layers": [0, 1, 1, 1],
    "num_attention_heads": 4,
    "num_routed_experts": 4,
    "num_activated_experts": 2,
    "num_layers": 2,
    "num_single_layers": 2,
    "out_channels": 16,
    "patch_size": 2,
    "text_emb_dim": CONTEXT_WIDTH,
}
_LARGE_HIDREAM = _HIDREAM | {
    "attention_head_dim": 128,
    "axes_dims_rope": [64, 32, 32],
    "caption_channels": [4096, 4096],
    "llama_layers": [*range(32), *[31] * 16],
    "num_attention_heads": 20,
    "num_layers": 16,
    "num_single_layers": 32,
    "text_emb_dim": 2048,
}
_LLAMA = normal("conditioning_llama3", 1, 2, CONTEXT_LENGTH, CONTEXT_WIDTH)

_HIDREAM_O1 = {
    "image_model": "hidream_o1",
    "text_config_overrides": {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "rope_dims": [6, 5, 5],
    },
    "vision_config_overrides": {"hidden_size": 96, "num_heads": 3, "intermediate_size": 128, "depth": 2},
}


def _tokens(generator: Generator) -> dict[str, Any]:
    """The numbers of the text's tokens in the template of O1's own tokenizer, (1, length)."""
    user = [151644, 872, 198]
    answer = [151645, 198, 151644, 77091, 198, 151669, 151673]
    words = torch.randint(1, 32_000, (CONTEXT_LENGTH,), generator=generator).tolist()
    return {"text_input_ids": torch.tensor([user + words + answer])}


def _pictures(generator: Generator) -> dict[str, Any]:
    """What `HiDreamO1ReferenceImages` adds: no latents, but the pictures themselves, (1, height, width, 3)."""
    return {"reference_latents": [torch.rand(1, 64, 64, 3, generator=generator)]}


ARCHITECTURES = {
    "hidream": Architecture(
        "HiDream I1", "HiDream", _HIDREAM, (16, 16, 16), conditioning=(pooled(CONTEXT_WIDTH), _LLAMA),
        reference=(normal("concat_latent_image", 1, 16, 16, 16),),
        released=(
            Released(
                "HiDream I1 and E1", _LARGE_HIDREAM, 17.0,
                {"double_stream_blocks": 16, "single_stream_blocks": 32},
                "arXiv 2505.22705 (17B), and the transformers' config.json",
            ),
        ),
    ),
    "hidream_o1": Architecture(
        "HiDream O1", "HiDreamO1", _HIDREAM_O1, (3, 64, 64), text=(22, 1), conditioning=(_tokens,),
        reference=(_pictures,),
        released=(
            Released(
                "HiDream-O1-Image", {"image_model": "hidream_o1"}, 8.0,
                {"language_model.layers": 36, "visual.blocks": 27},
                "arXiv 2605.11061 (8B); blocks: config.json of Qwen3-VL-8B, which it is made of",
            ),
        ),
    ),
}  # fmt: skip
