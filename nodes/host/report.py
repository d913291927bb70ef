"""What a user reads about adapters and merges."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ...qrlora_core import QRLoRA
from ...qrlora_core.merge import MERGE_KEY

if TYPE_CHECKING:
    from .live import Source
    from .matching import Match
    from .training import TrainingResult


_SHOWN_SETTINGS = ("variant", "learning_rate", "optimizer", "schedule", "timesteps", "images")
_SHOWN_LOSSES = (("first_loss", "first"), ("last_loss", "last"))


def describe_adapter(adapter: QRLoRA) -> str:
    """``cat.safetensors: 48 layers, rank 16, made for SD3``, and how it was trained where the file tells."""
    base = adapter.metadata.get("qr_lora.base_model")
    made_for = f", made for {base}" if base else ""
    lines = [f"{adapter.name}: {len(adapter.layers)} layers, {_ranks(adapter)}{made_for}", *_how_trained(adapter)]
    return "\n".join(lines)


def _how_trained(adapter: QRLoRA) -> list[str]:
    """One line of settings and one of figures; the file may tell anything, so what cannot be read is left out."""
    try:
        told = dict(json.loads(adapter.metadata.get("qr_lora.training", "{}")))
    except ValueError:
        return []
    settings = [f"{name} {told[name]}" for name in _SHOWN_SETTINGS if name in told]
    steps = [f"{told['steps_done']} steps"] if "steps_done" in told else []
    losses = [f"{told[name]:.4g} at {when}" for name, when in _SHOWN_LOSSES if isinstance(told.get(name), float)]
    loss = [f"loss {', '.join(losses)}"] if losses else []
    return [*([", ".join([*steps, *settings])] if steps or settings else []), *loss]


def report_merge(sources: Sequence[Source], matches: Sequence[Match], merged: QRLoRA) -> str:
    """One line per adapter, and one for what needs attention.

    ``content.safetensors: 48 of 48 layers, rank 16, scale 0.90; shared basis``
    """
    how = json.loads(merged.metadata[MERGE_KEY])
    lines = [_line(source, matched, how) for source, matched in zip(sources, matches, strict=True)]
    lines += [_missing(source, matched) for source, matched in zip(sources, matches, strict=True) if matched.missing]
    if how["concatenated"]:
        lines.append(
            f"different bases in {len(how['concatenated'])} layers: their deltas were added side by side, exactly. "
            "They were trained on other base models or machines, at another rank, or with the variant qr."
        )
    return "\n".join(lines) or "no adapter connected: the model is unchanged"


def _line(source: Source, matched: Match, how: dict[str, list[str]]) -> str:
    layers = f"{len(matched.targets)} of {len(source.adapter.layers)} layers, {_ranks(source.adapter)}"
    scheduled = ", scheduled" if source.schedule is not None else ""
    state = "off" if source.scale == 0 else _basis(matched, how)
    return f"{source.label}: {layers}, scale {source.scale:.2f}{scheduled}; {state}"


def _basis(matched: Match, how: dict[str, list[str]]) -> str:
    shared, different = (len(set(how[kind]) & set(matched.targets)) for kind in ("shared", "concatenated"))
    if not shared and not different:
        return "alone on its layers"
    if not different:
        return "shared basis"
    return f"shared basis in {shared} layers, own basis in {different}" if shared else "own basis"


def _missing(source: Source, matched: Match) -> str:
    return (
        f"warning: {source.label}: {len(matched.missing)} of its layers do not exist in this model and were "
        f"left out: {paths_as_text(matched.missing)}"
    )


def paths_as_text(paths: Iterable[str], limit: int = 3) -> str:
    """The first few module paths and how many more there are."""
    listed = list(paths)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def _ranks(adapter: QRLoRA) -> str:
    ranks = adapter.ranks
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}" if ranks else "no rank"


def describe_training(result: TrainingResult) -> str:
    """Layers, rank, how the loss went from its first tenth to its last, and where the checkpoint is."""
    adapter = result.adapter
    first, last = loss_ends(result.losses).values()
    narrow = f"; {result.narrow_layers} narrower layers at their full rank" if result.narrow_layers else ""
    ended = f"stopped after {len(result.losses)} steps as asked, adapter kept" if result.stopped else ""
    lines = [
        *([ended] if ended else []),
        f"{len(adapter.layers)} layers, {_ranks(adapter)}{narrow}",
        f"loss {first:.4g} at first, {last:.4g} at last",
        *([f"checkpoint {result.checkpoint}"] if result.checkpoint else []),
        *result.notes,
    ]
    return ".\n".join(lines)  # one of the host's renderers shows no line ends


def loss_ends(losses: Sequence[float]) -> dict[str, float]:
    """The mean loss of the first tenth of the steps and of the last; NaN before the first step."""
    if not losses:
        return {"first_loss": math.nan, "last_loss": math.nan}
    tenth = max(1, len(losses) // 10)
    return {"first_loss": sum(losses[:tenth]) / tenth, "last_loss": sum(losses[-tenth:]) / tenth}
