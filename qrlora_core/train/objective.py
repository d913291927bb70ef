"""What a training step asks of a diffusion model: which noise level, how an error counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import TrainingError

TIMESTEPS = ("uniform", "logit_normal", "shifted", "content", "style")
WEIGHTINGS = ("none", "min_snr", "sigma_sqrt", "cosmap")
LOSSES = ("mse", "huber")
_FLOW_ONLY = ("sigma_sqrt", "cosmap")


@dataclass(frozen=True)
class ObjectiveSettings:
    """The defaults are the published recipe: uniform timesteps, unweighted mean squared error.

    Args:
        timesteps: one of `TIMESTEPS`, see `sample_levels`. weighting: one of `WEIGHTINGS`, see `loss_weight`.
        min_snr_gamma: the limit of ``min_snr``; 5 in its paper.
        loss: one of `LOSSES`. huber_delta: error from which ``huber`` grows linearly, in units of the noise.
        min_timestep, max_timestep: no other noise is seen, in thousandths, 1000 being pure noise; one of two experts
            that share the noise levels (Wan 2.2) is trained on its own.
        noise_bias: bends what is drawn towards low noise where above 0, towards high noise where below, see `bent`.
    """

    timesteps: str = "uniform"
    weighting: str = "none"
    min_snr_gamma: float = 5.0
    loss: str = "mse"
    huber_delta: float = 0.1
    min_timestep: int = 0
    max_timestep: int = 1000
    noise_bias: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("timesteps", TIMESTEPS), ("weighting", WEIGHTINGS), ("loss", LOSSES)):
            if getattr(self, name) not in known:
                raise TrainingError(f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}.")
        for name in ("min_snr_gamma", "huber_delta"):
            if not 0 < getattr(self, name) < math.inf:
                raise TrainingError(f"{name}: expected more than 0, found {getattr(self, name)}.")
        if not math.isfinite(self.noise_bias):
            raise TrainingError(f"noise_bias: expected a finite number, found {self.noise_bias}.")
        if not 0 <= self.min_timestep < self.max_timestep <= 1000:
            raise TrainingError(
                f"min_timestep, max_timestep: expected the smaller one first, both from 0 to 1000, found "
                f"{self.min_timestep} and {self.max_timestep}."
            )

    def sees(self, levels: Tensor) -> Tensor:
        """Which noise levels, as a share of all, a training may see; like levels, boolean."""
        return (levels >= self.min_timestep / 1000) & (levels <= self.max_timestep / 1000)


def sample_levels(timesteps: str, count: int, generator: torch.Generator) -> Tensor:
    """Timesteps as a share of all, 1 being pure noise: (count,) float32 in [0, 1).

    ``uniform`` (and ``shifted``, for which the model's own shift is applied to these): u;
    ``logit_normal``: sigmoid of a normal number (Esser et al. 2024, arXiv 2403.03206, section 3.1);
    ``content``: 1 - u^3, mostly high noise, where layout and shape are decided (the cubic sampling of
    T2I-Adapter, arXiv 2302.08453, section 3.4); ``style``: u^3, mostly low noise, where texture and colour are.
    """
    if timesteps == "logit_normal":
        return torch.sigmoid(torch.randn(count, generator=generator))
    uniform = torch.rand(count, generator=generator)
    if timesteps == "content":
        return (1 - uniform**3).clamp(max=1 - 2**-24)
    return uniform**3 if timesteps == "style" else uniform


def bent(levels: Tensor, bias: float) -> Tensor:
    """Levels t in [0, 1) drawn towards low noise (bias b > 0) or high noise (b < 0); 0 leaves them as they are.

    ``t^(1 + b)`` for b >= 0 and ``1 - (1 - t)^(1 - b)`` for b < 0. Of uniform t, the first has the density
    ``s^(-b / (1 + b)) / (1 + b)`` at s, and the second the same at ``1 - s`` with -b; b of 2 is ``style`` and of -2
    ``content`` of `sample_levels`.
    """
    if bias < 0:
        return (1 - (1 - levels) ** (1 - bias)).clamp(max=1 - 2**-24)
    return levels ** (1 + bias) if bias else levels


def loss_weight(settings: ObjectiveSettings, sigma: Tensor, output_scale: Tensor, *, flow: bool) -> Tensor:
    """How much the error of the network's output counts at a noise level; like sigma.

    ``min_snr``: ``min(SNR, gamma) c^2`` with ``x0 = a x + c F``, that is ``min(SNR, gamma) / SNR`` for a model
    that predicts epsilon and ``/ (SNR + 1)`` for v (Hang et al. 2023, arXiv 2303.09556). SNR is ``1 / sigma^2``,
    or ``((1 - sigma) / sigma)^2`` in a flow. ``sigma_sqrt`` and ``cosmap``: ``sigma^-2`` and
    ``2 / (pi (1 - 2 sigma + 2 sigma^2))`` (arXiv 2403.03206, section 3.1), for flows.

    Args:
        output_scale: c, like sigma.

    Raises:
        TrainingError: a weighting for flows on another kind of model.
    """
    if settings.weighting in _FLOW_ONLY and not flow:
        raise TrainingError(
            f"weighting {settings.weighting} is for flow models (SD3, FLUX ...), and this model is none: "
            "choose none or min_snr."
        )
    if settings.weighting == "min_snr":
        snr = ((1 - sigma) / sigma if flow else 1 / sigma).square()
        return snr.clamp(max=settings.min_snr_gamma) * output_scale.square()
    if settings.weighting == "sigma_sqrt":
        return sigma**-2
    if settings.weighting == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))
    return torch.ones_like(sigma)


def example_losses(settings: ObjectiveSettings, error: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean loss of every example: (batch,).

    Args:
        error: (batch, ...), predicted minus true.
        mask: broadcastable to error, >= 0: what share an element has in the mean; None counts all alike.
    """
    if settings.loss == "huber":
        values = torch.nn.functional.huber_loss(
            error, torch.zeros_like(error), reduction="none", delta=settings.huber_delta
        )
    else:
        values = error.square()
    if mask is None:
        return values.flatten(1).mean(1)
    mask = mask.to(values).expand_as(values)
    return (values * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
