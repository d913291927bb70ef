"""Changes other than low-rank terms as one of the host's weight adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from ....qrlora_core import Layer


class ChangesPatch(WeightAdapterBase):
    """``W + strength * sum_i scale_i (W_i' - W)``, with the weight W that it is given.

    The host makes some of its adapters anew from what is in ``weights``.

    Args:
        layer: of changes alone.
        scale_of_input: what the host's layer multiplies its input by, see `weights.input_scale`: the stored weight is
            divided by it.
    """

    name = "qr_lora_changes"

    def __init__(self, layer: Layer, scale_of_input: Tensor | None) -> None:
        self.loaded_keys = set[str]()
        self.weights = (layer, scale_of_input)

    def calculate_weight(
        self,
        weight: Tensor,
        _key: str,
        strength: float,
        _strength_model: float,
        _offset: Any,
        function: Callable[[Tensor], Tensor],
        _intermediate_dtype: torch.dtype = torch.float32,
        _original_weight: Any = None,
    ) -> Tensor:
        """What the host calls; in place, since it may be given some rows of a weight."""
        layer, scale_of_input = self.weights
        base = weight.float()
        if scale_of_input is None:
            delta = layer.delta_weight(base)
        else:
            scale = scale_of_input.to(base)
            delta = layer.delta_weight(base * scale) / scale
        weight += function((strength * delta).to(weight.dtype))
        return weight
