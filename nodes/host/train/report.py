"""What came of a training, and what a user reads about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ....qrlora_core import QRLoRA
from ..text import ranks_as_text
from .judge.best import describe_best
from .status import TrainingStatus


@dataclass(frozen=True)
class TrainingResult:
    """What came out.

    Attributes:
        losses: of every update. status: how it stood at its end. pictures: (updates, picture) of every sample, by
            its kind.
        stopped: whether a user ended it early. checkpoint: the last one's name. bases: where they came from, in words.
        notes: what the user should read.
    """

    adapter: QRLoRA
    losses: list[float]
    narrow_layers: int
    status: TrainingStatus
    pictures: Mapping[str, Sequence[tuple[int, Tensor]]] = field(default_factory=dict)
    stopped: bool = False
    checkpoint: str | None = None
    bases: str = ""
    notes: Sequence[str] = ()


def describe_training(result: TrainingResult) -> str:
    """Layers, rank, how the loss went from its first tenth to its last, and where the checkpoint is."""
    adapter = result.adapter
    first, last = loss_ends(result.losses).values()
    narrow = f"; {result.narrow_layers} narrower layers at their full rank" if result.narrow_layers else ""
    ended = f"stopped after {len(result.losses)} steps as asked, adapter kept" if result.stopped else ""
    lines = [
        *([ended] if ended else []),
        f"{len(adapter.layers)} layers, {ranks_as_text(adapter.ranks)}{narrow}",
        f"loss {first:.4g} at first, {last:.4g} at last",
        *([f"checkpoint {result.checkpoint}"] if result.checkpoint else []),
        *([describe_best(result.status.best, len(result.losses))] if result.status.best else []),
        *([result.bases] if result.bases else []),
        *result.notes,
    ]
    return ".\n".join(lines)  # one of the host's renderers shows no line ends


def loss_ends(losses: Sequence[float]) -> dict[str, float]:
    """The mean loss of the first tenth of the steps and of the last; NaN before the first step."""
    if not losses:
        return {"first_loss": math.nan, "last_loss": math.nan}
    tenth = max(1, len(losses) // 10)
    return {"first_loss": sum(losses[:tenth]) / tenth, "last_loss": sum(losses[-tenth:]) / tenth}
