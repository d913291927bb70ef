"""What the Train node asks for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from ....qrlora_core import ObjectiveSettings, OptimizerSettings, TrainableLoRA, TrainingError
from ....qrlora_core.train.delta import VARIANTS as OF_DELTA
from ....qrlora_core.train.optimizers import make_optimizer
from .presets.preset import Preset
from .role.settings import Recipe
from .samples import SampleSettings

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
VARIANTS = (*OF_DELTA, TrainableLoRA.variant)
NO_RESUME, RESUME_LATEST = "none", "latest"


@dataclass(frozen=True)
class TrainingSettings:
    """What the Train node asks for, as far as the adapter depends on it.

    ``alpha`` 0 means the rank; ``targets`` as in `qrlora_core.select`. ``optimizer`` is taken with the learning
    rate and the accumulation that stand here, and ``objective`` with the noise levels of ``role``.
    """

    steps: int
    learning_rate: float
    rank: int
    alpha: float
    variant: str
    targets: str
    batch_size: int
    grad_accumulation: int
    seed: int
    training_dtype: str
    gradient_checkpointing: bool
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    role: Recipe | None = None

    def whole_optimizer(self) -> OptimizerSettings:
        """The optimizer with the rate and the accumulation of the node."""
        return replace(self.optimizer, learning_rate=self.learning_rate, grad_accumulation=self.grad_accumulation)

    def whole_objective(self) -> ObjectiveSettings:
        """The objective with the noise levels of the role."""
        return self.objective if self.role is None else replace(self.objective, noise_bias=self.role.noise_bias)


@dataclass(frozen=True)
class RunSettings:
    """What the adapter does not depend on: checkpoints and samples, and whence its settings come.

    Attributes:
        run_name: of the folder of checkpoints. keep_checkpoints: 0 writes none.
        checkpoint_every: updates between two; 0 writes at the end alone, however it comes.
        resume_from: a name as `runs.checkpoint_names` gives it, `NO_RESUME` or `RESUME_LATEST`.
        preset: that the settings are of; None where all are the node's.
    """

    run_name: str = "adapter"
    checkpoint_every: int = 0
    keep_checkpoints: int = 0
    resume_from: str = NO_RESUME
    samples: SampleSettings = field(default_factory=SampleSettings)
    preset: Preset | None = None


def check_settings(settings: TrainingSettings) -> None:
    """Raise `TrainingError` for a number that cannot work or a package that is missing, before anything is loaded."""
    for name in ("steps", "rank", "batch_size", "grad_accumulation"):
        if getattr(settings, name) < 1:
            raise TrainingError(f"{name}: expected at least 1, found {getattr(settings, name)}.")
    make_optimizer([torch.zeros(1, requires_grad=True)], settings.whole_optimizer())
