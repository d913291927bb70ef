"""The Frobenius inner product of two adapters, without forming or decomposing a delta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

import torch.nn.functional as F
from torch import Tensor

from ..adapter import Layer, QRLoRA
from ..change import Change
from ..changes.kronecker import Kronecker
from ..term import Term, from_difference
from .merge import group_by_basis


def inner_product(first: QRLoRA, second: QRLoRA) -> float:
    """``<D_a, D_b>_F`` over the common layers; of an adapter with itself, its energy ``|D|_F^2``.

    ``<s_a Q_a dR_a, s_b Q_b dR_b> = s_a s_b sum_ij (Q_a^T Q_b)_ij (dR_a dR_b^T)_ij``, summed over the terms, and
    ``<A x B, C x D> = <A, C> <B, D>`` of Kronecker products. Nothing is decomposed, so it is
    much quicker than `compare`.

    Raises:
        AdapterError: the adapters disagree on the shape of a layer, or one contains the base weight in a common layer.
    """
    group_by_basis([first, second])  # refuses adapters that do not fit together
    common = [path for path in first.layers if path in second.layers]
    return math.fsum(_of_layers(first.layers[path], second.layers[path]) for path in common)


def _of_layers(first: Layer, second: Layer) -> float:
    return math.fsum(_of_parts(a, b) for a in _parts(first) for b in _parts(second))


def _parts(layer: Layer) -> Sequence[Term | Change]:
    return (*layer.terms, *layer.changes)


def _of_parts(a: Term | Change, b: Term | Change) -> float:
    if isinstance(a, Term) and isinstance(b, Term):
        return _of_terms(a, b)
    if _is_plain(a) and _is_plain(b) and a.left.shape == b.left.shape and a.own_shape == b.own_shape:
        return a.scale * b.scale * _frobenius(a.left, b.left) * _of_terms(_right(a), _right(b))
    for one, other in ((a, b), (b, a)):
        if _is_plain(one) and isinstance(other, Term) and other.delta_r.ndim == len(one.own_shape) == 2:
            return _of_product_and_term(one, other)
    return math.fsum(_of_terms(x, y) for x in _terms(a) for y in _terms(b))


def _is_plain(part: Term | Change) -> TypeGuard[Kronecker]:
    return isinstance(part, Kronecker) and not (part.rows or part.inputs is not None or part.outputs is not None)


def _terms(part: Term | Change) -> tuple[Term, ...]:
    return (part,) if isinstance(part, Term) else part.terms()


def _right(change: Kronecker) -> Term:
    """The right factor as a term of scaling 1."""
    if len(change.right) == 1:
        return from_difference(change.right[0])
    up, down = change.right
    return Term(up, down)


def _of_terms(a: Term, b: Term) -> float:
    columns = a.q.float().T @ b.q.to(a.q.device).float()
    rows = a.delta_r.float().flatten(1) @ b.delta_r.to(a.delta_r.device).float().flatten(1).T
    return a.scaling * b.scaling * float((columns.double() * rows.double()).sum())


def _of_product_and_term(product: Kronecker, term: Term) -> float:
    """``<K, s q d> = s sum_r q_r . (K d_r)``."""
    tensors = {name: tensor.float() for name, tensor in product.tensors().items()}
    outputs = Kronecker.act(tensors, term.delta_r.float(), F.linear)  # (rank, out)
    return product.scale * term.scaling * _frobenius(outputs, term.q.T)


def _frobenius(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.to(a.device).double()).sum())
