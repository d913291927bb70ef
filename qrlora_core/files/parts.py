"""The tensors of one layer in a file: what every format reads and writes of them in the same way."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..adapter import Layer
from ..errors import AdapterError
from .safetensors_io import plain

_ROUNDING = 0.01  # relative; bfloat16 has 0.004 at most, and 0.03 would be numbers that vanish in float16


def split_parameter(path: str) -> tuple[str, str]:
    """(module, parameter) of a layer that stands for a vector: ``.bias``, or ``.weight`` of a norm; else (path, "")."""
    for parameter in (".weight", ".bias"):
        if path.endswith(parameter):
            return path.removesuffix(parameter), parameter
    return path, ""


def names_vector(path: str) -> bool:
    """True for a name under which files keep the change of a bias, or of the weight of a norm."""
    return split_parameter(path)[1] != ""


def finite(layer: Layer) -> Layer:
    """The layer, looked through as soon as it is read, while the processor has it at hand.

    Raises:
        AdapterError: it, or its delta in float32, is not finite.
    """
    if not layer.is_finite():
        raise AdapterError("NaN or infinity in its numbers.")
    return layer


def read_alpha(alpha: Tensor | None) -> float:
    """The number in a tensor of one entry; NaN, which stands for the rank, where there is none.

    Raises:
        AdapterError: another shape, or a number that is not finite.
    """
    if alpha is None:
        return math.nan
    if alpha.numel() != 1:
        raise AdapterError(f"alpha: expected one number, found shape {tuple(alpha.shape)}.")
    if not math.isfinite(float(alpha)):
        raise AdapterError(f"alpha: expected a finite number, found {float(alpha)}.")
    return float(alpha)


def rounded(key: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A copy to be saved under a key; None keeps the dtype.

    Raises:
        AdapterError: the dtype cannot hold numbers so large or so small.
    """
    if dtype is None:
        return plain(tensor)
    result, exact = plain(tensor.to(dtype)), plain(tensor).double()
    if not float((result.double() - exact).norm()) <= _ROUNDING * float(exact.norm()):
        raise AdapterError(
            f"{key}: its numbers, of up to {float(exact.abs().max()):.1e}, do not fit into {dtype}; "
            "choose bfloat16 or float32."
        )
    return result
