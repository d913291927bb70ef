"""The weight that a host's linear layer computes with, lent for one product: cast, patched, dequantized; never kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import comfy.ops
import torch
from torch import Tensor

from ...model.weights import input_scale, is_quantized

_HostLinear = comfy.ops.disable_weight_init.Linear

# Gives the weight and the bias, in the dtype and on the device of a tensor, for as long as the context lasts.
Lender = Callable[[Tensor], contextlib.AbstractContextManager[tuple[Tensor, "Tensor | None"]]]


def lender(module: Any) -> Lender | None:
    """What lends the weight of a layer; None where it is not known how the layer computes."""
    kind = type(module)
    if kind.forward is torch.nn.Linear.forward:
        return lambda like: contextlib.nullcontext((module.weight, module.bias))
    scaled = _is_hosts(kind, "scaled_fp8_op.Linear") and isinstance(module.scale_weight, Tensor)
    if not (scaled or _is_plain(kind) or _is_hosts(kind, "MixedPrecisionOps.Linear")):
        return None
    scale = module.scale_weight if scaled else input_scale(module)
    return lambda like: _lent(module, like, scale)


@contextlib.contextmanager
def _lent(module: Any, like: Tensor, scale: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Args: scale: of the weight, or of the input: then one of the weight's columns."""
    weight, bias, stream = comfy.ops.cast_bias_weight(module, like, offloadable=True)
    try:
        plain = weight.dequantize() if is_quantized(weight) else weight
        yield (plain if scale is None else plain * scale.to(plain)), bias
    finally:
        comfy.ops.uncast_bias_weight(module, weight, bias, stream)


def _is_plain(kind: Any) -> bool:
    """Whether a class computes as the host's linear layer does."""
    if not issubclass(kind, _HostLinear) or kind.forward is not _HostLinear.forward:
        return False
    return kind.forward_comfy_cast_weights is _HostLinear.forward_comfy_cast_weights


def _is_hosts(kind: type, name: str) -> bool:
    """Whether this is a class of this name that one of the host's functions makes, and no one's own child of it."""
    return kind.__module__ == comfy.ops.__name__ and kind.__qualname__.endswith(f".{name}")
