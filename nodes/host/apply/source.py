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
    """One adapter of a merge.

    Args:
        label: what the report calls it.
        clip_scale: its scale in a text encoder; None where that is ``scale``.
    """

    label: str
    adapter: QRLoRA
    scale: float = 1.0
    schedule: Schedule | None = None
    clip_scale: float | None = None

    @property
    def is_off(self) -> bool:
        """Whether it changes nothing anywhere."""
        return self.scale == 0 and not self.clip_scale

    def in_text_encoder(self, factor: float) -> float:
        """Its scale there, times the factor for all."""
        return (self.scale if self.clip_scale is None else self.clip_scale) * factor
