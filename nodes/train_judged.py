"""The inputs of Train QR-LoRA by which its samples are judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from .host.train.dataset import first_caption
from .host.train.judge.best import MARKS
from .host.train.samples import NO_MARK


def judged_inputs() -> list[io.Input]:
    """Optional, and the last ones of the node."""
    return [
        io.Conditioning.Input(
            "without_word", optional=True,
            tooltip="The caption without the adapter's word: drawn with each sample, it shows what leaks.",
        ),
        io.Conditioning.Input(
            "elsewhere", optional=True,
            tooltip="Drawn with each sample: for a content the thing in another style, for a style another thing in "
            "this style. It shows what else comes along.",
        ),
        io.ClipVision.Input(
            "judge", optional=True,
            tooltip="Compares the samples with the pictures: from Load CLIP Vision. Without it a rough measure of "
            "edges and colours is used.",
        ),
        io.Combo.Input(
            "mark_best", options=list(MARKS), default=NO_MARK, optional=True,
            tooltip="Marks the sample that does best and keeps its checkpoint. likeness: is most like the pictures. "
            "freedom: changes least of what has not the word. both: their product. The adapter is that of the last "
            "step all the same.",
        ),
    ]  # fmt: skip


def take_judged(take: Callable[[str, Any], Any]) -> dict[str, Any]:
    """The fields of `SampleSettings` for these inputs.

    Args:
        take: gives the value of an input by its name, or a default.
    """
    captions = {name: first_caption(name, take(name, None)) for name in ("without_word", "elsewhere")}
    return {**captions, "judge": take("judge", None), "mark_best": take("mark_best", NO_MARK)}
