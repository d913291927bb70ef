"""Train an adapter on a host model: decompose its layers, then run the trainer inside the host's guider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...qrlora_core import (
    OptimizerSettings,
    QRLoRA,
    TrainableDelta,
    Trainer,
    TrainingError,
    decompose,
    select,
)
from ...qrlora_core.checkpoint import describe
from .autograd import aliased_parameters, checkpointed_blocks, protected_inputs, trainable_context
from .branches import attached
from .dataset import BatchOrder, Example
from .key_map import KeyMap, Target
from .objective import encode_conditioning, objective_loss, sample_sigmas
from .report import loss_ends
from .weights import base_name, base_weight, compute_dtype, fingerprint

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class TrainingSettings:
    """What the Train node asks for. ``alpha`` 0 means the rank; ``targets`` as in `qrlora_core.select`."""

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


@dataclass(frozen=True)
class TrainingResult:
    adapter: QRLoRA
    losses: list[float]
    narrow_layers: int


def train_adapter(patcher: Any, examples: Sequence[Example], settings: TrainingSettings) -> TrainingResult:
    """Train one adapter; the model is bit-identical afterwards, also after an error or an interrupt.

    Raises:
        TrainingError, TargetError, DecompositionError: see the message; nothing was trained then.
    """
    with trainable_context():
        targets = _choose(patcher, settings)
        deltas = _decompose_all(patcher, targets, settings)
        trainer = Trainer(
            deltas, OptimizerSettings(settings.learning_rate, grad_accumulation=settings.grad_accumulation)
        )
        sampler = _TrainSampler(trainer, targets, examples, settings)
        _run(patcher, sampler, examples, settings)
        narrow = sum(delta.factors.rank < settings.rank for delta in deltas.values())
        adapter = trainer.adapter(_metadata(patcher, targets, sampler.losses, settings))
        adapter.require_finite()
        return TrainingResult(adapter, sampler.losses, narrow)


def _choose(patcher: Any, settings: TrainingSettings) -> dict[str, Target]:
    available = KeyMap(patcher.model).linear(patcher.model)
    return {path: available[path] for path in select(available, settings.targets)}


def _decompose_all(patcher: Any, targets: dict[str, Target], settings: TrainingSettings) -> dict[str, TrainableDelta]:
    device, dtype = patcher.load_device, DTYPES[settings.training_dtype]
    scaling = (settings.alpha or settings.rank) / settings.rank
    progress = comfy.utils.ProgressBar(len(targets))
    deltas = {}
    for path, target in targets.items():
        comfy.model_management.throw_exception_if_processing_interrupted()
        rank = min(settings.rank, *target.shape)  # a layer narrower than the rank keeps the scaling at its full rank
        weight = base_weight(patcher, target).to(device)
        factors = decompose(weight, rank, alpha=scaling * rank, layer=path)
        deltas[path] = TrainableDelta(factors, variant=settings.variant, compute_dtype=dtype)
        progress.update(1)
    return deltas


def _run(patcher: Any, sampler: _TrainSampler, examples: Sequence[Example], settings: TrainingSettings) -> None:
    clone = patcher.clone()
    dtype = DTYPES[settings.training_dtype]
    if dtype != compute_dtype(patcher):
        clone.set_model_compute_dtype(dtype)
    guider = comfy.samplers.CFGGuider(clone)
    guider.inner_set_conds({"positive": [example.conditioning for example in examples]})
    latent = examples[0].latent
    batch = latent.expand(settings.batch_size, *latent.shape[1:])  # the host reserves memory for this shape
    guider.sample(torch.zeros_like(batch), batch, sampler, torch.zeros(1), seed=settings.seed)


class _TrainSampler(comfy.samplers.Sampler):
    """Stands where the host expects a sampler: the model is loaded, the conditioning is on its device."""

    def __init__(
        self,
        trainer: Trainer,
        targets: dict[str, Target],
        examples: Sequence[Example],
        settings: TrainingSettings,
    ) -> None:
        self.trainer, self.targets, self.examples, self.settings = trainer, targets, examples, settings
        self.losses: list[float] = []

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Run all training steps; returns the latent that came in, as the host expects one."""
        model = model_wrap.inner_model
        branches = {path: (self.targets[path], delta) for path, delta in self.trainer.deltas.items()}
        with (
            trainable_context(),
            aliased_parameters(model),
            checkpointed_blocks(model.diffusion_model, enabled=self.settings.gradient_checkpointing),
            attached(model, branches),
            protected_inputs(model, {target.module for target in self.targets.values()}) as decide_on_copies,
        ):
            encoded = self._encode(model, model_wrap.conds["positive"], noise.device)
            options = extra_args["model_options"].get("transformer_options", {})
            decide_on_copies(self._losses(model, encoded, options))
            self._train(self._losses(model, encoded, options))
        return noise

    def _encode(
        self, model: Any, conditioning: list[dict[str, Any]], device: torch.device
    ) -> list[tuple[Tensor, dict[str, Any]]]:
        """(latent in the model's scale, what the model wants for its caption) of every example."""
        latents = [model.process_latent_in(example.latent.to(device, torch.float32)) for example in self.examples]
        return [
            (latent, encode_conditioning(model, entry, latent, self.settings.seed))
            for entry, latent in zip(conditioning, latents, strict=True)
        ]

    def _losses(
        self, model: Any, encoded: Sequence[tuple[Tensor, dict[str, Any]]], options: dict[str, Any]
    ) -> Callable[[], Tensor]:
        """Gives the loss of the next batch at every call, for a seed always the same ones."""
        latents, conds = zip(*encoded, strict=True)
        device = latents[0].device
        generator = torch.Generator().manual_seed(self.settings.seed)
        order = BatchOrder([latent.shape for latent in latents], self.settings.batch_size, generator)

        def compute_loss() -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            indices = order.next()
            latent = torch.cat([latents[index] for index in indices])
            sigma = sample_sigmas(model.model_sampling, len(indices), generator).to(device)
            noise = torch.randn(latent.shape, generator=generator).to(device)
            return objective_loss(model, latent, [conds[index] for index in indices], sigma, noise, options)

        return compute_loss

    def _train(self, compute_loss: Callable[[], Tensor]) -> None:
        progress = comfy.utils.ProgressBar(self.settings.steps)
        for _ in range(self.settings.steps):
            self.losses.append(self.trainer.step([compute_loss] * self.settings.grad_accumulation))
            progress.update(1)


def _metadata(
    patcher: Any, targets: dict[str, Target], losses: Sequence[float], settings: TrainingSettings
) -> dict[str, str]:
    return describe(
        base_model=base_name(patcher),
        architecture=base_name(patcher),
        rank=settings.rank,
        alpha=settings.alpha or float(settings.rank),
        variant=settings.variant,
        training={**asdict(settings), **loss_ends(losses)},
        base_fingerprint=fingerprint(patcher, targets),
    )


def check_settings(settings: TrainingSettings) -> None:
    """Raise `TrainingError` for a number that cannot work, before anything is loaded."""
    for name in ("steps", "rank", "batch_size", "grad_accumulation"):
        if getattr(settings, name) < 1:
            raise TrainingError(f"{name}: expected at least 1, found {getattr(settings, name)}.")
