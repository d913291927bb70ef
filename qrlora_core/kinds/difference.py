"""Whole differences: of a weight, or of the bias beside it. A vector is a layer under the name of its parameter."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..adapter import Layer
from ..errors import AdapterError
from ..term import from_difference
from .kind import Kind
from .tensors import require_parts

_ENDINGS = {".diff": ".weight", ".w_norm": ".weight", ".diff_b": ".bias", ".b_norm": ".bias"}


def _part(key: str) -> tuple[str, str] | None:
    for ending, parameter in _ENDINGS.items():
        if key.endswith(ending) and key != ending:
            return key.removesuffix(ending) + parameter, "difference"
    return None


def _layer(name: str, tensors: Mapping[str, Tensor], _alpha: float) -> tuple[str, Layer]:
    """A matrix is called like its module, as a product of factors is."""
    require_parts(tensors, ("difference",))
    difference = tensors["difference"]
    if name.endswith(".bias"):
        if difference.numel() != max(difference.shape, default=1):
            raise AdapterError(f"expected the difference of a bias as a vector, found {tuple(difference.shape)}.")
        difference = difference.flatten()  # some layers keep theirs in the shape of what they add it to
    term = from_difference(difference)
    if difference.ndim == 1:
        return name, Layer((term,), is_vector=True)
    return name.removesuffix(".weight"), Layer((term,))


def _tensors(layer: Layer) -> dict[str, Tensor] | None:
    return {"diff": layer.delta_weight().flatten()} if layer.is_vector and not layer.contains_base else None


DIFFERENCE = Kind("whole difference", _part, _layer, write=_tensors)
