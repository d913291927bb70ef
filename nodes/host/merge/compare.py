"""Compare adapters that call the layers of one model differently."""

from __future__ import annotations

from ....qrlora_core import Comparison, QRLoRA, TargetError, compare
from ..model.host_types import Patcher
from ..model.matching import Names, match, require_some
from .align import on_same_layers


def compare_on(patcher: Patcher | None, first: QRLoRA, second: QRLoRA) -> Comparison:
    """The comparison, layers matched by the weights of a model, or by name where there is none.

    Raises:
        TargetError: an adapter that fits no layer of the model, or no layer in common without a model.
        AdapterError: layers of different shapes under one name.
    """
    if patcher is None:
        if not first.layers.keys() & second.layers.keys():
            raise TargetError(
                f"{first.name} and {second.name} have no layer in common by name "
                f"({next(iter(first.layers), 'none')}, {next(iter(second.layers), 'none')}). Connect the model to "
                "QR-LoRA Compare: it knows which of its layers each name means."
            )
        return compare(first, second)
    names = Names(patcher)
    matches = [match(patcher, adapter, names) for adapter in (first, second)]
    for adapter, matched in zip((first, second), matches, strict=True):
        require_some(patcher, adapter, matched)
    return compare(*on_same_layers(patcher, [matched.adapter for matched in matches], names))
