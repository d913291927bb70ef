"""How the adapters of a merge are combined: as they are, or each changed first by what the others do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ....qrlora_core import QRLoRA, as_terms
from ..advice import advised
from ..apply.source import Source
from ..model.host_types import Patcher
from ..model.matching import Names
from ..model.memo import Note, remembered
from .align import on_same_layers
from .modes.add import ADD
from .modes.mode import Mode, Values

_MATRICES: Note[QRLoRA] = Note("matrices")
_TERMS: Note[QRLoRA] = Note("terms")
_WITH_VECTORS: Note[QRLoRA] = Note("with vectors")


@dataclass(frozen=True)
class Combination:
    """A merge mode with its settings; a parameter that names an adapter holds its position in the sources."""

    mode: Mode = ADD
    values: Values = field(default_factory=dict)

    def told(self, labels: Sequence[str]) -> str:
        """The settings in words, by the labels of the sources."""
        return self.mode.told(self.values, labels)


def combine(patcher: Patcher, sources: Sequence[Source], how: Combination, names: Names) -> list[Source]:
    """The sources with adapters whose weighted sum is the merge in this mode; scales and schedules stay.

    Args:
        patcher: the model whose layer names the adapters have, see `match`.

    Raises:
        QRLoRAError: settings out of range, or a mode for sums with an adapter that contains the base weight.
    """
    return _combined(sources, how, lambda adapters: on_same_layers(patcher, adapters, names), patcher.model)


def combine_by_name(sources: Sequence[Source], how: Combination) -> list[Source]:
    """The same for layers that no model is there for: those of one name are one layer."""
    return _combined(sources, how, lambda adapters: adapters, how.mode)


def _combined(
    sources: Sequence[Source],
    how: Combination,
    on_same: Callable[[list[QRLoRA]], list[QRLoRA]],
    owner: object,
) -> list[Source]:
    """See `combine`; ``owner`` is what the adapters' matrices are remembered for."""
    active = [index for index, source in enumerate(sources) if source.scale != 0 and source.adapter.layers]
    named = {own.name: int(how.values[own.name]) for own in how.mode.parameters if own.names_adapter}
    if how.mode.changed is None or len(active) < 2 or not set(named.values()) <= set(active):
        return list(sources)  # with the adapter off that a mode is about, it has nothing to do
    fitted = on_same([_summable(sources[index].adapter, how.mode) for index in active])
    adapters = [remembered(adapter, owner, _MATRICES, partial(_matrices, adapter)) for adapter in fitted]
    values = {**how.values, **{name: active.index(position) for name, position in named.items()}}
    changed = how.mode.changed(adapters, [sources[index].scale for index in active], values)
    result = list(sources)
    for index, adapter, whole in zip(active, changed, fitted, strict=True):
        joined = remembered(adapter, whole, _WITH_VECTORS, partial(_with_vectors, adapter, whole))
        result[index] = replace(sources[index], adapter=joined)
    return result


def _summable(adapter: QRLoRA, mode: Mode) -> QRLoRA:
    with advised():
        return remembered(adapter, adapter, _TERMS, partial(as_terms, adapter, mode.name))


def _matrices(adapter: QRLoRA) -> QRLoRA:
    """Without biases and weights of norms, which the modes know nothing of: they are always added."""
    matrices = {path: layer for path, layer in adapter.layers.items() if not layer.is_vector}
    return adapter if len(matrices) == len(adapter.layers) else replace(adapter, layers=matrices)


def _with_vectors(changed: QRLoRA, whole: QRLoRA) -> QRLoRA:
    vectors = {path: layer for path, layer in whole.layers.items() if layer.is_vector}
    return replace(changed, layers={**changed.layers, **vectors}) if vectors else changed
