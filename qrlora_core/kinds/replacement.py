"""A whole weight, or vector, in place of the model's: ``W' = set_weight`` (ComfyUI).

ComfyUI copies it whatever the strength is; here a scale lies between the two, as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapter import Layer
from ..changes.scales import RowScale
from ..term import from_difference
from .kind import Kind
from .tensors import require_parts

_ENDING = ".set_weight"


def _part(key: str) -> tuple[str, str] | None:
    is_own = key.endswith(_ENDING) and key != _ENDING
    return (key.removesuffix(_ENDING) + ".weight", "set_weight") if is_own else None


def _layer(name: str, tensors: Mapping[str, Tensor], _alpha: float) -> tuple[str, Layer]:
    """A matrix is called like its module, as a product of factors is."""
    require_parts(tensors, ("set_weight",))
    new = tensors["set_weight"]
    term = from_difference(new)
    minus_base = RowScale(kind=REPLACEMENT.name, values=-torch.ones(len(term.q)))
    if new.ndim == 1:
        return name, Layer((term,), is_vector=True, changes=(minus_base,))
    return name.removesuffix(".weight"), Layer((term,), changes=(minus_base,))


def _tensors(layer: Layer) -> dict[str, Tensor] | None:
    if len(layer.changes) != 1 or not isinstance(change := layer.changes[0], RowScale) or change.rows is not None:
        return None
    if not layer.terms or change.scale != 1 or not bool((change.values == -1).all()):
        return None
    new = layer.with_terms(layer.terms).delta_weight()
    return {"set_weight": new.flatten() if layer.is_vector else new}


REPLACEMENT = Kind("replaced weight", _part, _layer, write=_tensors)
