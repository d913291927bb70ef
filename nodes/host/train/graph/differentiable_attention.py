"""Attention while training: the fastest of the host's ways to compute it have no gradient, and say nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.ldm.modules.attention as host
import torch
from torch import Tensor

Attention = Callable[..., Tensor]

_OVERRIDE = "optimized_attention_override"
_KNOWN = {"attention_basic", "attention_split", "attention_sub_quad", "attention_pytorch", "attention_xformers"}


def with_gradient(options: dict[str, Any]) -> dict[str, Any]:
    """The host's transformer options, by which attention has a gradient where one is needed.

    Sage, Flash and int8 attention, and what other nodes put in their place, compute all else, such as samples. Where
    the way that is chosen has no gradient, PyTorch's own is taken.
    """
    return {**options, _OVERRIDE: _overriding(options.get(_OVERRIDE))}


def _overriding(chosen: Attention | None) -> Attention:
    """Args: chosen: what another node put there, which is given the host's function first."""

    def attend(func: Attention, *args: Any, **kwargs: Any) -> Tensor:
        needed = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args)
        if needed and getattr(func, "__name__", "") not in _KNOWN:
            func = host.attention_pytorch
        result: Tensor = func(*args, **kwargs) if chosen is None else chosen(func, *args, **kwargs)
        return host.attention_pytorch(*args, **kwargs) if needed and not result.requires_grad else result

    return attend
