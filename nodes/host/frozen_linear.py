"""The host's linear layers while training: weights frozen, low-rank branches beside them, one autograd node for both.

What backward needs of a frozen layer is its weight, which is taken again then: a weight that the host casts
(float8, offloaded, patched on the fly) is not kept alive in between. Of the input, a copy of the reference alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import comfy.ops
import torch
from torch import Tensor

from ...qrlora_core import TrainableDelta
from .key_map import Target

_HostLinear = comfy.ops.disable_weight_init.Linear


@contextlib.contextmanager
def attached(model: torch.nn.Module, deltas: Mapping[str, tuple[Target, TrainableDelta]]) -> Iterator[None]:
    """Within the context, every target's layer computes ``y + delta(x)``, on its rows of y only.

    Args:
        model: the host's BaseModel.
        deltas: module path to (target, what is trained there); several may belong to one fused layer.
    """
    by_module: dict[str, list[tuple[Target, TrainableDelta]]] = {}
    for target, delta in deltas.values():
        by_module.setdefault(target.module, []).append((target, delta))
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            members = by_module.get(name, [])
            if members or _casts(module):
                stack.enter_context(_replaced_forward(module, members))
        yield


@contextlib.contextmanager
def _replaced_forward(module: Any, members: Sequence[tuple[Target, TrainableDelta]]) -> Iterator[None]:
    module.forward = _forward(module, module.forward, members)
    try:
        yield
    finally:
        del module.forward  # the class's own method shows again


def _forward(
    module: Any, original: Callable[[Tensor], Tensor], members: Sequence[tuple[Target, TrainableDelta]]
) -> Callable[[Tensor], Tensor]:
    weight = _weight_getter(module)
    places = _places(members, module.out_features)

    def forward(x: Tensor) -> Tensor:
        downs = [delta.down() for _, delta in members]
        down = torch.cat(downs).to(x.dtype) if downs else None
        ups = [delta.up() for _, delta in members]
        if weight is None:  # its backward is a secret of the host's: let autograd record the host's own forward
            return original(x) + _BranchedLinear.apply(x, down, places, None, None, module.out_features, *ups)
        return _BranchedLinear.apply(x, down, places, original, weight, module.out_features, *ups)

    return forward


# Rows of the output (start, length) and columns of the inner product (start, length) of one branch.
_Place = tuple[int, int, int, int]


def _places(members: Sequence[tuple[Target, TrainableDelta]], width: int) -> list[_Place]:
    places, column = [], 0
    for target, delta in members:
        start, length = target.rows or (0, width)
        count = delta.up().shape[1]
        places.append((start, length, column, count))
        column += count
    return places


class _BranchedLinear(torch.autograd.Function):
    """``y = W x + b``, and ``y[rows] += up (down x)[columns]`` for every branch.

    ``dL/dx = W^T g + down^T h``, ``dL/d down = h x^T`` with ``h[columns] = up^T g[rows]``, and
    ``dL/d up = g[rows] (down x)[columns]^T`` where it is asked for. There is no gradient of W.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        down: Tensor | None,
        places: Sequence[_Place],
        linear: Callable[[Tensor], Tensor] | None,
        weight: Callable[[Tensor], Tensor] | None,
        width: int,
        *ups: Tensor,
    ) -> Tensor:
        y = x.new_zeros(*x.shape[:-1], width) if linear is None else linear(x)
        rows, ctx.places, ctx.weight, ctx.shape = y.reshape(-1, width), places, weight, x.shape
        if down is not None:
            inner = x.reshape(-1, x.shape[-1]) @ down.T
            for (start, length, column, count), up in zip(places, ups, strict=True):
                rows.narrow(1, start, length).addmm_(inner.narrow(1, column, count), up.to(y.dtype).T)
            ctx.save_for_backward(x, down, *ups)
        return rows.view(y.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        rows = g.reshape(-1, g.shape[-1])
        x, down, *ups = ctx.saved_tensors or (None, None)
        grad_x = rows @ ctx.weight(g) if ctx.weight is not None and ctx.needs_input_grad[0] else None
        if down is None:
            return (_shaped(grad_x, ctx.shape), *[None] * 5)
        x = x.reshape(-1, x.shape[-1])
        h = torch.cat(
            [rows.narrow(1, s, n) @ up.to(g.dtype) for (s, n, _, _), up in zip(ctx.places, ups, strict=True)], 1
        )
        if ctx.needs_input_grad[0]:
            grad_x = h @ down if grad_x is None else grad_x.addmm_(h, down)
        grad_ups = [None] * len(ups)
        if any(ctx.needs_input_grad[6:]):
            inner = x @ down.T
            grad_ups = [rows.narrow(1, s, n).T @ inner.narrow(1, c, k) for s, n, c, k in ctx.places]
        return (_shaped(grad_x, ctx.shape), h.T @ x, None, None, None, None, *grad_ups)


def _shaped(grad: Tensor | None, shape: torch.Size) -> Tensor | None:
    return None if grad is None else grad.view(shape)


def _casts(module: Any) -> bool:
    """True for a layer of the host whose weight becomes another tensor at every call, if we know how."""
    casts = getattr(module, "comfy_cast_weights", False) or getattr(module, "weight_function", None)
    return bool(casts) and _weight_getter(module) is not None


def _weight_getter(module: Any) -> Callable[[Tensor], Tensor] | None:
    """Gives the weight that the layer computes with, in the dtype and on the device of a tensor; None if unknown."""
    kind = type(module)
    if kind.forward is torch.nn.Linear.forward:
        return lambda like: module.weight
    if not isinstance(module, _HostLinear) or kind.forward is not _HostLinear.forward:
        return None
    if kind.forward_comfy_cast_weights is not _HostLinear.forward_comfy_cast_weights:
        return None  # scaled float8 and other quantized layers

    def cast(like: Tensor) -> Tensor:
        weight, _ = comfy.ops.cast_bias_weight(module, like)
        return weight

    return cast
