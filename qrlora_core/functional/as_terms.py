"""Adapters of any kind as low-rank terms alone, for what works with these."""

from __future__ import annotations

from dataclasses import replace

from ..adapter import QRLoRA
from ..errors import AdapterError, Reason


def as_terms(adapter: QRLoRA, what: str) -> QRLoRA:
    """The same deltas in terms alone, exactly; the same object where that is what it has.

    Args:
        what: what they are needed for, for the message.

    Raises:
        AdapterError: a layer contains the base weight.
    """
    if not any(layer.changes for layer in adapter.layers.values()):
        return adapter
    for path, layer in adapter.layers.items():
        if layer.contains_base:
            raise AdapterError(
                f"{adapter.name}: {what} works on what is added to a weight whatever that is. Layer {path} is "
                f"{layer.contains_base}, which contains the weight itself.",
                Reason.CONTAINS_BASE,
            )
    return replace(adapter, layers={path: layer.as_terms() for path, layer in adapter.layers.items()})
