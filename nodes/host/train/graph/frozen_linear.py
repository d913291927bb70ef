"""The host's linear layers while training: weights frozen, low-rank branches beside them, one autograd node for both.

What backward needs of a frozen layer is its weight, which is lent again then: a weight that the host casts
(float8, quantized, offloaded, patched on the fly) is not kept alive in between. Of the input, a copy of the reference
alone. A quantized layer computes with its dequantized weight where gradients are recorded: the host would round the
input too, so that what comes out, and the gradient with it, would go up in steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .....qrlora_core import Trainable
from ...model.key_map import Target
from ...model.weights import is_quantized
from .checkpointing import ActivationCache
from .lent_weight import Lender, lender
from .modules import replaced_forward


@contextlib.contextmanager
def attached(
    model: torch.nn.Module, deltas: Mapping[str, tuple[Target, Trainable]], outputs: ActivationCache
) -> Iterator[set[str]]:
    """Within the context, every target's layer computes ``y + delta(x)``, on its rows of y only.

    Yields:
        the names of the layers with branches that have run, for whoever empties it first.

    Args:
        model: the host's BaseModel.
        deltas: module path to (target, what is trained there); several may belong to one fused layer.
        outputs: takes what layers give, for blocks that run twice.
    """
    by_module: dict[str, list[tuple[Target, Trainable]]] = {}
    for target, delta in deltas.values():
        by_module.setdefault(target.module, []).append((target, delta))
    ran: set[str] = set()
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            members = by_module.get(name, [])
            if members or lender(module) is not None:
                forward = _forward(module, module.forward, members, outputs)
                stack.enter_context(replaced_forward(module, _noting(name, forward, ran) if members else forward))
        yield ran


def _noting(name: str, forward: Callable[[Tensor], Tensor], ran: set[str]) -> Callable[[Tensor], Tensor]:
    def noting(x: Tensor) -> Tensor:
        ran.add(name)
        return forward(x)

    return noting


def _forward(
    module: Any,
    original: Callable[[Tensor], Tensor],
    members: Sequence[tuple[Target, Trainable]],
    outputs: ActivationCache,
) -> Callable[[Tensor], Tensor]:
    lend, width = lender(module), module.out_features
    places = _places(members, width)

    def dequantized(x: Tensor) -> Tensor:
        assert lend is not None
        with lend(x) as (weight, bias):
            return torch.nn.functional.linear(x, weight, bias)

    def forward(x: Tensor) -> Tensor:
        downs = [delta.down() for _, delta in members]
        down = torch.cat(downs).to(x.dtype) if downs else None
        ups = [delta.up() for _, delta in members]
        rows = x.reshape(-1, x.shape[-1])
        if lend is None:  # its backward is a secret of the host's: let autograd record the host's own forward
            y: Tensor = original(x)
            nothing = torch.zeros_like(y).flatten(0, -2)
            return y + _branched(rows, down, places, lambda _: nothing, None, None, *ups).view(y.shape)
        linear = dequantized if is_quantized(module.weight) and torch.is_grad_enabled() else original
        y = _branched(rows, down, places, linear, lend, outputs.take(module), *ups)
        outputs.offer(module, y)
        # A view that autograd knows of: blocks may add to it in place, which the output of a function forbids.
        return y.view(*x.shape[:-1], y.shape[-1])

    return forward


# Rows of the output (start, length) and columns of the inner product (start, length) of one branch.
_Place = tuple[int, int, int, int]


def _places(members: Sequence[tuple[Target, Trainable]], width: int) -> list[_Place]:
    places, column = [], 0
    for target, delta in members:
        start, length = target.rows or (0, width)
        count = delta.up().shape[1]
        places.append((start, length, column, count))
        column += count
    return places


class _BranchedLinear(torch.autograd.Function):
    """``y = W x + b``, and ``y[rows] += up (down x)[columns]`` for every branch; x is (tokens, in).

    ``dL/dx = W^T g + down^T h``, ``dL/d down = h x^T`` with ``h[columns] = up^T g[rows]``, and
    ``dL/d up = g[rows] (down x)[columns]^T`` where it is asked for. There is no gradient of W. A y that is known
    is not computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        down: Tensor | None,
        places: Sequence[_Place],
        linear: Callable[[Tensor], Tensor],
        lend: Lender | None,
        known: Tensor | None,
        *ups: Tensor,
    ) -> Tensor:
        ctx.places, ctx.lend = places, lend
        if down is not None:
            ctx.save_for_backward(x, down, *ups)
        if known is not None:
            return known
        y = linear(x)
        if down is not None:
            inner = x @ down.T
            for (start, length, column, count), up in zip(places, ups, strict=True):
                y.narrow(1, start, length).addmm_(inner.narrow(1, column, count), up.to(y.dtype).T)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        grad_x = None
        if ctx.lend is not None and ctx.needs_input_grad[0]:
            with ctx.lend(g) as (weight, _):
                grad_x = g @ weight
        saved = ctx.saved_tensors
        if not saved:
            return (grad_x, *[None] * 5)
        x, down, *ups = saved
        placed = zip(ctx.places, ups, strict=True)
        h = torch.cat([g.narrow(1, s, n) @ up.to(g.dtype) for (s, n, _, _), up in placed], dim=1)
        if ctx.needs_input_grad[0]:
            grad_x = h @ down if grad_x is None else grad_x.addmm_(h, down)
        grad_ups = [None] * len(ups)
        if any(ctx.needs_input_grad[6:]):
            inner = x @ down.T
            grad_ups = [g.narrow(1, s, n).T @ inner.narrow(1, c, k) for s, n, c, k in ctx.places]
        return (grad_x, h.T @ x, None, None, None, None, *grad_ups)


_branched: Callable[..., Tensor] = _BranchedLinear.apply
