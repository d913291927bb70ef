"""What lies ready for the hooks of one merge: the stacks of its layers, filled anew where they are for other scales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from weakref import ref

import torch
from torch import Tensor

from ....qrlora_core import Change
from ....qrlora_core.functional.lora import balancing_exponent
from .branch import Addend
from .held import Copied
from .layout import ChangePlan, LayerParts, LayerPlan, Layout, Plan
from .live_changes import LiveChange, LiveChanges
from .live_vector import LiveVector
from .part import Part
from .stack import ConvStack, Stack, Up


class _Layer(torch.nn.Module):
    """The buffers of one layer; a module for each, since the host loads and offloads module by module."""

    def __init__(self, plan: LayerPlan, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()

        def zeros(name: str, *shape: int, dtype: torch.dtype = dtype) -> Tensor:
            self.register_parameter(name, _frozen(torch.zeros(shape, dtype=dtype, device=device)))
            return getattr(self, name)  # type: ignore[no-any-return]

        def live(index: int, own: ChangePlan) -> LiveChange:
            tensors = {name: zeros(f"change_{index}_{name}", *shape) for name, shape in own.shapes}
            scale = zeros(f"change_{index}_scale", dtype=torch.float32)
            return LiveChange(own.kind, tensors, scale, own.rows)

        self.plan = plan
        self.addends: list[Addend] = []
        if plan.spans:
            down = zeros("down", sum(span.rank for span in plan.spans), *plan.inputs)
            kind = ConvStack if down.ndim > 2 else Stack
            ups = [zeros(f"up_{index}", span.rank, span.length) for index, span in enumerate(plan.spans)]
            self.addends.append(kind(down, [Up(span.rows, up) for span, up in zip(plan.spans, ups, strict=True)]))
        self.addends += [LiveVector(name, zeros(name.strip("."), length)) for name, length in plan.vectors]
        if plan.changes:
            bias = zeros("bare_bias", plan.bias) if plan.bias else None
            self.addends.append(LiveChanges([live(index, own) for index, own in enumerate(plan.changes)], bias))
        self._changes: list[ref[Change]] = []  # what the tensors of changes were filled from
        self._bases: list[ref[Tensor]] = []  # what the ups were filled from
        self._gauges: list[float] = []  # what each was multiplied with

    def fill(self, parts: LayerParts, scales: Sequence[float]) -> None:
        """See `Buffers.fill`."""
        for addend in self.addends:
            if isinstance(addend, LiveVector):
                _fill_vector(addend.values, parts.vectors[addend.name], scales)
            elif isinstance(addend, LiveChanges):
                self._fill_changes(addend, parts, scales)
            else:
                self._fill_stack(addend, parts, scales)

    def _fill_changes(self, live: LiveChanges, parts: LayerParts, scales: Sequence[float]) -> None:
        own = [part.change for part in parts.changes]
        if [one() for one in self._changes] != own:
            self._changes = []
            live.take(own, parts.bias)
            self._changes = list(map(ref, own))
        for change, part in zip(live.changes, parts.changes, strict=True):
            change.scale.data.fill_(part.scale(scales))

    def _fill_stack(self, stack: Stack, parts: LayerParts, scales: Sequence[float]) -> None:
        bases = [part.q for part in parts.matrices]
        if len(bases) != len(self._bases) or any(one() is not q for one, q in zip(self._bases, bases, strict=True)):
            self._bases = []
            self._gauges = [_gauge(part, stack.down.dtype) for part in parts.matrices]
            gauges = iter(self._gauges)
            for up, span in zip(stack.ups, parts.spans, strict=True):
                for rows, part in _split(up.matrix.data, span):
                    _copy_into(rows, part.q.t(), next(gauges))
            self._bases = list(map(ref, bases))
        for (rows, part), gauge in zip(_split(stack.down.data.flatten(1), parts.matrices), self._gauges, strict=True):
            _sum_into(rows, [(weight / gauge, delta) for weight, delta in part.terms(scales)])

    def clear(self) -> None:
        """Add zero."""
        for addend in self.addends:
            for tensor in addend.switches():
                tensor.data.zero_()


def _gauge(part: Part, dtype: torch.dtype) -> float:
    """The power of two by which q grows and delta_r shrinks, so that both are of about one size in float16.

    The factors of an ordinary LoRA may differ by any amount, and what is below 6e-5 loses digits there. In the other
    dtypes it is 1: they lose none.
    """
    if dtype is not torch.float16:
        return 1.0
    q, delta_r = part.peaks()
    if not (q and delta_r):
        return 1.0
    return 2.0 ** balancing_exponent(delta_r, q)


def _copy_into(rows: Tensor, values: Tensor, gauge: float) -> None:
    rows.copy_(values if gauge == 1.0 else values.float() * gauge)


def _split(matrix: Tensor, parts: Sequence[Part]) -> Iterable[tuple[Tensor, Part]]:
    """The rows of each part, which are as many as its rank."""
    if len(parts) == 1:
        return ((matrix, parts[0]),)
    return zip(matrix.split([part.rank for part in parts]), parts, strict=True)


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
        self._named: set[str] = set()
        self._filled: tuple[ref[Layout], tuple[float, ...]] | None = None

    def copied(self, device: torch.device) -> Buffers:
        """See `Copied`; empty, for it is filled before it is used."""
        return Buffers(self.plan, self.dtype, device)

    def fill(self, layout: Layout, scales: Sequence[float]) -> None:
        """Sum up for these scales, in float32 and rounded once; nothing where that is what is there already.

        One pass over the delta_r's of all sources, and one over their sums: what a new scale, and a step of a
        schedule, costs. The q's are copied only where they are of another basis than before.
        """
        filled = ref(layout), tuple(scales)
        if self._filled == filled:
            return
        self._filled = None  # in case of an error on the way
        with torch.inference_mode():  # the host may have moved them in it
            for name, layer in self._layers.items():
                layer.fill(layout.layers[name], scales)
        self._filled = filled

    def take_casts(self) -> dict[str, torch.dtype]:
        """The layers that got another dtype than that of the buffers, and which; each is named once."""
        casts = ((name, addend.cast) for name, addends in self.addends.items() for addend in addends)
        found = {name: cast for name, cast in casts if cast is not None and name not in self._named}
        self._named |= found.keys()
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
