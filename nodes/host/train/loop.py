"""The loop of a training, where the host expects a sampler: steps, samples, checkpoints, and every way to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ....qrlora_core import ObjectiveSettings, QRLoRAError, Trainable, Trainer, TrainingError, TrainingState
from ....qrlora_core.train import distributed
from ..advice import advised
from ..files.checkpoints import Run
from ..model.host_types import Caption, Guider
from ..model.kept import nothing_kept
from ..model.key_map import Target
from .batches import Batch, BatchSampler
from .dataset import Example, TrainingSet
from .graph.checkpointing import ActivationCache, checkpointed_blocks
from .graph.differentiable_attention import with_gradient
from .graph.differentiable_ops import differentiable_operators
from .graph.frozen_linear import attached
from .graph.inplace_guard import InplaceGuard, protected_inputs
from .graph.modules import aliased_parameters, trainable_context
from .graph.training_mode import training_mode
from .judge.best import better
from .judge.judging import Judging
from .judge.scores import Scores
from .memory import OUT_OF_MEMORY, MemoryShortageError, shortage
from .monitor import Monitor
from .objective import check_noise, encode_conditioning, latent_in, objective_loss
from .samples import OWN, SampleSettings, SamplingMode, draw_sample
from .shown import Picture
from .status import TrainingStatus

_INTERRUPTED = comfy.model_management.InterruptProcessingException
_KEPT_SHARE = 0.4


@dataclass
class Loop:
    """Everything that a training needs once its layers are decomposed.

    Attributes:
        steps: updates in all. checkpoint_every: updates between two checkpoints; 0 writes at the end alone.
        lower: what to lower where memory does not suffice.
        resumed: the state to go on from, or None.
        snapshot: makes the state for a checkpoint of the losses so far.
        judging: what is seen in the samples.
    """

    trainer: Trainer
    targets: dict[str, Target]
    data: TrainingSet
    objective: ObjectiveSettings
    samples: SampleSettings
    steps: int
    batch_size: int
    seed: int
    gradient_checkpointing: bool
    checkpoint_every: int
    lower: Sequence[str]
    run: Run
    monitor: Monitor
    status: TrainingStatus
    resumed: TrainingState | None
    snapshot: Callable[[list[float]], TrainingState]
    judging: Judging = field(default_factory=Judging)

    def branches(self) -> dict[str, tuple[Target, Trainable]]:
        """Module path to the target and what is trained there."""
        return {path: (self.targets[path], delta) for path, delta in self.trainer.deltas.items()}


class TrainSampler(comfy.samplers.Sampler):
    """Stands where the host expects a sampler: the model is loaded, the conditioning is processed.

    Args:
        loop: what to train.
        captions: the conditioning entries in the order in which the guider has them, the empty one last.
    """

    def __init__(self, loop: Loop, captions: list[Any]) -> None:
        self._loop, self._captions = loop, captions

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
        model, loop = model_wrap.inner_model, self._loop
        guard, outputs = InplaceGuard(), ActivationCache(_budget(model_wrap.model_patcher.load_device))
        with (
            trainable_context(),
            nothing_kept(model),
            training_mode() as inference,
            differentiable_operators(),
            aliased_parameters(model),
            checkpointed_blocks(model.diffusion_model, guard, outputs, enabled=loop.gradient_checkpointing),
            attached(model, loop.branches(), outputs) as ran,
            protected_inputs(model, {t.module for t in loop.targets.values()}, guard),
        ):
            conds = {id(entry): cond for entry, cond in zip(self._captions, model_wrap.conds["positive"], strict=True)}
            running = _Running(loop, model_wrap, conds, extra_args, outputs, SamplingMode(inference, ran))
            _end_well(running, lambda: guard.decide(model.diffusion_model, running.trial))
        return noise


class _Running:
    """A training that runs."""

    def __init__(
        self,
        loop: Loop,
        guider: Guider,
        conds: dict[int, Any],
        options: dict[str, Any],
        outputs: ActivationCache,
        sampling: SamplingMode,
    ) -> None:
        self.loop, self._guider, self._conds, self._options = loop, guider, conds, options
        self._outputs, self._sampling = outputs, sampling
        self._model = guider.inner_model
        self._device = guider.model_patcher.load_device
        check_noise(self._model.model_sampling)
        self._sampler = self._new_sampler()
        self._written = loop.trainer.updates
        if loop.resumed is not None:
            record = loop.resumed.record
            self._sampler.restore(loop.resumed.tensors["generator"], record["waiting"])
        self._before = self._sampler.state()

    def _new_sampler(self) -> BatchSampler:
        loop = self.loop
        objective, sampling = loop.objective, self._model.model_sampling
        return BatchSampler(loop.data, loop.batch_size, loop.seed, objective, sampling, self._latent_in)

    def _latent_in(self, example: Example) -> Tensor:
        return latent_in(self._model, example.latent, example.parts)

    def trial(self) -> None:
        """One pass on its own random numbers, for `InplaceGuard.decide`."""
        self._loss(self._new_sampler().next())

    def train(self) -> None:
        """All steps, until the last or until it is asked to stop."""
        loop = self.loop
        if loop.trainer.updates < loop.steps:
            self._draw_bases()
        while loop.trainer.updates < loop.steps and not (loop.status.stopping and loop.trainer.updates):
            start = time.monotonic()
            loss = self._step()
            updates, rate = loop.trainer.updates, loop.trainer.optimizer.param_groups[0]["lr"]
            loop.monitor.step(updates, loss, rate, time.monotonic() - start)
            if loop.checkpoint_every and updates % loop.checkpoint_every == 0:
                self.keep()
            if loop.samples.every and updates % loop.samples.every == 0:
                self._sample(updates)

    def _step(self) -> float:
        """One update. After an error all is as it was before, random numbers included."""
        loss = None
        try:
            loss = self._try_step()
        except OUT_OF_MEMORY:
            if not self._outputs.active:
                raise
        if loss is None:  # out here the error is gone, and with it all that its traceback held
            # What was kept to save time may have been too much; without it a step is the same, but slower.
            self._outputs.give_up()
            comfy.model_management.soft_empty_cache()
            loss = self._try_step()
        self._before = self._sampler.state()
        return loss

    def _try_step(self) -> float:
        try:
            return self.loop.trainer.step([self._next_loss] * self.loop.trainer.settings.grad_accumulation)
        except BaseException:
            self._sampler.restore(*self._before)
            raise

    def _next_loss(self) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._outputs.begin()
        return self._loss(self._sampler.next())

    def _loss(self, batches: list[Batch]) -> Tensor:
        """Of the pictures, plus that of the class images times its weight."""
        own, *prior = [self._batch_loss(batch) for batch in batches]
        return own + self.loop.data.prior_weight * prior[0] if prior else own

    def _batch_loss(self, batch: Batch) -> Tensor:
        latents = torch.cat([example.latent for example in batch.examples])
        latent = latent_in(self._model, latents.to(self._device, torch.float32), batch.parts)
        conds = [
            encode_conditioning(self._model, self._conds[id(caption)], one, self.loop.seed, batch.parts)
            for caption, one in zip(batch.captions, latent.split(1), strict=True)
        ]
        options = with_gradient(self._options["model_options"].get("transformer_options", {}))
        sigma, noise = batch.sigma.to(self._device), batch.noise.to(self._device)
        return objective_loss(
            self._model, latent, conds, sigma, noise, options, self.loop.objective, batch.mask(latent), batch.parts
        )

    def keep(self, *, anew: bool = False) -> str | None:
        """Write a checkpoint of the last update, if there is none yet or if anew; returns its name.

        A checkpoint that cannot be written ends no training: the user reads of it, and the next one is tried.
        """
        loop = self.loop
        if not loop.run.writes or distributed.rank() or loop.trainer.updates == 0:
            return None
        if not anew and self._written == loop.trainer.updates and loop.status.checkpoint is not None:
            return loop.status.checkpoint
        state = loop.snapshot(loop.monitor.losses)
        generator, waiting = self._before
        tensors = {**state.tensors, "generator": generator}
        record = {**state.record, "waiting": waiting, "best": loop.status.best}
        try:
            loop.status.checkpoint = loop.run.write(TrainingState(state.adapter, tensors, record), loop.trainer.updates)
        except QRLoRAError as error:
            loop.monitor.warn(f"warning: no checkpoint at step {loop.trainer.updates}: {error}")
            return None
        self._written = loop.trainer.updates
        return loop.status.checkpoint

    def _draw_bases(self) -> None:
        """What the base draws by itself, with which the judged samples are compared."""
        loop = self.loop
        if loop.samples.captions and not distributed.rank():
            with loop.trainer.zeroed():
                loop.judging.bases = self._drawn(loop.samples.captions)
            loop.monitor.samples(0, _pixels(loop.judging.bases))

    def _sample(self, updates: int) -> None:
        loop = self.loop
        if distributed.rank():
            return
        with loop.trainer.averaged():
            drawn = self._drawn({OWN: loop.data.examples[0].captions[0], **loop.samples.captions})
        scores = self._scores(drawn)
        self._mark(updates, scores)
        if drawn:
            loop.monitor.samples(updates, _pixels(drawn), scores)

    def _drawn(self, captions: Mapping[str, Caption]) -> dict[str, Picture]:
        """A sample of each caption, as far as they can be drawn."""
        loop, first, drawn = self.loop, self.loop.data.examples[0], dict[str, Picture]()
        empty = loop.data.empty_caption
        negative = None if empty is None else self._conds[id(empty)]
        shape = self._latent_in(first).shape
        try:
            with self._sampling.mode(self.trial):
                for kind, caption in captions.items():
                    positive, options = self._conds[id(caption)], dict(self._options)
                    picture = draw_sample(self._guider, loop.samples, positive, negative, shape, options, first.parts)
                    if picture is None:
                        loop.monitor.warn("no samples: this model's latents have no preview; connect a VAE to vae.")
                        break
                    drawn[kind] = picture
        except OUT_OF_MEMORY:  # no reason to end a training
            loop.monitor.warn("no samples: out of memory while drawing one; the training goes on.")
        return drawn

    def _scores(self, drawn: Mapping[str, Picture]) -> Scores:
        """What the judge sees in samples; nothing where it cannot."""
        judging = self.loop.judging
        if judging.name is None or not drawn:
            return Scores()
        try:
            return judging.scores(drawn)
        except _INTERRUPTED:
            raise
        except Exception as error:  # whatever an image encoder raises is no reason to end a training
            self.loop.monitor.warn(f"samples are not judged: {error}; the training goes on.")
            return Scores()

    def _mark(self, updates: int, scores: Scores) -> None:
        """Where this step does best so far, keep its checkpoint."""
        loop = self.loop
        best = better(loop.status.best, loop.samples.mark_best, str(loop.judging.name), updates, scores)
        if best is None:
            return
        loop.status.best = asdict(best) | {"checkpoint": loop.run.name(updates)}
        loop.run.best = updates
        loop.status.best["checkpoint"] = self.keep(anew=True)


def _pixels(pictures: Mapping[str, Picture]) -> dict[str, Tensor]:
    return {kind: picture.pixels for kind, picture in pictures.items()}


def _budget(device: torch.device) -> float:
    """Bytes that blocks which run twice may keep: a share of what is free, the rest being for everything else."""
    free: int = comfy.model_management.get_free_memory(device)
    return _KEPT_SHARE * free


def _end_well(running: _Running, prepare: Callable[[], None]) -> None:
    """Prepare and train; whatever ends it, what was trained is on the disk, and the user reads where."""
    loop = running.loop
    try:
        with advised():
            prepare()
            running.train()
    except _INTERRUPTED:
        loop.monitor.warn(f"interrupted at step {loop.trainer.updates}. {_where(loop, running.keep())}")
        loop.monitor.tell()
        raise
    except OUT_OF_MEMORY as error:
        raise MemoryShortageError(f"{shortage(loop.data, loop.lower)} {_where(loop, running.keep())}") from error
    except QRLoRAError as error:
        raise TrainingError(
            f"stopped in step {loop.trainer.updates + 1}: {error} {_where(loop, running.keep())}"
        ) from error
    except BaseException:
        loop.monitor.warn(f"stopped at step {loop.trainer.updates}. {_where(loop, running.keep())}")
        loop.monitor.tell()
        raise
    running.keep()


def _where(loop: Loop, kept: str | None) -> str:
    if kept is not None:
        return f"Kept: {kept}; set resume_from to it to go on, or load it in Load QR-LoRA."
    if not loop.trainer.updates:
        return "Nothing was trained yet."
    last = loop.status.checkpoint
    return "Nothing was kept." if last is None else f"The last checkpoint is {last}; set resume_from to it to go on."
