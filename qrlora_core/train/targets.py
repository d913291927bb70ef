"""Which layers to adapt: presets and patterns over module paths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from ..errors import TargetError
from ..text import listed

# The published FLUX list, by dotted suffix.
_PUBLISHED = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
)  # fmt: skip

# The same projections under the names of other architectures.
_ATTENTION_COUNTERPARTS = (
    *(f"{block}.{name}" for block in ("attn1", "attn2") for name in ("to_q", "to_k", "to_v", "to_out.0")),
    "attn.qkv", "attn.proj", "img_attn.qkv", "img_attn.proj", "txt_attn.qkv", "txt_attn.proj",
    "img_attn_qkv", "img_attn_proj", "txt_attn_qkv", "txt_attn_proj", "self_attn_qkv", "self_attn.qkv",
    *(f"{block}.{name}" for block in ("self_attn", "cross_attn") for name in ("q", "k", "v", "o", "proj")),
    "cross_attn.k_img", "cross_attn.v_img", *(f"audio_cross_attn.{name}" for name in ("q", "k", "v", "o")),
    *(f"{block}.{name}" for block in ("self_attn", "cross_attn")
      for name in ("q_proj", "k_proj", "v_proj", "output_proj", "to_q.0", "to_k.0", "to_v.0", "to_out.0")),
    *(f"attention.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "qkv", "out", "o")),
    *(f"self_attention.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
    "attn.img_qkv", "attn.txt_qkv", "attn.to_gate",
    "attn.to_q.0", "attn.to_k.0", "attn.to_v.0", "self_attn_proj",
    *(f"{block}.{name}" for block in ("self_attention", "cross_attention")
      for name in ("to_query", "to_key", "to_value", "out_layer")),
    "attn1.to_out", *(f"attn1.to_{name}_t" for name in ("q", "k", "v", "out")),
    *(f"processor.{stream}_{name}" for stream in ("img", "instruct") for name in ("to_q", "to_k", "to_v", "out")),
    "img_instruct_attn.to_out.0", *(f"img_self_attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
    *(f"attn.{name}_{stream}" for name in ("qkv", "proj") for stream in ("x", "y")), "self_attn.o_proj",
    "cross_attn.q_linear", "cross_attn.kv_linear", "single_blocks.*.linear1", "attn.to_qkv_mlp_proj",
    "attention.attn.out_proj",
    *(f"{block}.{name}" for block in ("audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
      for name in ("to_q", "to_k", "to_v", "to_out.0")),
    "attn1.Wqkv", "attn1.out_proj", "attn2.q_proj", "attn2.kv_proj", "attn2.out_proj",
    "attn.qkv_proj", "attn.out_proj",
    *(f"attn.{name}.{modality}" for name in ("proj_qkv", "proj_out") for modality in ("vid", "txt", "all")),
    *(f"{block}.{name}" for block in ("blocks.[0-9]", "blocks.[0-9][0-9]") for name in ("q", "k", "v", "attn_out")),
)  # fmt: skip
_FEED_FORWARD_COUNTERPARTS = (
    "img_mlp.0", "img_mlp.2", "txt_mlp.0", "txt_mlp.2", "ffn.0", "ffn.2",
    "mlp.fc1", "mlp.fc2", "img_mlp.fc1", "img_mlp.fc2", "txt_mlp.fc1", "txt_mlp.fc2",
    "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2",
    "individual_token_refiner.*.mlp.0", "individual_token_refiner.*.mlp.2",
    "mlp.layer1", "mlp.layer2", "block.layer1", "block.layer2",
    *(f"{block}.{name}" for block in ("feed_forward", "img_mlp", "txt_mlp") for name in ("w1", "w2", "w3")),
    *(f"{block}.{name}" for block in ("mlp", "img_mlp", "txt_mlp") for name in ("gate_proj", "up_proj", "down_proj")),
    "mlp.linear_fc2",
    "feed_forward.linear_1", "feed_forward.linear_2", "feed_forward.linear_3",
    *(f"{block}.{name}" for block in ("ff", "ff_context") for name in ("linear_1", "linear_2", "out_projection")),
    "ff.gate", "ff.up", "ff.down", "ff_in.net.0.proj", "ff_in.net.2",
    "audio_ff.net.0.proj", "audio_ff.net.2", "feed_forward.in_layer", "feed_forward.out_layer",
    *(f"{block}.linear_{i}" for block in ("img_feed_forward", "instruct_feed_forward") for i in (1, 2, 3)),
    *(f"{block}.w{i}" for block in ("shared_experts", "ff_t", "mlp_x", "mlp_y") for i in (1, 2, 3)),
    *(f"mlp.{modality}.{name}"
      for modality in ("vid", "txt", "all") for name in ("proj_in", "proj_in_gate", "proj_out")),
    *(f"{block}.{name}" for block in ("blocks.[0-9]", "blocks.[0-9][0-9]") for name in ("ff_proj", "ff_out")),
)  # fmt: skip

# Transformers that prepare the text (Anima, LTX-2, MiniMax H3), the music (Wan Dancer) or reference pictures (HiDream
# O1), the same in all steps: trainers leave them alone unless they are asked for.
_ASIDE = ("llm_adapter.*", "*_embeddings_connector.*", "token_refiner.*", "music_encoder.*", "visual.*")

PRESETS: dict[str, tuple[str, ...]] = {
    "paper": (*_PUBLISHED, *_ATTENTION_COUNTERPARTS, *_FEED_FORWARD_COUNTERPARTS),
    "attention": (*(name for name in _PUBLISHED if name.startswith("attn.")), *_ATTENTION_COUNTERPARTS),
    "all-linear": ("*",),
}


def matches(path: str, pattern: str) -> bool:
    """True when a dotted suffix (``attn.to_q``) or a glob (``*double_blocks.1?.*``) names this module path."""
    if any(sign in pattern for sign in "*?["):
        return fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")
    return path == pattern or path.endswith(f".{pattern}")


def select(paths: Iterable[str], choice: str | Sequence[str]) -> list[str]:
    """The module paths that a preset or a list of patterns chooses, in the given order.

    Args:
        paths: module paths of the linear layers of a model.
        choice: a name in `PRESETS`, or dotted suffixes and globs: a sequence, or text with commas or line ends.

    Raises:
        TargetError: a pattern that matches nothing, or an empty choice; lists the kinds of layers that are there.
    """
    available = list(paths)
    if isinstance(choice, str) and choice in PRESETS:
        chosen = _of_preset(available, choice)
        if not chosen:
            raise TargetError(f"targets {choice!r}: no layer of this model matches. {_inventory(available)}")
        return chosen
    patterns = _patterns(choice)
    if not patterns:
        raise TargetError(f"targets: expected {', '.join(PRESETS)} or patterns, found nothing. {_inventory(available)}")
    for pattern in patterns:
        if not any(matches(path, pattern) for path in available):
            raise TargetError(f"targets: no layer of this model matches {pattern!r}. {_inventory(available)}")
    return [path for path in available if any(matches(path, pattern) for pattern in patterns)]


def _of_preset(paths: Sequence[str], choice: str) -> list[str]:
    everything = choice == "all-linear"
    within = paths if everything else [path for path in paths if not any(matches(path, aside) for aside in _ASIDE)]
    return [path for path in within if any(matches(path, pattern) for pattern in PRESETS[choice])]


def _patterns(choice: str | Sequence[str]) -> list[str]:
    return listed(choice) if isinstance(choice, str) else [part.strip() for part in choice if part.strip()]


def _inventory(paths: Sequence[str], limit: int = 40) -> str:
    """The kinds of layers, block numbers folded: ``blocks.N.attn.qkv (12)``."""
    if not paths:
        return "It has no linear layers that can be adapted."
    kinds = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "N", path) for path in paths)
    listed = ", ".join(f"{kind} ({count})" for kind, count in list(kinds.items())[:limit])
    more = f" and {len(kinds) - limit} kinds more" if len(kinds) > limit else ""
    return f"This model has: {listed}{more}."
