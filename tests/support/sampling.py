"""Sampling of the small SD3 as the host does it."""

from __future__ import annotations

from typing import Any

import comfy.sample
import torch
from torch import Tensor

STEPS = 4


def conditioning(seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 12, 96, generator=generator), {"pooled_output": torch.randn(1, 2048, generator=generator)}]]


def sample(patcher: Any, *, steps: int = STEPS, callback: Any = None, positive: Any = None) -> Tensor:
    """The host's own sampling, with two conditionings in one batch."""
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    return comfy.sample.sample(
        patcher, noise, steps, 3.0, "euler", "simple", positive or conditioning(1), conditioning(2),
        torch.zeros_like(noise), callback=callback, disable_pbar=True, seed=0,
    )  # fmt: skip
