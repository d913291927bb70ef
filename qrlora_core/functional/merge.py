"""Merge adapters: in delta_r space where they share a basis, side by side where they do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from ..adapter import UNSAVED, Layer, MergeRecord, QRLoRA
from ..change import are_one_shape
from ..errors import AdapterError
from ..metadata import MERGE_KEY
from ..term import Term


@dataclass(frozen=True)
class Member:
    """One term of one source of a merge; ``source`` is the source's index."""

    source: int
    term: Term


# Members with one and the same q: their delta_r's may be summed.
Group = tuple[Member, ...]


def merge(sources: Iterable[tuple[QRLoRA, float]], groups: Mapping[str, Sequence[Group]] | None = None) -> QRLoRA:
    """One adapter whose delta is the weighted sum of the sources' deltas, exactly.

    ``W' = W + Q * sum_i(scale_i * scaling_i * delta_r_i)`` per group of terms with the same q
    (QR-LoRA, arXiv 2507.04599, eq. 7); terms with different q stand side by side in the layer:
    ``W' = W + sum_i(scale_i * scaling_i * Q_i delta_r_i)``.

    Args:
        sources: (adapter, scale) pairs. A scale of zero drops the adapter.
        groups: what `group_by_basis` gives for the adapters whose scale is not zero, where that is known already.

    Returns:
        The merged adapter; its layers are computed when they are asked for. Its ``merge_record`` tells how it
        came about. With no source left it has no layers.

    Raises:
        AdapterError: a scale that is not finite, or sources that disagree on the shape of a layer.
    """
    pairs = [(adapter, float(scale)) for adapter, scale in sources]
    for adapter, scale in pairs:
        if not math.isfinite(scale):
            raise AdapterError(f"{adapter.name}: expected a finite scale, found {scale}.")
    active = [(adapter, scale) for adapter, scale in pairs if scale != 0]
    if groups is None:
        groups = group_by_basis([adapter for adapter, _ in active])
    return QRLoRA(
        MappingProxyType(_MergedLayers(groups, active)),
        _common_metadata([adapter for adapter, _ in active]),
        name=" + ".join(adapter.name for adapter, _ in active) or UNSAVED,
        merge_record=_record(groups, active),
    )


def _record(groups: Mapping[str, Sequence[Group]], active: Sequence[tuple[QRLoRA, float]]) -> MergeRecord:
    how = {kind: tuple(paths) for kind, paths in how_merged(groups, [adapter for adapter, _ in active]).items()}
    return MergeRecord(tuple((adapter.name, scale) for adapter, scale in active), **how)


def group_by_basis(adapters: Sequence[QRLoRA]) -> dict[str, tuple[Group, ...]]:
    """Module path to its groups of terms with the same q: which delta_r's a merge may sum. Scales play no part.

    A layer of changes alone has no group.

    Raises:
        AdapterError: adapters that disagree on the shape of a layer.
    """
    members: dict[str, list[Member]] = {}
    firsts: dict[str, QRLoRA] = {}
    for source, adapter in enumerate(adapters):
        for path, layer in adapter.layers.items():
            first = firsts.setdefault(path, adapter)
            if not are_one_shape(shape := first.layers[path].shape, layer.shape):
                raise AdapterError(
                    f"layer {path}: the adapters do not fit together: {first.name} is for a weight of shape {shape}, "
                    f"{adapter.name} for {layer.shape}. They were made for different models."
                )
            members.setdefault(path, []).extend(Member(source, term) for term in layer.terms)
    return {path: _split_by_basis(listed) for path, listed in members.items()}


def _split_by_basis(members: Sequence[Member]) -> tuple[Group, ...]:
    if len(members) == 1:  # a lone term needs no digest
        return (tuple(members),)
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.term.basis_id, []).append(member)
    return tuple(map(tuple, groups.values()))


def how_merged(groups: Mapping[str, Sequence[Group]], adapters: Sequence[QRLoRA]) -> dict[str, list[str]]:
    """Module paths by what a merge does there: ``shared``, ``concatenated`` or ``single``."""
    how: dict[str, list[str]] = {"shared": [], "concatenated": [], "single": []}
    for path, members in groups.items():
        sources = {source for source, adapter in enumerate(adapters) if path in adapter.layers}
        has_changes = any(adapters[source].layers[path].changes for source in sources)
        everywhere = not has_changes and all({member.source for member in group} == sources for group in members)
        how["single" if len(sources) == 1 else "shared" if everywhere else "concatenated"].append(path)
    return how


class _MergedLayers(Mapping[str, Layer]):
    """The layers of a merge, each summed when it is first asked for: a changed scale costs nothing by itself."""

    def __init__(self, groups: Mapping[str, Sequence[Group]], active: Sequence[tuple[QRLoRA, float]]) -> None:
        self._groups, self._active = groups, active
        self._scales = [scale for _, scale in active]
        self._layers: dict[str, Layer] = {}

    def __getitem__(self, path: str) -> Layer:
        if path not in self._layers:
            self._layers[path] = self._summed(self._groups[path], path)
        return self._layers[path]

    def _summed(self, groups: Sequence[Group], path: str) -> Layer:
        own = [(adapter.layers[path], scale) for adapter, scale in self._active if path in adapter.layers]
        first, scale = own[0]
        if len(own) == 1 and scale == 1.0 and len(groups) == len(first.terms):
            return first
        terms = (_sum_terms(group, self._scales) for group in groups)
        return first.with_terms(terms, (change.scaled(scale) for layer, scale in own for change in layer.changes))

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)


def _sum_terms(group: Group, scales: Sequence[float]) -> Term:
    """The group's one term, in the first member's alpha: ``sum_i (scale_i scaling_i / scaling_0) delta_r_i``."""
    first = group[0].term
    if len(group) == 1 and scales[group[0].source] == 1.0:
        return first
    alpha = first.alpha if first.alpha != 0 else float(first.rank)
    total = first.delta_r.float() * (scales[group[0].source] * first.alpha / alpha)
    for member in group[1:]:
        weight = scales[member.source] * member.term.scaling * first.rank / alpha
        total = total + member.term.delta_r.float().reshape(total.shape) * weight
    return replace(first, delta_r=total, alpha=alpha)


def _common_metadata(adapters: Sequence[QRLoRA]) -> dict[str, str]:
    """What all sources agree on (base model, architecture ...), so that a merge keeps no false claim."""
    if not adapters:
        return {}
    first, *others = (adapter.metadata for adapter in adapters)
    common = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    common.pop(MERGE_KEY, None)  # of a merge that was saved, and of which this one is not
    return common
