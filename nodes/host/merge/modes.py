"""How the adapters of a merge are combined: as they are, or each changed first by what the others do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ....qrlora_core import Layer, QRLoRA, QRLoRAError, null_space, ties
from ....qrlora_core.adapter import is_vector
from ..apply.live import Source
from ..model.key_map import Target
from ..model.matching import Names, match, remembered

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
    adapters = [remembered(adapter, patcher.model, "matrices", partial(_matrices, adapter)) for adapter in fitted]
    if how.mode == "ties":
        changed = ties(adapters, [sources[index].scale for index in active], density=how.density)
    elif how.protect in active:
        changed = _null_space(adapters, active.index(how.protect), how.mu)
    else:
        return list(sources)  # the protected adapter is off, so nothing is kept away from it
    result = list(sources)
    for index, adapter, whole in zip(active, changed, fitted, strict=True):
        joined = remembered(adapter, whole, "with vectors", partial(_with_vectors, adapter, whole))
        result[index] = replace(sources[index], adapter=joined)
    return result


def _matrices(adapter: QRLoRA) -> QRLoRA:
    """Without biases and weights of norms, which the modes know nothing of: they are always added."""
    if not any(map(is_vector, adapter.layers)):
        return adapter
    return QRLoRA({path: layer for path, layer in adapter.layers.items() if not is_vector(path)}, adapter.metadata)


def _with_vectors(changed: QRLoRA, whole: QRLoRA) -> QRLoRA:
    vectors = {path: layer for path, layer in whole.layers.items() if is_vector(path)}
    return QRLoRA({**changed.layers, **vectors}, changed.metadata) if vectors else changed


def _null_space(adapters: Sequence[QRLoRA], protect: int, mu: float) -> list[QRLoRA]:
    """As `null_space`, the last projection kept with its adapter: it depends on no scale, so a tweak finds it again."""
    protected = adapters[protect]

    def projected(adapter: QRLoRA) -> QRLoRA:
        by_mu: dict[float, QRLoRA] = remembered(adapter, protected, "null_space", dict)
        if mu not in by_mu:
            by_mu.clear()  # each is a copy of the adapter: a dragged mu must not pile them up
            by_mu[mu] = null_space([protected, adapter], 0, mu=mu)[1]
        return by_mu[mu]

    return [protected if index == protect else projected(adapter) for index, adapter in enumerate(adapters)]


def on_same_layers(patcher: Any, adapters: Sequence[QRLoRA], names: Names) -> list[QRLoRA]:
    """The adapters with one name for one set of rows: where they cut a weight differently, as the whole weight."""
    targets = [match(patcher, adapter, names).targets for adapter in adapters]
    torn = _torn_keys([target for own in targets for target in own.values()])
    if not torn:
        return list(adapters)
    return [
        remembered(
            adapter, patcher.model, ("whole", torn), lambda own=own, adapter=adapter: _whole(adapter, own, torn, names)
        )
        for adapter, own in zip(adapters, targets, strict=True)
    ]


def _torn_keys(targets: Sequence[Target]) -> frozenset[str]:
    """Weights of which two targets share rows without being one."""
    by_key: dict[str, set[Target]] = {}
    for target in targets:
        by_key.setdefault(target.key, set()).add(target)
    return frozenset(key for key, parts in by_key.items() if any(_overlap(a, b) for a in parts for b in parts))


def _overlap(first: Target, second: Target) -> bool:
    if first == second:
        return False
    if first.rows is None or second.rows is None:
        return True
    (a, rows_a), (b, rows_b) = first.rows, second.rows
    return a < b + rows_b and b < a + rows_a


def _whole(adapter: QRLoRA, targets: Mapping[str, Target], torn: frozenset[str], names: Names) -> QRLoRA:
    layers: dict[str, tuple[Any, ...]] = {}
    for path, layer in adapter.layers.items():
        target = targets[path]
        if target.key in torn:
            out = names.key_map.shape_of(target.key)[0]
            terms = tuple(replace(term, q=_padded(term.q, target, out), base_r=None) for term in layer.terms)
            layers[target.module] = (*layers.get(target.module, ()), *terms)
        else:
            layers[path] = layer.terms
    return QRLoRA({path: Layer(terms) for path, terms in layers.items()}, adapter.metadata)


def _padded(q: Tensor, target: Target, out: int) -> Tensor:
    """q with rows of zeros where the target is not, in the order of the host's rows."""
    own = q if target.reorder is None else target.reorder(q)
    start = target.rows[0] if target.rows else 0
    return torch.nn.functional.pad(own, (0, 0, start, out - start - own.shape[0]))
