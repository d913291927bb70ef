"""The merge modes as inputs of a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..qrlora_core import QRLoRAError
from .host.merge.modes import MERGE_MODES, Combination


def mode_inputs(slots: int) -> list[Any]:
    """``mode`` and what each mode needs; they are optional, so that they may stand last in a released node."""
    return [
        io.Combo.Input(
            "mode",
            options=list(MERGE_MODES),
            default=MERGE_MODES[0],
            optional=True,
            tooltip="add: the weighted sum, as in the QR-LoRA paper. null_space: the others are kept out of "
            "the principal directions of the one in protect. ties: small entries are dropped, and where "
            "adapters disagree in sign the majority counts.",
        ),
        io.Int.Input(
            "protect",
            default=2,
            min=1,
            max=slots,
            optional=True,
            tooltip="null_space: the number of the adapter to protect, usually the style.",
        ),
        io.Float.Input(
            "mu",
            default=1.0,
            min=0.0,
            max=1000.0,
            step=0.1,
            optional=True,
            tooltip="null_space: how firmly the others are kept away. 0 is add, 1 halves what they have in the "
            "protected directions, 1000 removes it.",
        ),
        io.Float.Input(
            "density",
            default=0.5,
            min=0.01,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="ties: the share of each adapter's entries that is kept, the largest first.",
        ),
    ]


def combination(mode: str, protect: int, mu: float, density: float, connected: Sequence[int]) -> Combination:
    """What the inputs ask for.

    Args:
        connected: numbers of the adapters that are connected, in their order.

    Raises:
        QRLoRAError: null_space with a ``protect`` that is not connected.
    """
    if mode != "null_space":
        return Combination(mode, 0, mu, density)
    if protect not in connected:
        there = ", ".join(map(str, connected)) or "there is none"
        raise QRLoRAError(f"protect: expected the number of a connected adapter ({there}), found {protect}.")
    return Combination(mode, connected.index(protect), mu, density)
