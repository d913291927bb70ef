"""``ties``: trim, elect signs, keep what agrees (Yadav et al., arXiv 2306.01708)."""

from __future__ import annotations

from collections.abc import Sequence

from .....qrlora_core import QRLoRA, ties
from .mode import Mode, Parameter, Values


def _changed(adapters: Sequence[QRLoRA], scales: Sequence[float], values: Values) -> list[QRLoRA]:
    return ties(adapters, scales, density=values["density"])


TIES = Mode(
    "ties",
    "small entries are dropped, and where adapters disagree in sign the majority counts.",
    "ΔW = Σ scaleᵢ · τᵢ' / n",
    (
        Parameter(
            "density", "the share of each adapter's entries that is kept, the largest first.", 0.5, 0.01, 1.0, 0.01
        ),
    ),
    _changed,
    lambda values, _labels: f"ties: density {values['density']:g}",
)
