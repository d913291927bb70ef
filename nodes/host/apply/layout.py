"""What a merge adds where, whatever its scales, and of which shapes the buffers for it are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ....qrlora_core import Change
from ....qrlora_core.functional.merge import Member
from ..model.key_map import Target
from .device_factors import Binding, Deltas
from .part import ChangePart, Part, Rows
from .source import Groups


@dataclass(frozen=True)
class Span:
    """Rows of a layer's output, None for all of them, and the total rank of what is added there."""

    rows: Rows | None
    length: int
    rank: int


@dataclass(frozen=True)
class ChangePlan:
    """What is made of a layer's input or output, and the shapes of its tensors by part."""

    kind: type[Change]
    shapes: tuple[tuple[str, torch.Size], ...]
    rows: Rows | None


@dataclass(frozen=True)
class LayerPlan:
    """The shapes of a layer's buffers; merges with equal plans can take turns in the same ones.

    Args:
        inputs: the shape of a row of the stacked delta_r's.
        vectors: (name of a parameter, its length).
        changes: of other kinds.
        bias: the length of the layer's bias, where one of the changes must know it; else 0.
    """

    inputs: tuple[int, ...]
    spans: tuple[Span, ...]
    vectors: tuple[tuple[str, int], ...]
    changes: tuple[ChangePlan, ...] = ()
    bias: int = 0


# By host module.
Plan = Mapping[str, LayerPlan]


@dataclass(frozen=True, eq=False)
class LayerParts:
    """What is added to one layer.

    Args:
        spans: matrices, those of the same rows together.
        vectors: by the name of a parameter.
        changes: of other kinds.
        bias: the layer's own; None where it has none, or no change is there.
    """

    spans: Sequence[Sequence[Part]]
    vectors: Mapping[str, Sequence[Part]]
    changes: Sequence[ChangePart] = ()
    bias: Tensor | None = None

    @cached_property
    def matrices(self) -> list[Part]:
        """In the order of their rows in the stacked delta_r's."""
        return [part for span in self.spans for part in span]

    def plan(self, module: Callable[[], Any]) -> LayerPlan:
        """Of the buffers that they need.

        Args:
            module: gives the host's.
        """
        spans = (Span(span[0].rows, len(span[0].q), sum(part.rank for part in span)) for span in self.spans)
        lengths = ((name, _whole_length(parts[0], module)) for name, parts in self.vectors.items())
        inputs = self.matrices[0].inputs if self.matrices else ()
        bias = 0 if self.bias is None else len(self.bias)
        return LayerPlan(inputs, tuple(spans), tuple(lengths), tuple(map(_change_plan, self.changes)), bias)


def _change_plan(part: ChangePart) -> ChangePlan:
    shapes = ((name, tensor.shape) for name, tensor in part.change.tensors().items())
    return ChangePlan(type(part.change), tuple(shapes), part.rows)


def _whole_length(part: Part, module: Callable[[], Any]) -> int:
    return len(part.q) if part.rows is None else int(getattr(module(), "out_features", 0) or module().out_channels)


@dataclass(frozen=True, eq=False)
class Layout:
    """What a merge adds, by host module."""

    layers: Mapping[str, LayerParts]

    def plan(self, model: torch.nn.Module) -> Plan:
        """Of the buffers that it needs."""
        return {name: own.plan(partial(model.get_submodule, name)) for name, own in self.layers.items()}


def lay_out(
    groups: Groups, bindings: Sequence[Binding], deltas: Sequence[Deltas], shares: Mapping[str, float]
) -> Layout:
    """What the adapters of a merge add where; several names may mean slices of one fused layer.

    Args:
        groups: of the adapters of ``bindings``, see `group_by_basis`.
        deltas: of each binding, where they are on the device at hand.
        shares: by weight, how much of what stands beside it is left; one where it is not named.
    """
    parts: dict[str, list[Part]] = {}
    changes: dict[str, list[ChangePart]] = {}
    for path, members in groups.items():
        target = next((own.match.targets[path] for own in bindings if path in own.match.targets), None)
        if target is not None:
            share = shares.get(target.key, 1.0)
            own_parts = (_part(path, target, group, bindings, deltas, share) for group in members)
            parts.setdefault(target.module, []).extend(own_parts)
            changes.setdefault(target.module, []).extend(_change_parts(path, target, bindings, share))
    biases = {name: bias for binding in bindings for name, bias in binding.biases.items()}
    return Layout({name: _layer_parts(own, changes[name], biases.get(name)) for name, own in parts.items()})


def _change_parts(path: str, target: Target, bindings: Sequence[Binding], share: float) -> Iterable[ChangePart]:
    for source, binding in enumerate(bindings):
        layer = binding.match.adapter.layers.get(path)
        for change in layer.changes if layer is not None and path in binding.match.targets else ():
            start = target.rows[0] if target.rows else 0
            rows = target.rows if change.rows is None else (start + change.rows[0], change.rows[1])
            yield ChangePart(rows, change, source, share)


def _layer_parts(parts: Iterable[Part], changes: Sequence[ChangePart], bias: Tensor | None) -> LayerParts:
    spans: dict[Rows | None, list[Part]] = {}
    vectors: dict[str, list[Part]] = {}
    for part in parts:
        if part.vector:
            vectors.setdefault(part.vector, []).append(part)
        else:
            spans.setdefault(part.rows, []).append(part)
    return LayerParts(list(spans.values()), vectors, changes, bias)


def _part(
    path: str,
    target: Target,
    group: Sequence[Member],
    bindings: Sequence[Binding],
    deltas: Sequence[Deltas],
    share: float,
) -> Part:
    def factor(member: Member) -> Callable[[], Tensor]:
        return bindings[member.source].delta_r(path, member.term, deltas[member.source])

    first = group[0]
    return Part(
        rows=target.rows,
        q=bindings[first.source].q(path, first.term),
        inputs=tuple(first.term.delta_r.shape[1:]),
        deltas=tuple((member.source, share * member.term.scaling, factor(member)) for member in group),
        peaks=partial(_peaks, group),
        vector=target.vector,
    )


def _peaks(group: Sequence[Member]) -> tuple[float, float]:
    return group[0].term.peaks[0], max(abs(member.term.scaling) * member.term.peaks[1] for member in group)
