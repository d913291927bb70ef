"""What lies ready for the hooks of one merge: the stacks of its layers, filled anew where they are for other scales."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .branch import Addend
from .held import Copied
from .live_vector import LiveVector
from .part import Part, Rows
from .stack import ConvStack, Stack, Up


@dataclass(frozen=True)
class Span:
    """Rows of a layer's output, None for all of them, and the total rank of what is added there."""

    rows: Rows | None
    length: int
    rank: int


@dataclass(frozen=True)
class LayerPlan:
    """The shapes of a layer's buffers; two merges with equal plans can take turns in the same ones.

    Args:
        inputs: the shape of a row of ``down``.
        vectors: (name of a parameter, length).
    """

    inputs: tuple[int, ...]
    spans: tuple[Span, ...]
    vectors: tuple[tuple[str, int], ...]


# By host module.
Plan = Mapping[str, LayerPlan]


def plan_of(parts: Mapping[str, Sequence[Part]], model: torch.nn.Module) -> dict[str, LayerPlan]:
    """The buffers that the parts of a merge need."""
    return {name: _layer_plan(members, partial(model.get_submodule, name)) for name, members in parts.items()}


def _layer_plan(parts: Sequence[Part], module: Callable[[], Any]) -> LayerPlan:
    spans = [Span(group[0].rows, len(group[0].q), sum(part.q.shape[1] for part in group)) for group in _by_rows(parts)]
    names = dict.fromkeys(part.vector for part in parts if part.vector)
    lengths = [(name, _whole_length(next(part for part in parts if part.vector == name), module)) for name in names]
    inputs = next((part.inputs for part in parts if not part.vector), ())
    return LayerPlan(inputs, tuple(spans), tuple(lengths))


def _by_rows(parts: Iterable[Part]) -> list[list[Part]]:
    """The matrices among the parts, those of the same rows together."""
    groups: dict[Rows | None, list[Part]] = {}
    for part in parts:
        if not part.vector:
            groups.setdefault(part.rows, []).append(part)
    return list(groups.values())


def _whole_length(part: Part, module: Callable[[], Any]) -> int:
    return len(part.q) if part.rows is None else int(getattr(module(), "out_features", 0) or module().out_channels)


class _Layer(torch.nn.Module):
    """The buffers of one layer; a module for each, since the host loads and offloads module by module."""

    def __init__(self, plan: LayerPlan, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()

        def zeros(name: str, *shape: int) -> Tensor:
            self.register_parameter(name, _frozen(torch.zeros(shape, dtype=dtype, device=device)))
            return getattr(self, name)  # type: ignore[no-any-return]

        self.plan = plan
        self.addends: list[Addend] = []
        if plan.spans:
            down = zeros("down", sum(span.rank for span in plan.spans), *plan.inputs)
            kind = ConvStack if down.ndim > 2 else Stack
            ups = [zeros(f"up_{index}", span.rank, span.length) for index, span in enumerate(plan.spans)]
            self.addends.append(kind(down, list(map(Up, *_places(plan.spans), ups))))
        self.addends += [LiveVector(name, zeros(name.strip("."), length)) for name, length in plan.vectors]
        self._parts: Sequence[Part] = ()  # what they were filled from, and the matrices in it in the order of the rows
        self._matrices: list[Part] = []

    def fill(self, parts: Sequence[Part], scales: Sequence[float]) -> None:
        """See `Buffers.fill`."""
        for addend in self.addends:
            if isinstance(addend, LiveVector):
                _fill_vector(addend.values, [part for part in parts if part.vector == addend.name], scales)
            else:
                self._fill_stack(addend, parts, scales)
        self._parts = parts

    def _fill_stack(self, stack: Stack, parts: Sequence[Part], scales: Sequence[float]) -> None:
        if parts is not self._parts:
            groups, before = _by_rows(parts), self._matrices
            self._matrices = [part for group in groups for part in group]
            if [id(part.q) for part in before] != [id(part.q) for part in self._matrices]:
                self._fill_ups(stack, groups)
        for rows, part in _split(stack.down.data.flatten(1), self._matrices):
            _sum_into(rows, part.terms(scales))

    def _fill_ups(self, stack: Stack, groups: Sequence[Sequence[Part]]) -> None:
        for up, group in zip(stack.ups, groups, strict=True):
            for rows, part in _split(up.matrix.data, group):
                rows.copy_(part.q.t())

    def clear(self) -> None:
        """Add zero."""
        for addend in self.addends:
            (addend.values if isinstance(addend, LiveVector) else addend.down).data.zero_()


def _places(spans: Sequence[Span]) -> tuple[list[Rows | None], list[Rows | None]]:
    """The rows of each span, and its columns of ``down x``."""
    ends = [sum(span.rank for span in spans[: index + 1]) for index in range(len(spans))]
    columns = [(end - span.rank, span.rank) for span, end in zip(spans, ends, strict=True)]
    return [span.rows for span in spans], [None] if len(spans) == 1 else list(columns)


def _split(matrix: Tensor, parts: Sequence[Part]) -> Iterable[tuple[Tensor, Part]]:
    """The rows of each part, which are as many as its rank."""
    if len(parts) == 1:
        return ((matrix, parts[0]),)
    return zip(matrix.split([part.q.shape[1] for part in parts]), parts, strict=True)


def _frozen(tensor: Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor, requires_grad=False)


class Buffers(Copied):
    """The buffers of one merge after another on a model, in the dtype that the model computes in.

    Attributes:
        addends: what hooks add, by host module.
        plan, dtype: what they were made for.
    """

    def __init__(self, plan: Plan, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.plan, self.dtype = plan, dtype
        self._layers = {name: _Layer(own, dtype, device) for name, own in plan.items()}
        for index, layer in enumerate(self._layers.values()):
            self.add_module(str(index), layer)
        self.addends = {name: tuple(layer.addends) for name, layer in self._layers.items()}
        self._filled: tuple[object, tuple[float, ...]] | None = None

    def copied(self, device: torch.device) -> Buffers:
        """See `Copied`; empty, for it is filled before it is used."""
        return Buffers(self.plan, self.dtype, device)

    def fill(self, parts: Mapping[str, Sequence[Part]], scales: Sequence[float]) -> None:
        """Sum up for these scales, in float32 and rounded once; nothing where that is what is there already.

        One pass over the delta_r's of all sources, and one over ``down``: what a new scale, and a step of a schedule,
        costs. The q's are copied only where they are of another basis than before.
        """
        if self._filled is not None and self._filled[0] is parts and self._filled[1] == tuple(scales):
            return
        self._filled = None  # in case of an error on the way
        with torch.inference_mode():  # the host may have moved them in it
            for name, layer in self._layers.items():
                layer.fill(parts[name], scales)
        self._filled = parts, tuple(scales)

    def take_casts(self) -> dict[str, torch.dtype]:
        """The layers that got another dtype than that of the buffers since this was asked for, and which."""
        found = dict[str, torch.dtype]()
        for name, addends in self.addends.items():
            for addend in addends:
                if addend.cast is not None:
                    found[name], addend.cast = addend.cast, None
        return found

    @property
    def is_recorded(self) -> bool:
        """Whether a program holds them."""
        return any(addend.is_recorded for addends in self.addends.values() for addend in addends)

    def clear(self) -> None:
        """Add zero: for a program that was recorded of the layers, and in which no hook can be off."""
        self._filled = None
        with torch.inference_mode():
            for layer in self._layers.values():
                layer.clear()


def _sum_into(rows: Tensor, terms: Sequence[tuple[float, Tensor]]) -> None:
    """``rows = sum_i(weight_i delta_r_i)``, added in float32, rounded once."""
    if not terms:
        rows.zero_()
        return
    (weight, first), *others = [(weight, delta.to(rows.device).flatten(1)) for weight, delta in terms]
    if not others and weight == 1.0:
        rows.copy_(first)
        return
    total = rows if rows.dtype is torch.float32 else torch.empty_like(rows, dtype=torch.float32)
    torch.mul(first.float(), weight, out=total)
    for weight, delta in others:
        total.add_(delta, alpha=weight)
    if total is not rows:
        rows.copy_(total)


def _fill_vector(values: Tensor, parts: Sequence[Part], scales: Sequence[float]) -> None:
    """``values[rows] = q sum_i(weight_i delta_r_i)``; zero in the rows of which no part is."""
    total = torch.zeros_like(values, dtype=torch.float32)
    for part in parts:
        own = total if part.rows is None else total.narrow(0, *part.rows)
        factor = sum((weight * delta.float().to(total.device) for weight, delta in part.terms(scales)), 0.0)
        if isinstance(factor, Tensor):
            own.add_((part.q.float().to(total.device) @ factor).flatten())
    values.data.copy_(total)
