"""Train delta_r, and nothing else, on any loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .adapter import Layer, QRLoRA
from .branch import linear_branch
from .decompose import Factors
from .errors import TrainingError

VARIANTS = ("triu", "full")


class TrainableDelta(torch.nn.Module):
    """``scaling * Q (dR x)`` of one layer, with Q frozen and dR trained from zero (QR-LoRA, arXiv 2507.04599).

    Args:
        factors: Q and R of the frozen base weight.
        variant: ``"full"`` trains all of dR; ``"triu"`` keeps it upper triangular: the rank (rank - 1) / 2
            entries below the diagonal of its leading block stay zero, as in the published scripts.
        compute_dtype: dtype in which Q is kept for the products; dR is float32 always.
    """

    q: Tensor

    def __init__(self, factors: Factors, *, variant: str = "triu", compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise TrainingError(f"variant: expected one of {', '.join(VARIANTS)}, found {variant!r}.")
        self.factors = factors
        self.register_buffer("q", factors.q.to(compute_dtype))
        self.delta_r = torch.nn.Parameter(torch.zeros_like(factors.base_r))
        if variant == "triu":
            # AdamW leaves an entry at zero whose gradient was always zero.
            self.delta_r.register_hook(torch.triu)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return linear_branch(x, self.q, self.delta_r, self.factors.scaling)

    def layer(self) -> Layer:
        """The layer as it is now, on the CPU."""
        return Layer.single(
            self.factors.q.cpu(),
            self.delta_r.detach().to("cpu", copy=True),
            alpha=self.factors.alpha,
            base_r=self.factors.base_r.cpu(),
        )


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW at a constant rate, the published recipe. ``grad_accumulation``: losses averaged per update."""

    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    grad_accumulation: int = 1


class Trainer:
    """Steps AdamW over the dR of many layers.

    Args:
        deltas: module path to its `TrainableDelta`.
        settings: see `OptimizerSettings`.

    Raises:
        TrainingError: no layer, or settings out of range.
    """

    def __init__(self, deltas: Mapping[str, TrainableDelta], settings: OptimizerSettings | None = None) -> None:
        self.settings = settings or OptimizerSettings()
        if not deltas:
            raise TrainingError("there is no layer to train.")
        if not self.settings.learning_rate > 0 or self.settings.grad_accumulation < 1:
            raise TrainingError(
                "expected learning_rate > 0 and grad_accumulation >= 1, found "
                f"{self.settings.learning_rate} and {self.settings.grad_accumulation}."
            )
        self.deltas = dict(deltas)
        self.optimizer = torch.optim.AdamW(
            [delta.delta_r for delta in self.deltas.values()],
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
        )

    def step(self, losses: Iterable[Callable[[], Tensor]]) -> float:
        """One update from ``grad_accumulation`` losses; returns their mean.

        Args:
            losses: callables that run the model and return a scalar loss; evaluated and differentiated one by one.

        Raises:
            TrainingError: another number of losses, or a loss or gradient that is not finite. dR is left as it
                was before the step.
        """
        self.optimizer.zero_grad(set_to_none=True)
        values: list[float] = []
        for compute_loss in losses:
            loss = compute_loss() / self.settings.grad_accumulation
            values.append(float(loss.detach()))
            _require_finite("loss", values[-1])
            loss.backward()  # type: ignore[no-untyped-call]
        if len(values) != self.settings.grad_accumulation:
            raise TrainingError(f"expected {self.settings.grad_accumulation} losses per update, found {len(values)}.")
        _require_finite("gradient", self._gradient_norm())
        self.optimizer.step()
        return sum(values)

    def _gradient_norm(self) -> float:
        gradients = [delta.delta_r.grad for delta in self.deltas.values() if delta.delta_r.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def adapter(self, metadata: Mapping[str, str]) -> QRLoRA:
        """What is trained so far, as an adapter on the CPU."""
        return QRLoRA({path: delta.layer() for path, delta in self.deltas.items()}, metadata)


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the {name} became {value}. dR is kept as it was before this step; lower learning_rate, "
            "or choose training_dtype fp32."
        )
