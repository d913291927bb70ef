"""All that one merge multiplies in beside a layer: two products, whatever the number of adapters.

``y[rows] += (down x)[ranks] up`` for each range of rows. ``down`` (rank of all, in) has the sums of delta_r below
each other, with their scales in them; ``up`` (rank, length of the range) is q transposed. Both keep their place and
their shape for as long as the merge lives: whatever changes is their contents, so that a compiled or recorded program
of a call stays right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .part import Rows, among_rows


class Up(NamedTuple):
    """What leads to rows of the output, None for all of them: (rank, length)."""

    rows: Rows | None
    matrix: Tensor


class Stack:
    """Of a linear layer, or of what acts as one.

    Args:
        down: (rank, in).
        ups: one for each range of rows, in the order of their ranks in ``down``.

    Attributes:
        ran: whether it was called; whoever reads it sets it back.
        is_recorded: whether a program holds it in which it is not called any more.
        cast: the dtype of an input that is not the buffers', once there was one.
    """

    axis = -1
    name = ".weight"

    def __init__(self, down: Tensor, ups: Sequence[Up]) -> None:
        self.down, self.ups = down, tuple(ups)
        self.ranks = [len(up) for _, up in ups]
        self.ran = self.is_recorded = False
        self.cast: torch.dtype | None = None

    def added(self, module: Any, x: Tensor, y: Tensor) -> Tensor:
        """The layer's output with what belongs to its input x; in place, where nobody can have kept it."""
        dtype = self.down.dtype
        if torch.is_grad_enabled():  # a trainer on a live model
            return self._savable().added_apart(module, x, y)
        if x.dtype is not dtype or y.dtype is not dtype or x.device != self.down.device or not y.is_contiguous():
            return self.added_apart(module, x, y)
        self._add(module, x, y)
        return y

    def _add(self, module: Any, x: Tensor, y: Tensor) -> None:
        """On a fast GPU a step waits for these very lines."""
        inner = F.linear(x, self.down)
        flat_y, flat = y.view(-1, y.shape[-1]), inner.view(-1, inner.shape[-1])
        for (rows, up), own in zip(self.ups, self._parted(flat, 1), strict=True):
            (flat_y if rows is None else flat_y.narrow(1, *rows)).addmm_(own, up)

    def _parted(self, inner: Tensor, axis: int) -> Sequence[Tensor]:
        return (inner,) if len(self.ranks) == 1 else inner.split(self.ranks, axis)

    def added_apart(self, module: Any, x: Tensor, y: Tensor) -> Tensor:
        """The same without a change of y, on whichever device and in whichever dtype x is."""
        if x.dtype is not self.down.dtype:
            self.cast = x.dtype
        return self._converted(lambda own: own.to(x.device, x.dtype))._added(module, x, y)

    def _added(self, module: Any, x: Tensor, y: Tensor) -> Tensor:
        for (rows, up), own in zip(self.ups, self._parted(self._inner(module, x), self.axis), strict=True):
            y = y + self._whole(self._product(own, up), rows, y).to(y.dtype)
        return y

    def _inner(self, _module: Any, x: Tensor) -> Tensor:
        return F.linear(x, self.down)

    def _product(self, own: Tensor, up: Tensor) -> Tensor:
        return own @ up

    def _whole(self, part: Tensor, rows: Rows | None, y: Tensor) -> Tensor:
        """With zeros in the other rows of the output."""
        return part if rows is None else among_rows(part, rows, y, self.axis)

    def _converted(self, convert: Callable[[Tensor], Tensor]) -> Stack:
        """With other matrices, for one call."""
        return type(self)(convert(self.down), [Up(rows, convert(up)) for rows, up in self.ups])

    def _savable(self) -> Stack:
        """Autograd refuses to save what the host has moved in inference mode."""
        return self._converted(torch.clone) if self.down.is_inference() else self

    def switches(self) -> tuple[Tensor, ...]:
        """What is zero where nothing is added."""
        return (self.down,)

    def change(self, weight: Tensor) -> Tensor:
        """float32, in the shape of the layer's weight, for a model that multiplies with it by itself."""
        down = self.down.flatten(1).to(weight.device, torch.float32)
        delta = down.new_zeros(weight.shape[0], down.shape[1])
        for (rows, up), own in zip(self.ups, self._parted(down, 0), strict=True):
            (delta if rows is None else delta.narrow(0, *rows)).addmm_(up.t().to(delta), own)
        return delta.view(weight.shape)


def convolved(module: Any, x: Tensor, weight: Tensor) -> Tensor:
    """As a convolution does, with another weight."""
    convolution = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
    return convolution(x, weight, None, module.stride, module.padding, module.dilation)


class ConvStack(Stack):
    """Of a convolution: ``down`` (rank, in, ...) is a convolution like it, ``up`` one with a kernel of one."""

    axis = 1

    def _add(self, module: Any, x: Tensor, y: Tensor) -> None:
        flat_y, flat = y.flatten(2), self._inner(module, x).flatten(2)
        for (rows, up), own in zip(self.ups, self._parted(flat, 1), strict=True):
            part = flat_y if rows is None else flat_y.narrow(1, *rows)
            part.baddbmm_(up.t().expand(len(y), -1, -1), own)

    def _inner(self, module: Any, x: Tensor) -> Tensor:
        return convolved(module, x, self.down)

    def _product(self, own: Tensor, up: Tensor) -> Tensor:
        return torch.einsum("ro,br...->bo...", up, own)
