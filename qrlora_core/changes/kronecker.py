"""A Kronecker product added to the base weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from einops import rearrange
from torch import Tensor

from ..change import Change, Product, Stage, require_tensors, term_in_rows
from ..errors import AdapterError
from ..term import MOST_ENTRIES, Term, from_difference, largest, usual


@dataclass(frozen=True, eq=False, kw_only=True)
class Kronecker(Change):
    """``W' = W + diag(outputs) (left x right) diag(inputs)`` with the Kronecker product x (LoKr: arXiv 2309.14859).

    While a layer runs it is two or three small products: with x as a matrix X of (b, d), ``(left x right) x`` is
    ``left X right^T``.

    Args:
        left: (a, b).
        right: (c, d) or (c, d, kh, kw), or the pair (c, r) and (r, d, ...) whose product that is.
        inputs: (b d,), outputs: (a c,), or None for ones.
    """

    tag = "kronecker"
    stage = Stage.INPUT

    left: Tensor
    right: tuple[Tensor, ...]
    inputs: Tensor | None = None
    outputs: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        shapes = [tuple(tensor.shape) for tensor in self.right]
        if len(shapes) == 2 and (len(shapes[0]) != 2 or shapes[0][1] != shapes[1][0]):
            raise AdapterError(f"{self.kind}: expected factors (c, rank) and (rank, d, ...), found {shapes}.")
        for name, factors, side in (("outputs", self.outputs, 0), ("inputs", self.inputs, 1)):
            if factors is not None and factors.shape != (self.own_shape[side],):
                raise AdapterError(
                    f"{self.kind}: expected {self.own_shape[side]} {name}, found {tuple(factors.shape)}."
                )

    @property
    def own_shape(self) -> tuple[int, ...]:
        """See `Change`."""
        out, inner, *kernel = self.right[0].shape[0], *self.right[-1].shape[1:]
        return (self.left.shape[0] * out, self.left.shape[1] * inner, *kernel)

    @property
    def rank(self) -> int:
        """See `Change`."""
        out, *inner = self.own_shape
        return min(min(self.left.shape) * self._right_rank, out, math.prod(inner))

    @property
    def _right_rank(self) -> int:
        rows, columns = len(self.right[0]), math.prod(self.right[-1].shape[1:])
        return min(rows, columns, self.right[0].shape[1] if len(self.right) == 2 else rows)

    @property
    def is_zero(self) -> bool:
        """See `Change`."""
        return self.scale == 0 or not all(bool(tensor.any()) for tensor in (self.left, *self.right))

    def tensors(self) -> dict[str, Tensor]:
        """See `Change`."""
        names = ("right",) if len(self.right) == 1 else ("up", "down")
        vectors = {"inputs": self.inputs, "outputs": self.outputs}
        return {
            "left": self.left,
            **dict(zip(names, self.right, strict=True)),
            **{name: factors for name, factors in vectors.items() if factors is not None},
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], kind: str, scale: float) -> Self:
        """See `Change`."""
        is_pair = "right" not in tensors
        last = tensors.get("down" if is_pair else "right")
        dimensions = max(2, 0 if last is None else last.ndim)
        expected = {"left": 2, **({"up": 2, "down": dimensions} if is_pair else {"right": dimensions})}
        expected |= {name: 1 for name in ("inputs", "outputs") if name in tensors}
        require_tensors(kind, tensors, expected)
        own = {name: usual(tensors[name]) for name in expected}
        right = (own["up"], own["down"]) if is_pair else (own["right"],)
        return cls(
            kind=kind, scale=scale, left=own["left"], right=right,
            inputs=own.get("inputs"), outputs=own.get("outputs"),
        )  # fmt: skip

    def is_finite(self) -> bool:
        """See `Change`; nor may an entry of the product be infinite in float32."""
        if not super().is_finite():
            return False
        peaks = [largest(tensor) for tensor in self.tensors().values()]
        bound = math.prod(peaks) * abs(self.scale) * (self.right[0].shape[1] if len(self.right) == 2 else 1)
        is_small = math.isfinite(bound) and math.prod(self.own_shape) <= MOST_ENTRIES
        return bound <= torch.finfo(torch.float32).max or (
            is_small and bool(torch.isfinite(self.scale * self.effect(_like_none())).all())
        )

    def effect(self, base: Tensor) -> Tensor:
        """See `Change`; of ``base`` the dtype and the device count."""
        product = _product(self.left.to(base), self._whole_right(base))
        kernel = (1,) * (product.ndim - 2)
        if self.outputs is not None:
            product = product * self.outputs.to(base).view(-1, 1, *kernel)
        return product if self.inputs is None else product * self.inputs.to(base).view(1, -1, *kernel)

    def _whole_right(self, like: Tensor) -> Tensor:
        first, *others = (tensor.to(like) for tensor in self.right)
        return torch.einsum("cr,r...->c...", first, *others) if others else first

    def in_shape(self, shape: tuple[int, ...]) -> Self | None:
        """See `Change`: the columns of a kernel belong to the right factor."""
        own = self.own_shape
        if own == shape:
            return self
        inner = shape[1] // self.left.shape[1]
        per_row = math.prod(self.right[-1].shape[1:])
        if inner * self.left.shape[1] != shape[1] or inner * math.prod(shape[2:]) != per_row:
            return None
        last = self.right[-1].reshape(len(self.right[-1]), inner, *shape[2:])
        return replace(self, right=(*self.right[:-1], last))

    def terms(self) -> tuple[Term, ...]:
        """See `Change`: ``left x up down = (I x up) (left x down) = (left x up) (I x down)``, the shorter of the two.

        The rank is ``min(a, b) r``, or that of the whole weight where that is less.
        """
        return (term_in_rows(self._term(), self.rows),)

    def _term(self) -> Term:
        out, *inner = self.own_shape
        has_factors = self.inputs is not None or self.outputs is not None
        rank = min(self.left.shape) * self._right_rank
        if has_factors or rank >= min(out, math.prod(inner)):
            if math.prod(self.own_shape) > MOST_ENTRIES:
                raise AdapterError(f"{self.kind}: no weight is as large as {self.own_shape}.")
            return from_difference(self.scale * self.effect(_like_none()))
        up, down = self._right_pair()
        if self.left.shape[0] <= self.left.shape[1]:
            q, delta_r = _product(torch.eye(len(self.left)), up), _product(self.left.float(), down)
        else:
            q, delta_r = _product(self.left.float(), up), _product(torch.eye(self.left.shape[1]), down)
        return Term(q, delta_r, self.scale * q.shape[1])

    def _right_pair(self) -> tuple[Tensor, Tensor]:
        if len(self.right) == 2 and self.right[0].shape[1] == self._right_rank:
            return self.right[0].float(), self.right[1].float()
        term = from_difference(self._whole_right(_like_none()))
        return term.q, term.delta_r

    @staticmethod
    def act(tensors: Mapping[str, Tensor], inputs: Tensor, product: Product) -> Tensor:
        """``(left x right) x``: of a linear layer (..., a c), of a convolution (batch, a c, ...).

        Args:
            inputs: (..., b d), or (batch, b d, ...) where the last factor has a kernel.
            product: the layer's, for that factor.
        """
        last = tensors["right"] if "right" in tensors else tensors["down"]
        own = _convolved if last.ndim > 2 else _multiplied
        return own(tensors, inputs, last, product)


def _multiplied(tensors: Mapping[str, Tensor], inputs: Tensor, last: Tensor, product: Product) -> Tensor:
    left = tensors["left"]
    x = inputs if "inputs" not in tensors else inputs * tensors["inputs"]
    x = rearrange(x, "... (b d) -> ... b d", b=left.shape[1])
    x = product(x, last)  # (..., b, r)
    x = product(x.transpose(-1, -2), left).transpose(-1, -2)  # (..., a, r)
    x = x if "up" not in tensors else product(x, tensors["up"])
    y = rearrange(x, "... a c -> ... (a c)")
    return y if "outputs" not in tensors else y * tensors["outputs"]


def _convolved(tensors: Mapping[str, Tensor], inputs: Tensor, last: Tensor, product: Product) -> Tensor:
    left, kernel = tensors["left"], (1,) * (last.ndim - 2)
    x = inputs if "inputs" not in tensors else inputs * tensors["inputs"].view(-1, *kernel)
    x = rearrange(x, "n (b d) ... -> (n b) d ...", b=left.shape[1])
    x = rearrange(product(x, last), "(n b) r ... -> n b r ...", b=left.shape[1])
    x = torch.einsum("ab,nbr...->nar...", left, x)
    x = x if "up" not in tensors else torch.einsum("cr,nar...->nac...", tensors["up"], x)
    y = rearrange(x, "n a c ... -> n (a c) ...")
    return y if "outputs" not in tensors else y * tensors["outputs"].view(-1, *kernel)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """The Kronecker product of a matrix, and of one that may have a kernel."""
    return rearrange(torch.einsum("ab,cd...->acbd...", first, second), "a c b d ... -> (a c) (b d) ...")


def _like_none() -> Tensor:
    """Stands for a base weight, of which a sum asks for no number."""
    return torch.empty(0)
