"""Changes other than low-rank terms as one of the host's weight adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from ....qrlora_core.change import Change


class ChangesPatch(WeightAdapterBase):
    """``W + strength * sum_i scale_i (W_i' - W)``, with the weight W that it is given.

    Args:
        loaded_keys: as every adapter of the host's has, which makes others of them where a weight is not loaded.
        weights: the changes of one layer; and what the host's layer multiplies its input by, or None, see
            `weights.input_scale`: the stored weight is divided by it.
    """

    name = "qr_lora_changes"

    def __init__(self, loaded_keys: set[str], weights: tuple[Sequence[Change], Tensor | None]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights

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
        changes, scale_of_input = self.weights
        scale = 1.0 if scale_of_input is None else scale_of_input.to(weight.device, torch.float32)
        base = weight.float() * scale
        delta = torch.stack([change.delta_weight(base) for change in changes]).sum(0) / scale
        weight += function((strength * delta).to(weight.dtype))
        return weight
