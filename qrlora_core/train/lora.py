"""Ordinary LoRA: both factors of a layer are trained, and nothing of the base is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapter import Layer
from .trainable import Trainable


class TrainableLoRA(Trainable):
    """``scaling * B A x`` with ``scaling = alpha / rank`` (LoRA, arXiv 2106.09685, section 4.1), zero at first.

    B is zero, and A uniform within ``1 / sqrt(in)``, as in PEFT and kohya's scripts (``kaiming_uniform_(a=sqrt(5))``).

    Args:
        shape: (out, in) of the weight.
        rank: of both factors. alpha: the numerator of ``scaling``.
        generator: of the CPU; where A comes from.
        compute_dtype: dtype of the products; B and A are float32 always.
        device: where to train; by default the CPU.
    """

    variant = "lora"

    def __init__(
        self,
        shape: tuple[int, ...],
        rank: int,
        alpha: float,
        *,
        generator: torch.Generator,
        compute_dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.rank, self.alpha, self._compute_dtype = rank, alpha, compute_dtype
        out, inputs = shape
        spread = (torch.rand(rank, inputs, generator=generator) * 2 - 1) / math.sqrt(inputs)
        self.lora_up = torch.nn.Parameter(torch.zeros(out, rank, device=device))
        self.lora_down = torch.nn.Parameter(spread.to(device))

    def up(self) -> Tensor:
        """(out, rank): B."""
        return self.lora_up.to(self._compute_dtype)

    def down(self) -> Tensor:
        """(rank, in) float32: ``scaling * A``."""
        scaling = self.alpha / self.rank
        return self.lora_down if scaling == 1.0 else self.lora_down * scaling

    def _layer_of(self, values: Mapping[str, Tensor]) -> Layer:
        return Layer.single(values["lora_up"], values["lora_down"], alpha=self.alpha)
