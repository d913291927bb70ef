"""GLoRA: ``alpha / rank * (W a1 a2 + b1 b2)`` (arXiv 2306.07967, as LyCORIS has it).

Older files have ``W a2 a1 + b2 b1``, which their ranks tell. ``b`` of a convolution may be in Tucker form with ``bm``,
which ComfyUI leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapter import Layer
from ..changes.input_product import InputProduct
from ..errors import AdapterError
from ..functional.lora import from_lora, to_lora
from .keys import endings
from .kind import Kind
from .tensors import require_parts

_FACTORS = ("a1", "a2", "b1", "b2")


def _layer(name: str, tensors: Mapping[str, Tensor], alpha: float) -> tuple[str, Layer]:
    require_parts(tensors, _FACTORS)
    a1, a2, b1, b2 = (tensors[part] for part in _FACTORS)
    if any(tensor.ndim < 2 or 0 in tensor.shape for tensor in (a1, a2, b1, b2)):
        raise AdapterError(f"expected matrices with entries, found {[tuple(one.shape) for one in (a1, a2, b1, b2)]}.")
    if _is_old(a1, a2, b1, b2):
        a1, a2, b1, b2 = a2, a1, b2, b1
    if any(side != 1 for factor in (a1, a2) for side in factor.shape[2:]):
        raise AdapterError("expected factors of the weight with a kernel of one.")
    rank = a1.shape[1]
    alpha = float(rank) if math.isnan(alpha) else alpha
    added = from_lora(b1, b2, alpha * b2.shape[0] / rank, tensors.get("bm"))
    parts = {"up": a1.flatten(1), "down": a2.flatten(1)}
    return name, Layer((added,), changes=(InputProduct.of(parts, GLORA.name, alpha / rank),))


def _is_old(a1: Tensor, a2: Tensor, b1: Tensor, b2: Tensor) -> bool:
    """Of a square weight the sides alone fit both; there the rank is the smaller one."""
    fits_old = b2.shape[1] == b1.shape[0] == a1.shape[0] == a2.shape[1]
    fits_new = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
    return fits_old and (not fits_new or a2.shape[0] >= a2.shape[1])


def _tensors(layer: Layer) -> dict[str, Tensor] | None:
    """Of one rank, as ComfyUI tells from it which factor is which: the shorter pair gets columns and rows of zeros."""
    if len(layer.changes) != 1 or layer.is_vector or not isinstance(change := layer.changes[0], InputProduct):
        return None
    if change.rows is not None or not layer.terms:
        return None
    b1, b2 = to_lora(layer.with_terms(layer.terms))
    rank = max(b1.shape[1], change.up.shape[1])
    a1, a2 = change.scale * change.up.float(), change.down.float()
    kernel = (1,) * (b2.ndim - 2)
    factors = {"a1": _wide(a1, rank), "a2": _wide(a2.T, rank).T, "b1": _wide(b1.flatten(1), rank)}
    down = _wide(b2.transpose(0, -1), rank).transpose(0, -1)
    shaped = {name: factor.reshape(*factor.shape, *kernel) for name, factor in factors.items()}
    tensors = {f"{name}.weight": factor.contiguous() for name, factor in {**shaped, "b2": down}.items()}
    return {**tensors, "alpha": torch.tensor(float(rank))}


def _wide(matrix: Tensor, rank: int) -> Tensor:
    return torch.nn.functional.pad(matrix, (0, rank - matrix.shape[-1]))


def _notes(tensors: Mapping[str, Tensor]) -> str:
    return "GLoRA in Tucker form, whose core ComfyUI's own loader leaves out" if "bm" in tensors else ""


GLORA = Kind("GLoRA", endings((*_FACTORS, "bm"), ".weight"), _layer, write=_tensors, notes=_notes)
