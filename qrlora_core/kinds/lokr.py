"""LoKr: ``alpha / rank * w1 x w2``, the Kronecker product of two matrices (LyCORIS, arXiv 2309.14859, section 3.2).

Each of the two is whole (``lokr_w1``) or a product (``lokr_w1_a lokr_w1_b``), ``w2`` of a convolution also in Tucker
form: ``w2[c, d, ...] = sum_ij w2_a[i, c] t2[i, j, ...] w2_b[j, d]``. Alpha counts where one of them is a product, as in
LyCORIS and ComfyUI. The latter (0.3.75 to 0.33) ends in an error that it logs where there is a Tucker form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapter import Layer
from ..changes.kronecker import Kronecker
from ..errors import AdapterError
from .keys import endings
from .kind import Kind
from .tensors import lone_change, require_parts, require_room

_NAMES = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")


def _layer(name: str, tensors: Mapping[str, Tensor], alpha: float) -> tuple[str, Layer]:
    left, right = _side(tensors, "lokr_w1"), _side(tensors, "lokr_w2")
    whole = _multiplied(left)
    factored = right if len(right) == 2 else left if len(left) == 2 else ()
    scale = alpha / len(factored[1]) if factored and not math.isnan(alpha) else 1.0
    parts = {"left": whole, **dict(zip(("up", "down") if len(right) == 2 else ("right",), right, strict=True))}
    return name, Layer((), changes=(Kronecker.of(parts, LOKR.name, scale),))


def _side(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, ...]:
    """A whole factor, or (rows, rank) and (rank, columns, ...)."""
    if name in tensors:
        require_parts(tensors, (name,))
        return (tensors[name],)
    require_parts(tensors, (f"{name}_a", f"{name}_b"))
    first, second = tensors[f"{name}_a"], tensors[f"{name}_b"]
    if first.ndim < 2 or second.ndim < 2 or 0 in (*first.shape, *second.shape):
        raise AdapterError(
            f"expected {name}_a (rows, rank) and {name}_b (rank, columns), found {tuple(first.shape)} and "
            f"{tuple(second.shape)}."
        )
    core = tensors.get(f"lokr_t{name[-1]}")
    if core is None:
        return first, second
    if core.ndim < 3 or first.ndim != 2 or second.ndim != 2 or core.shape[:2] != (len(first), len(second)):
        raise AdapterError(
            f"expected a core (rank, rank, ...) of {(len(first), len(second))}, found {tuple(core.shape)}."
        )
    require_room(core.shape[0] * second.shape[1] * math.prod(core.shape[2:]))
    return first.T, torch.einsum("ij...,jd->id...", core.float(), second.float())


def _multiplied(factors: tuple[Tensor, ...]) -> Tensor:
    """The left factor is small, also where it came as a product."""
    if len(factors) == 1:
        return factors[0]
    first, second = factors
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[0]:
        raise AdapterError(
            f"expected lokr_w1_a (a, rank) and lokr_w1_b (rank, b), found {tuple(first.shape)} and "
            f"{tuple(second.shape)}."
        )
    require_room(len(first) * second.shape[1])
    return first.float() @ second.float()


def _tensors(layer: Layer) -> dict[str, Tensor] | None:
    """A kernel is flattened, as ComfyUI reads it in every form."""
    change = lone_change(layer, Kronecker)
    if change is None or change.inputs is not None or change.outputs is not None:
        return None
    if len(change.right) == 1:
        return {"lokr_w1": change.scale * change.left.float(), "lokr_w2": change.right[0]}
    up, down = change.right
    alpha = torch.tensor(change.scale * len(down))
    return {"lokr_w1": change.left, "lokr_w2_a": up, "lokr_w2_b": down.flatten(1), "alpha": alpha}


def _notes(tensors: Mapping[str, Tensor]) -> str:
    if "lokr_t2" in tensors:
        return "LoKr in Tucker form, on which ComfyUI's own loader stops"
    has_kernel = any(tensors[part].ndim > 2 for part in ("lokr_w2_a", "lokr_w2_b") if part in tensors)
    return "LoKr of a product with a kernel, on which ComfyUI's own loader stops" if has_kernel else ""


LOKR = Kind("LoKr", endings(_NAMES), _layer, write=_tensors, notes=_notes)
