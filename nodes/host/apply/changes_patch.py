"""Changes other than low-rank terms as one of the host's weight adapters: all of one weight together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from ....qrlora_core import Change
from .part import Rows

RowsChange = tuple[Rows | None, Change]


class ChangesPatch(WeightAdapterBase):
    """``W + strength * sum_i scale_i (W_i' - W)``, with the weight W that it is given.

    Args:
        loaded_keys: as every adapter of the host's has, which makes others of them where a weight is not loaded.
        weights: the changes of one weight, each with the rows that it is for, or None for all; and what the host's
            layer multiplies its input by, or None, see `weights.input_scale`: the stored weight is divided by it.
    """

    name = "qr_lora_changes"

    def __init__(self, loaded_keys: set[str], weights: tuple[Sequence[RowsChange], Tensor | None]) -> None:
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
        delta = torch.zeros_like(base)
        for rows, change in changes:
            (delta if rows is None else delta.narrow(0, *rows)).add_(
                change.delta_weight(base if rows is None else base.narrow(0, *rows))
            )
        weight += function((strength * delta / scale).to(weight.dtype))
        return weight
