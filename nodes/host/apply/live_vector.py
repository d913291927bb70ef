"""A change of a bias, or of the weight of a norm, beside a host layer: what some trainers put into a LoRA file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .part import Part


def can_add_vector(module: torch.nn.Module, vector: str) -> bool:
    """True when a change of this parameter of the module can be added to its output."""
    is_norm = isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm)) or _is_rms_norm(module)
    return is_norm or (vector == ".bias" and (hasattr(module, "in_features") or hasattr(module, "kernel_size")))


def _is_rms_norm(module: torch.nn.Module) -> bool:
    """PyTorch's, or one of the host's own under the same name."""
    return type(module).__name__ == "RMSNorm" and hasattr(module, "eps")


class LiveVector:
    """Adds ``sum_i scale_i d_i`` of a bias, or of the weight of a norm times the normalized input.

    Args:
        module: what the parameter belongs to; see `can_add_vector`.
        part: its q (length, 1) and delta_r's (1, 1).
    """

    def __init__(self, module: torch.nn.Module, part: Part) -> None:
        self._module, self._part = module, part
        self._scales: tuple[float, ...] = ()
        self._sum: Tensor | None = None

    def set_scales(self, scales: Sequence[float]) -> None:
        """Take new scales, one per source."""
        weights = self._part.weights(scales)
        if weights != self._scales:
            self._scales, self._sum = weights, None

    @property
    def name(self) -> str:
        """Of the parameter: ``.weight`` or ``.bias``."""
        return self._part.vector

    @property
    def is_on(self) -> bool:
        """Whether any scale is not zero."""
        return any(self._scales)

    def change(self, parameter: Tensor) -> Tensor:
        """What is added to the parameter, float32, where the model uses it by itself."""
        return self._current(parameter.float())

    def added(self, x: Tensor, output: Tensor) -> Tensor:
        """The output of the module for x, with the change."""
        if not self.is_on:
            return output
        vector = self._current(output)
        if self._part.vector == ".bias":
            return output + self._along_channels(vector, output)
        return output + self._normalized(x, vector).to(output.dtype)

    def _current(self, output: Tensor) -> Tensor:
        total = self._sum
        if total is None or total.device != output.device or total.dtype != output.dtype:
            terms = zip(self._scales, self._part.deltas, strict=True)
            factor = sum(scale * give().float().to(output.device) for scale, (_, _, give) in terms if scale)
            own = (self._part.q().float().to(output.device) @ factor).flatten()
            self._sum = total = self._in_place(own).to(output.dtype)
        return total

    def _in_place(self, own: Tensor) -> Tensor:
        """With zeros where the rows of a fused layer are not its own."""
        if self._part.rows is None:
            return own
        start, length = self._part.rows
        return F.pad(own, (start, self._length() - start - length))

    def _length(self) -> int:
        return int(getattr(self._module, "out_features", 0) or getattr(self._module, "out_channels", 0))

    def _along_channels(self, vector: Tensor, output: Tensor) -> Tensor:
        is_second = hasattr(self._module, "kernel_size") or isinstance(self._module, torch.nn.GroupNorm)
        return vector.view(-1, *(1 for _ in output.shape[2:])) if is_second else vector

    def _normalized(self, x: Tensor, vector: Tensor) -> Tensor:
        module: Any = self._module
        if isinstance(module, torch.nn.GroupNorm):
            return F.group_norm(x, module.num_groups, vector.to(x.dtype), None, module.eps)
        if isinstance(module, torch.nn.LayerNorm):
            return F.layer_norm(x, module.normalized_shape, vector.to(x.dtype), None, module.eps)
        return F.rms_norm(x, vector.shape, vector.to(x.dtype), module.eps)
