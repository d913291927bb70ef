"""One host layer with its live branch: a forward hook, and the sums of delta_r that it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .live_bypass import Bypass, Change, hands_out, may_be_bypassed
from .live_vector import LiveVector
from .part import Blend, Part, blend_of

# Rows of the output, q, and the factor of what is added there.
Placed = tuple[tuple[int, int] | None, Tensor, float]


class LiveLayer:
    """Adds ``sum_parts q (sum_i w_i delta_r_i) x`` to a layer's output.

    The sums of all parts stand in one matrix (total rank, in), so that slices of a fused layer share the
    product with x; each part's q then adds to its own rows in place. The base weight is never read. Where the model
    may use the layer's weight without calling the layer, the same is added to the weight that it is handed.

    Args:
        module: a linear layer (or what acts as one) or a convolution.
        parts: what to add.
        admit: asked at every use; the layer computes as without us where it says no.
        watched: whether the layer was seen not to be called, so that who asks for its weight gets it changed.
    """

    def __init__(
        self, module: torch.nn.Module, parts: Sequence[Part], admit: Callable[[], bool], *, watched: bool = False
    ) -> None:
        self._admit = admit
        self._parts = [part for part in parts if not part.vector]
        self._vectors = [LiveVector(module, part) for part in parts if part.vector]
        self._is_conv = "kernel_size" in vars(module)  # hasattr is slow where a module lacks it
        self._weights: list[tuple[float, ...]] = []
        self._active: list[Blend] = []
        self._sums: Tensor | None = None
        self._handle = module.register_forward_hook(self._hook)
        watched = may_be_bypassed(module) or (watched and hands_out(module))
        self._bypass = Bypass(module, self._change(".weight"), self._change(".bias")) if watched else None
        self.ran = False

    def set_scales(self, scales: Sequence[float]) -> None:
        """Take new scales, one per source; the sums follow at the next call, and only if a ratio changed."""
        for vector in self._vectors:
            vector.set_scales(scales)
        weights = [part.weights(scales) for part in self._parts]
        if weights == self._weights:
            return
        before = [(blend.part, blend.shares) for blend in self._active]
        self._weights = weights
        self._active = [blend_of(part, own) for part, own in zip(self._parts, weights, strict=True) if any(own)]
        if before != [(blend.part, blend.shares) for blend in self._active]:
            self._sums = None

    def current_sums(self, x: Tensor) -> Tensor:
        """(total rank, in) of the active parts on x's device in its dtype, rounded once."""
        sums = self._sums
        if sums is None or sums.dtype is not x.dtype or sums.device != x.device:
            self._sums = sums = _sum_deltas([blend.terms(x.device) for blend in self._active], x)
        return sums

    def remove(self) -> None:
        """Remove the hook and free the sums."""
        self._handle.remove()
        if self._bypass is not None:
            self._bypass.remove()
        self._sums = None

    def _hook(self, module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not self._admit():
            return output
        self.ran = True
        for vector in self._vectors:
            output = vector.added(args[0], output)
        return self._with_matrices(module, args[0], output) if self._active else output

    def _change(self, name: str) -> Change:
        """``W + sum_parts q (sum_i w_i delta_r_i)``, or the same of a bias, for a model that uses it by itself."""

        def vectors() -> list[LiveVector]:
            return [vector for vector in self._vectors if vector.name == name and vector.is_on]

        def has_matrices() -> bool:
            return name == ".weight" and bool(self._active)

        def changed(value: Tensor) -> Tensor:
            self.ran = True
            total = sum((vector.change(value) for vector in vectors()), value.float())
            return (total + self._delta_weight(value) if has_matrices() else total).to(value.dtype)

        return Change(changed, acts=lambda: (has_matrices() or bool(vectors())) and self._admit())

    def _delta_weight(self, weight: Tensor) -> Tensor:
        """Of all active parts: float32, (out, in, ...)."""
        delta = weight.new_zeros(weight.shape[0], weight[0].numel(), dtype=torch.float32)
        ranks = [blend.part.q().shape[1] for blend in self._active]
        for (rows, q, factor), sums in zip(self._placed(delta), self.current_sums(delta).split(ranks), strict=True):
            own = delta if rows is None else delta.narrow(0, *rows)
            own.addmm_(q, sums, alpha=factor)
        return delta.view(weight.shape)

    def _with_matrices(self, module: Any, x: Tensor, output: Tensor) -> Tensor:
        sums = self.current_sums(x)
        if torch.is_grad_enabled():  # only a trainer on a live model meets this
            placed = [(rows, _usable(q), factor) for rows, q, factor in self._placed(output)]
            return _add(output, self._inner(module, x, _usable(sums)), placed, self._is_conv)
        inner = self._inner(module, x, sums)
        if not output.is_contiguous():
            return _add(output, inner, self._placed(output), self._is_conv)
        if self._is_conv:
            return output.add_(_add(torch.zeros_like(output), inner, self._placed(output), is_conv=True))
        return _add_in_place(output, inner, self._active)

    def _inner(self, module: Any, x: Tensor, sums: Tensor) -> Tensor:
        return _convolve(module, x, sums) if self._is_conv else F.linear(x, sums)

    def _placed(self, output: Tensor) -> list[Placed]:
        return [(blend.part.rows, _like(blend.part.q(), output), blend.factor) for blend in self._active]


def _sum_deltas(parts: Sequence[Sequence[tuple[float, Tensor]]], x: Tensor) -> Tensor:
    """The parts' ``sum_i(share_i delta_r_i)`` one below the other, added in float32, rounded once to x's dtype."""
    if len(parts) == len(parts[0]) == 1:
        return parts[0][0][1].to(x.dtype)
    ranks = [terms[0][1].shape[0] for terms in parts]
    sums = x.new_empty(sum(ranks), parts[0][0][1].shape[1])
    for rows, ((_, total), *others) in zip(sums.split(ranks), parts, strict=True):
        for share, delta in others[:-1]:
            total = torch.add(total.float(), delta.float(), alpha=share)
        if others:
            share, delta = others[-1]
            torch.add(total.float(), delta.float(), alpha=share, out=rows)
        else:
            rows.copy_(total)
    return sums


def _usable(tensor: Tensor) -> Tensor:
    """Autograd refuses to save inference tensors."""
    return tensor.clone() if tensor.is_inference() else tensor


def _convolve(module: Any, x: Tensor, sums: Tensor) -> Tensor:
    kernel = tuple(module.kernel_size)
    weight = sums.reshape(sums.shape[0], -1, *kernel)
    convolution = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    return convolution(x, weight, None, module.stride, module.padding, module.dilation)


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """On the device and in the dtype of another; `to` takes a microsecond also where there is nothing to do."""
    if tensor.dtype is other.dtype and tensor.device == other.device:
        return tensor
    return tensor.to(other.device, other.dtype)


def _add_in_place(output: Tensor, inner: Tensor, active: Sequence[Blend]) -> Tensor:
    """To the rows of a linear layer's output; on a fast GPU a step waits for these very lines."""
    flat_out, flat_in = output.view(-1, output.shape[-1]), inner.view(-1, inner.shape[-1])
    flat_in = _like(flat_in, flat_out)
    if len(active) == 1 and active[0].part.rows is None:
        flat_out.addmm_(flat_in, _like(active[0].part.q(), flat_out).t(), alpha=active[0].factor)
        return output
    column = 0
    for blend in active:
        q, rows = _like(blend.part.q(), flat_out), blend.part.rows
        own = flat_in.narrow(1, column, q.shape[1])
        (flat_out if rows is None else flat_out.narrow(1, *rows)).addmm_(own, q.t(), alpha=blend.factor)
        column += q.shape[1]
    return output


def _add(output: Tensor, inner: Tensor, placed: Sequence[Placed], is_conv: bool) -> Tensor:
    axis = 1 if is_conv else -1
    column = 0
    for rows, q, factor in placed:
        own = inner.narrow(axis, column, q.shape[1]).to(output.dtype) * factor
        branch = torch.einsum("or,br...->bo...", q, own) if is_conv else F.linear(own, q)
        start, length = rows or (0, branch.shape[axis])
        if length != output.shape[axis]:
            padding = (start, output.shape[axis] - start - length)
            branch = F.pad(branch, padding if axis == -1 else (0, 0) * (output.ndim - 2) + padding)
        output = output + branch
        column += q.shape[1]
    return output
