"""One adapter of a merge, with its scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ....qrlora_core import QRLoRA, Schedule
from ....qrlora_core.functional.merge import Group

# What `group_by_basis` gives for the adapters of some sources.
Groups = Mapping[str, Sequence[Group]]


@dataclass(frozen=True)
class Source:
    """One adapter of a merge. ``label`` is what the report calls it."""

    label: str
    adapter: QRLoRA
    scale: float = 1.0
    schedule: Schedule | None = None
