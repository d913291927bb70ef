"""Apply a merge of adapters to a host model, and report what was applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...qrlora_core import QRLoRA, QRLoRAError, merge
from ..report import report_merge
from .key_map import KeyMap
from .matching import match
from .patching import apply_patch

APPLY_MODES = ("patch",)


@dataclass(frozen=True)
class Applied:
    """A model with a merge on it, the merge as one adapter, and the report."""

    model: Any
    merged: QRLoRA
    report: str


def apply_adapters(patcher: Any, sources: Sequence[tuple[QRLoRA, float]], mode: str) -> Applied:
    """Merge the sources and apply the result to a clone of the model.

    Raises:
        TargetError, AdapterError: an adapter that does not fit; the given model stays as it is.
        QRLoRAError: an unknown mode, or the host refused a patch.
    """
    if mode not in APPLY_MODES:
        raise QRLoRAError(f"apply: expected one of {', '.join(APPLY_MODES)}, found {mode!r}.")
    key_map = KeyMap(patcher.model)
    matches = [match(patcher, adapter, key_map) for adapter, _ in sources]
    merged = merge(sources)
    clone = apply_patch(patcher, match(patcher, merged, key_map))
    return Applied(clone, merged, report_merge(matches, [scale for _, scale in sources], merged))
