"""Train an adapter on a host model: decompose its layers, or take up a checkpoint, then run the loop."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch

from ...qrlora_core import (
    Factors,
    ObjectiveSettings,
    OptimizerSettings,
    QRLoRA,
    TrainableDelta,
    Trainer,
    TrainingError,
    TrainingState,
    decompose,
    distributed,
    load_training,
    select,
)
from ...qrlora_core.checkpoint import METADATA_PREFIX, describe
from .autograd import trainable_context
from .control import Report, current_control
from .dataset import TrainingSet
from .key_map import KeyMap, Target
from .monitor import Draw, Monitor
from .report import loss_ends, paths_as_text
from .runs import Run, checkpoint_name, checkpoint_path, latest_checkpoint, new_run, resumed_run
from .sample_pictures import SampleSettings
from .train_loop import Loop, TrainSampler
from .weights import base_name, base_weight, fingerprint

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
NO_RESUME, RESUME_LATEST = "none", "latest"


@dataclass(frozen=True)
class TrainingSettings:
    """What the Train node asks for, as far as the adapter depends on it.

    ``alpha`` 0 means the rank; ``targets`` as in `qrlora_core.select`. ``optimizer`` is taken with the learning
    rate and the accumulation that stand here.
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

    def whole_optimizer(self) -> OptimizerSettings:
        """The optimizer with the rate and the accumulation of the node."""
        return replace(self.optimizer, learning_rate=self.learning_rate, grad_accumulation=self.grad_accumulation)


@dataclass(frozen=True)
class RunSettings:
    """What the adapter does not depend on: checkpoints and samples.

    Attributes:
        run_name: of the folder of checkpoints. keep_checkpoints: 0 writes none.
        checkpoint_every: updates between two; 0 writes at the end alone, however it comes.
        resume_from: a name as `runs.checkpoint_names` gives it, `NO_RESUME` or `RESUME_LATEST`.
    """

    run_name: str = "adapter"
    checkpoint_every: int = 0
    keep_checkpoints: int = 0
    resume_from: str = NO_RESUME
    samples: SampleSettings = field(default_factory=SampleSettings)


@dataclass(frozen=True)
class View:
    """Where a training shows itself: the node, what puts text on it, and what draws its preview."""

    node_id: str = ""
    show: Callable[[str], None] = lambda text: None
    draw: Draw | None = None


@dataclass(frozen=True)
class TrainingResult:
    """What came out.

    Attributes:
        losses: of every update. pictures: (updates, picture) of every sample.
        stopped: whether a user ended it early. checkpoint: the last one's name.
        notes: what the user should read.
    """

    adapter: QRLoRA
    losses: list[float]
    narrow_layers: int
    pictures: list[tuple[int, Any]] = field(default_factory=list)
    stopped: bool = False
    checkpoint: str | None = None
    notes: Sequence[str] = ()


def train_adapter(
    patcher: Any,
    data: TrainingSet,
    settings: TrainingSettings,
    run: RunSettings | None = None,
    view: View | None = None,
) -> TrainingResult:
    """Train one adapter; the model is bit-identical afterwards, also after an error or an interrupt.

    Raises:
        TrainingError, TargetError, DecompositionError, AdapterFileError: see the message, which says what was kept.
    """
    run, view = run or RunSettings(), view or View()
    check_settings(settings)
    with current_control().running(view.node_id) as report, trainable_context():
        source = _resume_source(run)
        folder = _run_folder(run, source)
        resumed = None if source is None else load_training(source)
        targets = _choose(patcher, settings)
        described = _Description(patcher, targets, data, settings)
        if resumed is not None:
            described.require_same(resumed)
        deltas = _deltas(patcher, targets, settings, resumed)
        trainer = Trainer(deltas, settings.whole_optimizer(), steps=settings.steps)
        monitor = _monitor(patcher, report, view, folder, settings.steps)
        if source is not None and resumed is not None:
            trainer.restore(resumed.tensors, resumed.record["trainer"])
            monitor.resume(resumed.tensors["losses"].tolist(), checkpoint_name(source))
        loop = Loop(
            trainer=trainer, targets=targets, data=data, objective=settings.objective, samples=run.samples,
            steps=settings.steps, batch_size=settings.batch_size, seed=settings.seed,
            gradient_checkpointing=settings.gradient_checkpointing, checkpoint_every=run.checkpoint_every,
            run=folder, monitor=monitor, report=report, resumed=resumed,
            snapshot=lambda losses: described.state(trainer, losses),
        )  # fmt: skip
        try:
            run_loop(patcher, loop, DTYPES[settings.training_dtype])
        finally:
            monitor.close()
        return _result(loop, trainer.adapter(described.metadata(monitor.losses)), settings)


def _result(loop: Loop, adapter: QRLoRA, settings: TrainingSettings) -> TrainingResult:
    adapter.require_finite()
    trainer, monitor = loop.trainer, loop.monitor
    return TrainingResult(
        adapter,
        monitor.losses,
        narrow_layers=sum(delta.factors.rank < settings.rank for delta in trainer.deltas.values()),
        pictures=monitor.pictures,
        stopped=trainer.updates < settings.steps,
        checkpoint=loop.report.checkpoint,
        notes=(*monitor.warnings, *_never_trained(adapter)),
    )


def _never_trained(adapter: QRLoRA) -> list[str]:
    """A note on layers without any gradient: the last block of some models throws a part of its output away."""
    idle = [path for path, layer in adapter.layers.items() if not any(term.delta_r.any() for term in layer.terms[:1])]
    if not idle:
        return []
    share = f"{len(idle)} of {len(adapter.layers)} layers"
    return [f"{share} learned nothing, as the model does not use what they give: {paths_as_text(idle)}"]


def check_settings(settings: TrainingSettings) -> None:
    """Raise `TrainingError` for a number that cannot work, before anything is loaded."""
    for name in ("steps", "rank", "batch_size", "grad_accumulation"):
        if getattr(settings, name) < 1:
            raise TrainingError(f"{name}: expected at least 1, found {getattr(settings, name)}.")
    settings.whole_optimizer()  # checks itself


def _resume_source(run: RunSettings) -> Path | None:
    if run.resume_from == NO_RESUME:
        return None
    return latest_checkpoint(run.run_name) if run.resume_from == RESUME_LATEST else checkpoint_path(run.resume_from)


def _run_folder(run: RunSettings, source: Path | None) -> Run:
    if source is None:
        return new_run(run.run_name, run.keep_checkpoints)
    return resumed_run(source, run.run_name, run.keep_checkpoints)


def _choose(patcher: Any, settings: TrainingSettings) -> dict[str, Target]:
    available = KeyMap(patcher.model).linear(patcher.model)
    return {path: available[path] for path in select(available, settings.targets)}


def _deltas(
    patcher: Any, targets: Mapping[str, Target], settings: TrainingSettings, resumed: TrainingState | None
) -> dict[str, TrainableDelta]:
    """What is trained, on the device; Q and R stay on the CPU, for the adapter, but for what the products need."""
    device, dtype = patcher.load_device, DTYPES[settings.training_dtype]
    progress = comfy.utils.ProgressBar(len(targets))
    deltas = {}
    for path, target in targets.items():
        comfy.model_management.throw_exception_if_processing_interrupted()
        if resumed is None:
            factors = _decompose(patcher, path, target, settings)
        else:
            term = resumed.adapter.layers[path].terms[0]
            assert term.base_r is not None  # every checkpoint has it
            factors = Factors(term.q, term.base_r, term.rank, term.alpha, math.nan)
        deltas[path] = TrainableDelta(factors, variant=settings.variant, compute_dtype=dtype, device=device)
        progress.update(1)
    return deltas


def _decompose(patcher: Any, path: str, target: Target, settings: TrainingSettings) -> Factors:
    rank = min(settings.rank, *target.shape)  # a layer narrower than the rank keeps the scaling at its full rank
    scaling = (settings.alpha or settings.rank) / settings.rank
    weight = base_weight(patcher, target).to(patcher.load_device)
    factors = decompose(weight, rank, alpha=scaling * rank, layer=path)
    return replace(factors, q=factors.q.cpu(), base_r=factors.base_r.cpu())


def _monitor(patcher: Any, report: Report, view: View, folder: Run, steps: int) -> Monitor:
    report.steps = steps
    logs = folder.folder / "tensorboard" if folder.writes and not distributed.rank() else None
    return Monitor(report, show=view.show, draw=view.draw, device=patcher.load_device, logs=logs)


def run_loop(patcher: Any, loop: Loop, dtype: torch.dtype) -> None:
    """Run the loop as a sampler in the host's guider, which loads the model and processes the captions."""
    clone = patcher.clone()
    # Always: what the model computes in now may be the doing of another clone, undone when this one is loaded.
    clone.set_model_compute_dtype(dtype)
    guider = comfy.samplers.CFGGuider(clone)
    captions = _captions(loop.data)
    guider.inner_set_conds({"positive": captions})
    latent = loop.data.examples[0].latent
    batch = latent.expand(loop.batch_size, *latent.shape[1:])  # the host reserves memory for this shape
    guider.sample(torch.zeros_like(batch), batch, TrainSampler(loop, captions), torch.zeros(1), seed=loop.seed)


def _captions(data: TrainingSet) -> list[Any]:
    """Every conditioning entry once, however many pictures share it."""
    entries = [caption for example in (*data.examples, *data.prior) for caption in example.captions]
    if data.empty_caption is not None:
        entries.append(data.empty_caption)
    return list({id(entry): entry for entry in entries}.values())


class _Description:
    """What a training is: its settings, data and base, for the file and for going on from one."""

    def __init__(
        self, patcher: Any, targets: Mapping[str, Target], data: TrainingSet, settings: TrainingSettings
    ) -> None:
        self._settings, self._images = settings, len(data.examples)
        self._base, self._fingerprint = base_name(patcher), fingerprint(patcher, targets)
        self._record = {
            **_flat(asdict(settings)), "processes": distributed.world_size(),
            "caption_dropout": data.caption_dropout, "prior_weight": data.prior_weight,
            "repeats": [example.repeats for example in data.examples],
            "noise_levels_of_model": _noise_levels(patcher), "patches_on_model": _patches(patcher),
        }  # fmt: skip
        self._data = data.fingerprint()
        self._start = time.monotonic()

    def metadata(self, losses: Sequence[float]) -> dict[str, str]:
        """Of an adapter after so many updates."""
        settings = self._settings
        figures = {
            "images": self._images, "steps_done": len(losses), "seconds": round(time.monotonic() - self._start, 1),
            **loss_ends(losses),
        }  # fmt: skip
        return describe(
            base_model=self._base,
            architecture=self._base,
            rank=settings.rank,
            alpha=settings.alpha or float(settings.rank),
            variant=settings.variant,
            training={**_flat(asdict(settings)), **figures},
            base_fingerprint=self._fingerprint,
        )

    def state(self, trainer: Trainer, losses: Sequence[float]) -> TrainingState:
        """For a checkpoint, but for the random state."""
        tensors, record = trainer.state()
        tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        return TrainingState(
            trainer.adapter(self.metadata(losses)),
            tensors,
            {"trainer": record, "settings": self._record, "data": self._data},
        )

    def require_same(self, resumed: TrainingState) -> None:
        """Refuse to go on from a checkpoint of another training.

        Raises:
            TrainingError: names every difference.
        """
        differences = self._changed_settings(resumed.record["settings"], resumed.record["trainer"]["updates"])
        if resumed.record["data"] != self._data:
            differences.append(
                "the pictures, captions or masks are others (a GPU may encode the same ones a little differently; "
                "Save Training Dataset keeps them as they are)"
            )
        base = json.loads(resumed.adapter.metadata[f"{METADATA_PREFIX}base_fingerprint"])
        others = sum(base.get(path) != digest for path, digest in self._fingerprint.items())
        if others or len(base) != len(self._fingerprint):
            differences.append(f"the base model is another in {others} of {len(self._fingerprint)} layers")
        if differences:
            raise TrainingError(
                f"resume_from {resumed.adapter.name}: this is another training: {'; '.join(differences)}. Set it as "
                "it was, or set resume_from to none to start anew."
            )

    def _changed_settings(self, saved: Mapping[str, Any], updates: int) -> list[str]:
        free = {"gradient_checkpointing"}
        # Other steps are no change while the learning rate does not depend on how many there are.
        if self._settings.optimizer.schedule == "constant" and self._settings.steps >= updates:
            free.add("steps")
        return [
            f"{name} was {saved.get(name)} and is {value}"
            for name, value in self._record.items()
            if name not in free and saved.get(name) != value
        ]


def _noise_levels(patcher: Any) -> list[float]:
    """What another node's shift would change."""
    sampling = patcher.get_model_object("model_sampling")
    return [round(float(sampling.percent_to_sigma(percent)), 6) for percent in (0.25, 0.5, 0.75)]


def _patches(patcher: Any) -> str:
    """Which weights other nodes changed, and how strongly: LoRA loaders before the training."""
    strengths = {str(key): [patch[0] for patch in patches] for key, patches in patcher.patches.items()}
    text = json.dumps(strengths, sort_keys=True, default=str)
    return f"{len(strengths)} weights, {hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as one level; the node's own values win over the defaults inside ``optimizer``."""
    flat: dict[str, Any] = {}
    for value in settings.values():
        flat |= value if isinstance(value, dict) else {}
    return flat | {name: value for name, value in settings.items() if not isinstance(value, dict)}
