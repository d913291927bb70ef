"""``null_space``: one adapter is protected from the others (NP-LoRA, arXiv 2511.11051)."""

from __future__ import annotations

from collections.abc import Sequence

from .....qrlora_core import QRLoRA, null_space
from ...model.memo import Note, remembered
from .mode import Mode, Parameter, Values

PROJECTED: Note[dict[float, QRLoRA]] = Note("projected, by mu")


def _changed(adapters: Sequence[QRLoRA], _scales: Sequence[float], values: Values) -> list[QRLoRA]:
    """The last projection is kept with its adapter: it depends on no scale, so that a tweak finds it again."""
    protect, mu = int(values["protect"]), values["mu"]
    protected = adapters[protect]

    def projected(adapter: QRLoRA) -> QRLoRA:
        by_mu = remembered(adapter, protected, PROJECTED, dict)
        if mu not in by_mu:
            by_mu.clear()  # each is a copy of the adapter: a dragged mu must not pile them up
            by_mu[mu] = null_space([protected, adapter], 0, mu=mu)[1]
        return by_mu[mu]

    return [protected if index == protect else projected(adapter) for index, adapter in enumerate(adapters)]


def _told(values: Values, labels: Sequence[str]) -> str:
    if not labels:
        return ""
    return f"null_space: the others are kept away from {labels[int(values['protect'])]}, mu {values['mu']:g}"


NULL_SPACE = Mode(
    "null_space",
    "the others are kept out of the principal directions of the one in protect.",
    "ΔWᵢ' = ΔWᵢ (I − mu / (1 + mu) · V Vᵀ)",
    (
        Parameter(
            "protect",
            "the number of the adapter to protect: the one that is missing in the picture.",
            2, 1, names_adapter=True,
        ),
        Parameter(
            "mu",
            "how firmly the others are kept away. 0 is add, 1 halves what they have in the protected directions, "
            "1000 removes it.",
            1.0, 0.0, 1000.0, 0.1,
        ),
    ),
    _changed,
    _told,
)  # fmt: skip
