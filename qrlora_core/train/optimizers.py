"""Optimizers, learning-rate schedules, and a moving average of what is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError

OPTIMIZERS = ("adamw", "adamw8bit", "prodigy")
SCHEDULES = ("constant", "cosine", "linear")
_PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}


@dataclass(frozen=True)
class OptimizerSettings:
    """How dR is updated. The defaults are the published recipe: AdamW at a constant rate.

    Args:
        learning_rate: size of an update; Prodigy finds the size itself and takes this as a factor, usually 1.
        weight_decay: decoupled, towards the base model.
        grad_accumulation: losses averaged per update.
        optimizer: one of `OPTIMIZERS`. schedule: one of `SCHEDULES`.
        warmup_steps: updates in which the rate rises from 0.
        max_grad_norm: gradients are scaled down to this total norm; 0 leaves them.
        ema_decay: the adapter is a moving average of dR with this decay; 0 takes dR as it is.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    grad_accumulation: int = 1
    optimizer: str = "adamw"
    schedule: str = "constant"
    warmup_steps: int = 0
    max_grad_norm: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf or self.grad_accumulation < 1:
            raise TrainingError(
                "expected learning_rate > 0 and grad_accumulation >= 1, found "
                f"{self.learning_rate} and {self.grad_accumulation}."
            )
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise TrainingError(f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}.")
        for name in ("weight_decay", "warmup_steps", "max_grad_norm", "ema_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise TrainingError(f"{name}: expected 0 or more, found {getattr(self, name)}.")
        if self.ema_decay >= 1:
            raise TrainingError(f"ema_decay: expected less than 1, such as 0.99, found {self.ema_decay}.")


def rate_factor(settings: OptimizerSettings, step: int, steps: int) -> float:
    """What the learning rate is multiplied with in the update after ``step`` others, of ``steps`` in all.

    ``step / warmup`` while it warms up; then 1, ``(1 + cos(pi t)) / 2`` or ``1 - t``, where ``t`` is the share of
    the updates after the warm-up that are done. The same as the schedulers of diffusers.
    """
    if step < settings.warmup_steps:
        return step / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    if settings.schedule == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
    return max(0.0, 1.0 - done) if settings.schedule == "linear" else 1.0


def make_optimizer(parameters: Sequence[Tensor], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer over these parameters; AdamW in its fused form where the device has one.

    Raises:
        TrainingError: the optional package of the optimizer is missing.
    """
    arguments: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer != "adamw":
        return _optional_optimizer(list(parameters), settings.optimizer, arguments)
    try:
        return torch.optim.AdamW(parameters, **arguments, fused=True)
    except RuntimeError:  # a device, or a release of PyTorch, without the fused form
        return torch.optim.AdamW(parameters, **arguments)


def _optional_optimizer(parameters: list[Tensor], name: str, arguments: dict[str, Any]) -> torch.optim.Optimizer:
    package = _PACKAGES[name]
    made: torch.optim.Optimizer
    try:
        if name == "prodigy":
            from prodigyopt import Prodigy

            made = Prodigy(parameters, **arguments)
        else:
            from bitsandbytes import optim

            untyped: Any = optim
            made = untyped.AdamW8bit(parameters, **arguments)
    except (ImportError, RuntimeError) as error:
        raise TrainingError(
            f"optimizer {name} needs the package {package}, which is not there or does not work ({error}). Install it "
            f"into ComfyUI's Python (pip install {package}) and start ComfyUI again, or choose adamw."
        ) from error
    return made


class MovingAverage:
    """Exponential moving average of tensors: ``mean += (1 - decay_t) (value - mean)``.

    ``decay_t = min(decay, (1 + t) / (10 + t))`` after t updates, so that the start, where dR is zero, fades fast.

    Args:
        values: the tensors to follow, by name; the average starts from copies of them.
        decay: between 0 and 1.
    """

    def __init__(self, values: Mapping[str, Tensor], decay: float) -> None:
        self._values, self._decay = dict(values), decay
        self.means = {name: value.detach().clone() for name, value in values.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the present values, after so many updates of them before."""
        decay = min(self._decay, (1 + updates) / (10 + updates))
        for name, mean in self.means.items():
            mean.lerp_(self._values[name].detach(), 1 - decay)
