"""LoHa: ``alpha / rank * (w1_a w1_b) o (w2_a w2_b)``, with the product o of entries (FedPara: arXiv 2108.06098).

The product of a matrix of rank r and one of rank s is one of rank r s: the rows of the left factors are multiplied each
with each, and so are the columns of the right ones. Convolutions may be in Tucker form: ``w1[o, i, ...] =
sum_jk w1_a[j, o] t1[j, k, ...] w1_b[k, i]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

from ..adapter import Layer
from ..errors import AdapterError
from ..term import Term, from_difference
from .keys import endings
from .kind import Kind
from .tensors import require_parts, require_room

_FACTORS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def _layer(name: str, tensors: Mapping[str, Tensor], alpha: float) -> tuple[str, Layer]:
    require_parts(tensors, _FACTORS)
    (up, down), (other_up, other_down) = _side(tensors, 1), _side(tensors, 2)
    if len(up) != len(other_up) or down.shape[1:] != other_down.shape[1:]:
        raise AdapterError(
            f"expected two products for one weight, found {(len(up), *down.shape[1:])} and "
            f"{(len(other_up), *other_down.shape[1:])}."
        )
    scaling = 1.0 if math.isnan(alpha) else alpha / len(tensors["hada_w1_b"])
    rank, out, inner = up.shape[1] * other_up.shape[1], len(up), math.prod(down.shape[1:])
    if rank * (out + inner) > out * inner + min(out, inner) ** 2:  # which the whole difference takes
        require_room(out * inner)
        whole = (up @ down.flatten(1)) * (other_up @ other_down.flatten(1))
        return name, Layer((from_difference(scaling * whole.reshape(out, *down.shape[1:])),))
    require_room(rank * (out + inner))
    q = rearrange(torch.einsum("or,os->ors", up, other_up), "o r s -> o (r s)")
    delta_r = rearrange(torch.einsum("r...,s...->rs...", down, other_down), "r s ... -> (r s) ...")
    return name, Layer((Term(q, delta_r, scaling * rank),))


def _side(tensors: Mapping[str, Tensor], number: int) -> tuple[Tensor, Tensor]:
    """(out, rank) and (rank, in, ...)."""
    first, second = (tensors[f"hada_w{number}_{name}"] for name in "ab")
    core = tensors.get(f"hada_t{number}")
    shapes = [None if one is None else tuple(one.shape) for one in (first, second, core)]
    if first.ndim != 2 or second.ndim < 2 or 0 in (*first.shape, *second.shape):
        raise AdapterError(f"expected matrices, found {shapes[:2]}.")
    if core is None:
        if first.shape[1] != second.shape[0]:
            raise AdapterError(f"expected factors (out, rank) and (rank, in), found {shapes[:2]}.")
        return first.float(), second.float()
    if core.ndim < 3 or second.ndim != 2 or core.shape[:2] != (len(first), len(second)):
        raise AdapterError(f"expected (rank, out), (rank, in) and a core (rank, rank, ...), found {shapes}.")
    require_room(core.shape[0] * second.shape[1] * math.prod(core.shape[2:]))
    return first.float().T, torch.einsum("rs...,si->ri...", core.float(), second.float())


LOHA = Kind("LoHa", endings((*_FACTORS, "hada_t1", "hada_t2")), _layer)
