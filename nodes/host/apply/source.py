"""One adapter of a merge, with its scale."""

from __future__ import annotations

from dataclasses import dataclass

from ....qrlora_core import QRLoRA, Schedule


@dataclass(frozen=True)
class Source:
    """One adapter of a merge. ``label`` is what the report calls it."""

    label: str
    adapter: QRLoRA
    scale: float = 1.0
    schedule: Schedule | None = None
