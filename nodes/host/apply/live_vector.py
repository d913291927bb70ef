"""A change of a bias, or of the weight of a norm, beside a host layer: what some trainers put into a LoRA file."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def can_add_vector(module: torch.nn.Module, vector: str) -> bool:
    """True when a change of this parameter of the module can be added to its output."""
    is_norm = isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm)) or _is_rms_norm(module)
    return (is_norm and vector in (".weight", ".bias")) or (
        vector == ".bias" and (hasattr(module, "in_features") or hasattr(module, "kernel_size"))
    )


def _is_rms_norm(module: torch.nn.Module) -> bool:
    """PyTorch's, or one of the host's own under the same name."""
    return type(module).__name__ == "RMSNorm" and hasattr(module, "eps")


class LiveVector:
    """Adds the change of a bias, or of the weight of a norm times the normalized input.

    Args:
        name: of the parameter, ``.weight`` or ``.bias``; see `can_add_vector`.
        values: the change, with its scales in it; of a place and a shape that stay.

    Attributes:
        ran: whether it was called; whoever reads it sets it back.
        is_recorded: whether a program holds it in which it is not called any more.
        cast: the dtype of an output that is not the buffers', once there was one.
    """

    def __init__(self, name: str, values: Tensor) -> None:
        self.name, self.values = name, values
        self.cast: torch.dtype | None = None
        self.ran = self.is_recorded = False

    def added(self, module: Any, x: Tensor, y: Tensor) -> Tensor:
        """The output of the module for x, with the change."""
        if y.dtype is not self.values.dtype:
            self.cast = y.dtype
        values = self.values.to(y.device, y.dtype)
        if torch.is_grad_enabled() and values.is_inference():  # which autograd refuses to save
            values = values.clone()
        if self.name == ".bias":
            return y + along_channels(module, values, y)
        return y + _normalized(module, x, values).to(y.dtype)

    def switches(self) -> tuple[Tensor, ...]:
        """What is zero where nothing is added."""
        return (self.values,)

    def change(self, parameter: Tensor) -> Tensor:
        """float32, for a model that uses the parameter by itself."""
        return self.values.to(parameter.device, torch.float32)


def along_channels(module: torch.nn.Module, values: Tensor, y: Tensor) -> Tensor:
    """A number for each channel, in a shape that is added to the module's output."""
    is_second = hasattr(module, "kernel_size") or isinstance(module, torch.nn.GroupNorm)
    return values.view(-1, *(1 for _ in y.shape[2:])) if is_second else values


def _normalized(module: Any, x: Tensor, values: Tensor) -> Tensor:
    if isinstance(module, torch.nn.GroupNorm):
        return F.group_norm(x, module.num_groups, values.to(x.dtype), None, module.eps)
    if isinstance(module, torch.nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, values.to(x.dtype), None, module.eps)
    return F.rms_norm(x, values.shape, values.to(x.dtype), module.eps)
