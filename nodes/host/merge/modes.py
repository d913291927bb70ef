"""How the adapters of a merge are combined: as they are, or each changed first by what the others do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ....qrlora_core import QRLoRA, QRLoRAError, null_space, ties
from ..apply.source import Source
from ..model.matching import Names
from ..model.memo import Note, remembered
from .align import on_same_layers

_MATRICES: Note[QRLoRA] = Note("matrices")
_WITH_VECTORS: Note[QRLoRA] = Note("with vectors")
PROJECTED: Note[dict[float, QRLoRA]] = Note("projected, by mu")

MERGE_MODES = ("add", "null_space", "ties")


@dataclass(frozen=True)
class Combination:
    """The merge mode and its settings, see `qrlora_core.modes`; ``protect`` is a position in the sources."""

    mode: str = MERGE_MODES[0]
    protect: int = 0
    mu: float = 1.0
    density: float = 0.5


def combine(patcher: Any, sources: Sequence[Source], how: Combination, names: Names) -> list[Source]:
    """The sources with adapters whose weighted sum is the merge in this mode; scales and schedules stay.

    Args:
        patcher: the model whose layer names the adapters have, see `match`.

    Raises:
        QRLoRAError: an unknown mode, or settings out of range.
    """
    if how.mode not in MERGE_MODES:
        raise QRLoRAError(f"mode: expected one of {', '.join(MERGE_MODES)}, found {how.mode!r}.")
    active = [index for index, source in enumerate(sources) if source.scale != 0 and source.adapter.layers]
    if how.mode == "add" or len(active) < 2:
        return list(sources)
    fitted = on_same_layers(patcher, [sources[index].adapter for index in active], names)
    adapters = [remembered(adapter, patcher.model, _MATRICES, partial(_matrices, adapter)) for adapter in fitted]
    if how.mode == "ties":
        changed = ties(adapters, [sources[index].scale for index in active], density=how.density)
    elif how.protect in active:
        changed = _null_space(adapters, active.index(how.protect), how.mu)
    else:
        return list(sources)  # the protected adapter is off, so nothing is kept away from it
    result = list(sources)
    for index, adapter, whole in zip(active, changed, fitted, strict=True):
        joined = remembered(adapter, whole, _WITH_VECTORS, partial(_with_vectors, adapter, whole))
        result[index] = replace(sources[index], adapter=joined)
    return result


def _matrices(adapter: QRLoRA) -> QRLoRA:
    """Without biases and weights of norms, which the modes know nothing of: they are always added."""
    matrices = {path: layer for path, layer in adapter.layers.items() if not layer.is_vector}
    return adapter if len(matrices) == len(adapter.layers) else replace(adapter, layers=matrices)


def _with_vectors(changed: QRLoRA, whole: QRLoRA) -> QRLoRA:
    vectors = {path: layer for path, layer in whole.layers.items() if layer.is_vector}
    return replace(changed, layers={**changed.layers, **vectors}) if vectors else changed


def _null_space(adapters: Sequence[QRLoRA], protect: int, mu: float) -> list[QRLoRA]:
    """As `null_space`, the last projection kept with its adapter: it depends on no scale, so a tweak finds it again."""
    protected = adapters[protect]

    def projected(adapter: QRLoRA) -> QRLoRA:
        by_mu = remembered(adapter, protected, PROJECTED, dict)
        if mu not in by_mu:
            by_mu.clear()  # each is a copy of the adapter: a dragged mu must not pile them up
            by_mu[mu] = null_space([protected, adapter], 0, mu=mu)[1]
        return by_mu[mu]

    return [protected if index == protect else projected(adapter) for index, adapter in enumerate(adapters)]
