"""Changes other than low-rank terms, beside a host layer while it runs: see `qrlora_core.change`.

Each has its tensors and its scale in buffers of a place and a shape that stay. Whatever is made of ``W x`` is made of
what the layer itself gave, before anything of any adapter is added to it, so that no order plays a part; whatever needs
another input of W has it from the layer's own product, which also reads quantized weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....qrlora_core import Change, Stage
from ....qrlora_core.term import largest
from .live_vector import along_channels
from .part import Rows, among_rows
from .stack import convolved

# Of a sum: the rows of the layer's output that it is for, None for all.
_Part = tuple[Rows | None, Tensor]


@dataclass(frozen=True, eq=False)
class LiveChange:
    """One change of one adapter.

    Args:
        kind: its class, which computes with ``tensors`` (by part).
        scale: one number, float32.
        rows: of the layer's output, None for all.
    """

    kind: type[Change]
    tensors: Mapping[str, Tensor]
    scale: Tensor
    rows: Rows | None

    def of(self, values: Tensor, *more: Any) -> Tensor:
        """What it makes of an input or an output, times its scale."""
        made = self.kind.act(self.tensors, values, *more)
        return made * self.scale.to(made.dtype)


class LiveChanges:
    """All changes of one merge on one layer.

    Args:
        changes: see `LiveChange`.
        bias: (out,) of the layer, which no change acts on; None where it has none.

    Attributes:
        ran: whether it was called; whoever reads it sets it back.
        is_recorded: whether a program holds it in which it is not called any more.
        cast: the dtype of an input that is not the buffers', once there was one.
    """

    name = ".weight"

    def __init__(self, changes: Sequence[LiveChange], bias: Tensor | None) -> None:
        self.changes, self._bias = tuple(changes), bias
        self.ran = self.is_recorded = False
        self.cast: torch.dtype | None = None
        self._dtype = next(iter(self.changes[0].tensors.values())).dtype
        # Sorted here: a step on a fast GPU waits for whatever is done at each call.
        self._by_stage = [
            [own for own in changes if own.kind.stage is stage] for stage in (Stage.INPUT, Stage.OUTPUT, Stage.BASE)
        ]

    def take(self, changes: Sequence[Change], bias: Tensor | None) -> None:
        """Copy their tensors, and the layer's bias; scales are set by themselves."""
        for own, change in zip(self.changes, changes, strict=True):
            tensors = change.tensors()
            halves = own.kind.stage is Stage.INPUT and self._dtype is torch.float16
            gauges = _gauges(list(tensors.values())) if halves else [1.0] * len(tensors)
            for (name, tensor), gauge in zip(tensors.items(), gauges, strict=True):
                own.tensors[name].data.copy_(tensor if gauge == 1.0 else tensor.float() * gauge)
        if self._bias is not None and bias is not None:
            self._bias.data.copy_(bias)

    def switches(self) -> tuple[Tensor, ...]:
        """What is zero where nothing is added."""
        return tuple(own.scale for own in self.changes)

    def added(self, module: Any, x: Tensor, bare: Tensor) -> Tensor:
        """What belongs to the layer's input x and to what it gave itself, in the shape of the latter."""
        if x.dtype is not self._dtype:
            self.cast = x.dtype
        axis = 1 if hasattr(module, "kernel_size") else -1
        bias = None if self._bias is None else along_channels(module, self._bias.to(bare.device, bare.dtype), bare)
        inputs, outputs, base = self._by_stage
        if x.dtype is not self._dtype or x.device != self.changes[0].scale.device or torch.is_grad_enabled():
            inputs, outputs, base = ([self._for(own, x) for own in changes] for changes in self._by_stage)
        parts = [
            *_of_inputs(inputs, module, x, axis),
            *_of_outputs(outputs, bare if bias is None else bare - bias, axis),
            *_of_base(base, module, x, bias, axis),
        ]
        return _summed([(rows, part.to(bare.dtype)) for rows, part in parts], bare, axis)

    def _for(self, change: LiveChange, x: Tensor) -> LiveChange:
        """On the device and in the dtype of x; autograd refuses to save what the host has moved in inference mode."""

        def fit(tensor: Tensor, dtype: torch.dtype) -> Tensor:
            own = tensor.to(x.device, dtype)
            return own.clone() if torch.is_grad_enabled() and own.is_inference() else own

        tensors = {name: fit(tensor, x.dtype) for name, tensor in change.tensors.items()}
        return replace(change, tensors=tensors, scale=fit(change.scale, change.scale.dtype))

    def change(self, weight: Tensor) -> Tensor:
        """float32, in the shape of the layer's weight, for a model that multiplies with it by itself."""
        base, total = weight.float(), torch.zeros_like(weight, dtype=torch.float32)
        for own in self.changes:
            tensors = {name: tensor.to(weight.device, torch.float32) for name, tensor in own.tensors.items()}
            change = own.kind.of(tensors, own.kind.tag, float(own.scale))
            if own.rows is not None:
                change = change.in_rows(*own.rows, len(weight))
            total += change.delta_weight(base)
        return total


def _of_inputs(changes: Sequence[LiveChange], module: Any, x: Tensor, axis: int) -> list[_Part]:
    product = partial(convolved, module) if axis == 1 else F.linear
    return [(own.rows, own.of(x, product)) for own in changes]


def _of_outputs(changes: Sequence[LiveChange], plain: Tensor, axis: int) -> list[_Part]:
    """Of ``W x``, without the bias."""
    parts: list[_Part] = []
    for own in changes:
        outputs = plain if own.rows is None else plain.narrow(axis, *own.rows)
        parts.append((own.rows, own.of(outputs.movedim(axis, -1)).movedim(-1, axis)))
    return parts


def _of_base(changes: Sequence[LiveChange], module: Any, x: Tensor, bias: Tensor | None, axis: int) -> list[_Part]:
    """By the layer's own product, once for all of the same rows."""
    parts: list[_Part] = []
    for rows in dict.fromkeys([own.rows for own in changes]):
        inputs = [own.of(x.movedim(axis, -1)) for own in changes if own.rows == rows]
        outputs = module.forward(sum(inputs[1:], inputs[0]).movedim(-1, axis))
        outputs = outputs if bias is None else outputs - bias
        parts.append((rows, outputs if rows is None else outputs.narrow(axis, *rows)))
    return parts


def _gauges(factors: Sequence[Tensor]) -> list[float]:
    """Powers of two that bring all factors of a product to about one size, and whose own product is one.

    What is below 6e-5 loses digits in float16.
    """
    peaks = [largest(factor) for factor in factors]
    if not all(peaks):
        return [1.0] * len(peaks)
    exponents = [math.log2(peak) for peak in peaks]
    shifts = [round(sum(exponents) / len(exponents) - own) for own in exponents]
    shifts[-1] -= sum(shifts)
    return [2.0**shift for shift in shifts]


def _summed(parts: Sequence[_Part], like: Tensor, axis: int) -> Tensor:
    """The sum, with zeros in rows of which no part is."""
    whole = [part for rows, part in parts if rows is None]
    total = sum(whole[1:], whole[0]) if whole else torch.zeros_like(like)
    for rows, part in parts:
        if rows is not None:
            total = total + among_rows(part, rows, like, axis)
    return total
