"""Apply a merge of adapters to a host model, and report what was applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...qrlora_core import QRLoRA, QRLoRAError, ScheduleError, merge
from .binding import bind
from .key_map import KeyMap
from .live import Source, apply_live
from .matching import Match, match
from .patching import apply_patch
from .report import report_merge

APPLY_MODES = ("live", "patch")


@dataclass(frozen=True)
class Applied:
    """A model with a merge on it, the merge as one adapter, and the report."""

    model: Any
    merged: QRLoRA
    report: str


def apply_adapters(patcher: Any, sources: Sequence[Source], mode: str) -> Applied:
    """Merge the sources and apply the result to a clone of the model.

    Raises:
        TargetError, AdapterError: an adapter that does not fit; the given model stays as it is.
        ScheduleError: a schedule with ``patch``, whose weights cannot change while sampling.
        QRLoRAError: an unknown mode, or a layer that the mode cannot serve.
    """
    if mode not in APPLY_MODES:
        raise QRLoRAError(f"apply: expected one of {', '.join(APPLY_MODES)}, found {mode!r}.")
    merged = merge([(source.adapter, source.scale) for source in sources])
    apply = _live if mode == "live" else _patch
    model, matches = apply(patcher, sources, merged)
    return Applied(model, merged, report_merge(sources, matches, merged))


def _live(patcher: Any, sources: Sequence[Source], merged: QRLoRA) -> tuple[Any, list[Match]]:
    clone = apply_live(patcher, sources)
    return clone, [bind(patcher, source.adapter).match for source in sources]


def _patch(patcher: Any, sources: Sequence[Source], merged: QRLoRA) -> tuple[Any, list[Match]]:
    scheduled = [source.label for source in sources if source.schedule is not None]
    if scheduled:
        raise ScheduleError(
            f"{', '.join(scheduled)}: a schedule needs apply = live: patched weights cannot change while sampling. "
            "Set apply to live, or disconnect the schedule."
        )
    key_map = KeyMap(patcher.model)
    matches = [match(patcher, source.adapter, key_map) for source in sources]
    return apply_patch(patcher, match(patcher, merged, key_map)), matches
