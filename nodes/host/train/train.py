"""Train an adapter on a host model: decompose its layers, or take up a checkpoint, then run the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import comfy.model_management
import comfy.samplers
import comfy.utils

from ....qrlora_core import (
    QRLoRA,
    Term,
    Trainer,
    TrainingState,
    load_training,
    select,
)
from ....qrlora_core.train import distributed
from ..advice import advised
from ..files.checkpoints import (
    Run,
    checkpoint_name,
    checkpoint_path,
    is_checkpoint,
    latest_checkpoint,
    new_run,
    resumed_run,
)
from ..model.bases import KeptBases, basis_store
from ..model.host_types import Patcher
from ..model.key_map import KeyMap, Target
from ..model.tried import untried
from ..text import paths_as_text
from .dataset import TrainingSet
from .estimate import FEWEST_STEPS, DryRun, estimated
from .graph.modules import trainable_context
from .guided import computing_in, run_loop, try_out
from .judge.best import best_of_record
from .judge.checks import check_judged, judged_notes
from .judge.judging import Judging, judging_of
from .latents import as_sampled
from .layers import kept_factors, stand_in, trainables
from .loop import Loop
from .memory import what_to_lower
from .monitor import Draw, Monitor
from .record import TrainingRecord
from .report import TrainingResult
from .role.notes import role_notes
from .role.vary import require_variable, varied
from .samples import NO_MARK
from .seen import seen_pictures
from .settings import DTYPES, NO_RESUME, RESUME_LATEST, RunSettings, TrainingSettings, check_settings
from .status import RunningTrainings, TrainingStatus


@dataclass(frozen=True)
class View:
    """Where a training shows itself: a node of a workflow, what puts text on it, and what draws its preview.

    Attributes:
        trainings: among which it can be seen and stopped while it runs.
    """

    node_id: str = ""
    show: Callable[[str], None] = lambda text: None
    draw: Draw | None = None
    workflow_id: str | None = None
    trainings: RunningTrainings = field(default_factory=RunningTrainings)


def train_adapter(
    patcher: Patcher,
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
    check_judged(run.samples, settings.steps)
    preset = None if run.preset is None else run.preset.as_status()
    with (
        view.trainings.running(view.node_id, settings.steps, view.workflow_id, preset) as status,
        trainable_context(),
    ):
        source = _resume_source(run)
        folder = _run_folder(run, source)
        resumed = None if source is None else load_training(source)
        targets, data = _choose(patcher, settings), as_sampled(patcher, data)
        told = [*(run.preset.notes if run.preset is not None else ()), *role_notes(data, settings.role)]
        if settings.role is not None:
            require_variable(data, settings.role, run.samples.vae)
            data = varied(data, settings.role, run.samples.vae, settings.seed)
        record = TrainingRecord(patcher, targets, data, settings, run.preset)
        if resumed is not None:
            record.require_same(resumed)
        told += judged_notes(run.samples, keeps=folder.writes)
        judging = _judging(patcher, data, settings, run, told)
        shows = view.node_id and not distributed.rank()
        seen = list(seen_pictures(data.examples, patcher.model, run.samples.vae, told.append)) if shows else []
        computing = computing_in(patcher, DTYPES[settings.training_dtype])
        told += try_out(computing, data, settings, run)
        if resumed is None and settings.steps >= FEWEST_STEPS:
            told += _foresee(computing, targets, data, settings, status)
        _tell(view, status, told)
        with basis_store() as store:
            bases = KeptBases(store)
            deltas = trainables(patcher, targets, settings, partial(kept_factors, patcher, settings, resumed, bases))
        trainer = Trainer(deltas, settings.whole_optimizer(), steps=settings.steps)
        monitor = _monitor(patcher, status, view, folder)
        for note in told:
            monitor.warn(note)
        status.judge = judging.name
        if source is not None and resumed is not None:
            with advised():
                trainer.restore(resumed.tensors, resumed.record["trainer"])
            monitor.resume(resumed.tensors["losses"].tolist(), checkpoint_name(source))
            _resume_best(monitor, status, run, folder, resumed)
        monitor.seen(seen)
        loop = Loop(
            trainer=trainer, targets=targets, data=data, objective=settings.whole_objective(), samples=run.samples,
            steps=settings.steps, batch_size=settings.batch_size, seed=settings.seed,
            gradient_checkpointing=settings.gradient_checkpointing, checkpoint_every=run.checkpoint_every,
            lower=what_to_lower(settings), run=folder, monitor=monitor, status=status, resumed=resumed,
            snapshot=lambda losses: record.state(trainer, losses), judging=judging,
        )  # fmt: skip
        try:
            run_loop(computing, loop)
        finally:
            monitor.close()
        adapter = trainer.adapter(record.metadata(monitor.losses))
        return _result(loop, adapter, settings, bases, untried(patcher))


def _judging(
    patcher: Patcher, data: TrainingSet, settings: TrainingSettings, run: RunSettings, told: list[str]
) -> Judging:
    """The judge of the samples; one that cannot see is no reason not to train, and is told."""
    role = None if settings.role is None else settings.role.role
    try:
        return judging_of(run.samples, data.examples, patcher.model, role)
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:  # whatever a VAE or an image encoder raises
        told.append(f"samples are not judged: {error}; the training goes on.")
        return Judging()


def _resume_best(
    monitor: Monitor, status: TrainingStatus, run: RunSettings, folder: Run, resumed: TrainingState
) -> None:
    """Know again which step was best so far, or tell that it is not known."""
    if run.samples.mark_best == NO_MARK:
        return
    kept = resumed.record.get("best")
    status.best = best_of_record(kept, run.samples.mark_best, str(status.judge), is_checkpoint)
    if status.best is None:
        monitor.warn(f"best by {run.samples.mark_best} counts from step {status.step}, where this training goes on")
    elif status.best["checkpoint"] == folder.name(status.best["step"]):
        folder.best = status.best["step"]


def _result(
    loop: Loop, adapter: QRLoRA, settings: TrainingSettings, bases: KeptBases, notes: Sequence[str]
) -> TrainingResult:
    adapter.require_finite()
    trainer, monitor = loop.trainer, loop.monitor
    return TrainingResult(
        adapter,
        monitor.losses,
        narrow_layers=sum(delta.rank < settings.rank for delta in trainer.deltas.values()),
        status=loop.status,
        pictures=monitor.pictures,
        stopped=trainer.updates < settings.steps,
        checkpoint=loop.status.checkpoint,
        bases=bases.told(),
        notes=(*monitor.warnings, *_never_trained(adapter), *notes),
    )


def _never_trained(adapter: QRLoRA) -> list[str]:
    """A note on layers without any gradient: the last block of some models throws a part of its output away."""
    idle = [path for path, layer in adapter.layers.items() if not _learned(layer.terms[0])]
    if not idle:
        return []
    share = f"{len(idle)} of {len(adapter.layers)} layers"
    return [f"{share} learned nothing, as the model does not use what they give: {paths_as_text(idle)}"]


def _learned(term: Term) -> bool:
    """Of either factor the one that began as zero is zero no more."""
    return bool(term.q.any()) and bool(term.delta_r.any())


def _resume_source(run: RunSettings) -> Path | None:
    if run.resume_from == NO_RESUME:
        return None
    return latest_checkpoint(run.run_name) if run.resume_from == RESUME_LATEST else checkpoint_path(run.resume_from)


def _run_folder(run: RunSettings, source: Path | None) -> Run:
    if source is None:
        return new_run(run.run_name, run.keep_checkpoints)
    return resumed_run(source, run.run_name, run.keep_checkpoints)


def _choose(patcher: Patcher, settings: TrainingSettings) -> dict[str, Target]:
    available = KeyMap(patcher.model).linear(patcher.model)
    return {path: available[path] for path in select(available, settings.targets)}


def _foresee(
    patcher: Patcher,
    targets: Mapping[str, Target],
    data: TrainingSet,
    settings: TrainingSettings,
    status: TrainingStatus,
) -> list[str]:
    """Put the estimate into the status; returns what the user should read of it."""
    stand_ins = partial(trainables, patcher, targets, settings, partial(stand_in, settings))
    found, notes = estimated(DryRun(patcher, targets, data, settings, stand_ins, partial(run_loop, patcher)))
    status.estimate = None if found is None else found.as_status()
    return notes


def _tell(view: View, status: TrainingStatus, told: Sequence[str]) -> None:
    """What is known before the part that takes minutes, if anything is."""
    if told:
        status.warnings = list(told)
        view.trainings.send(status)
        view.show(".\n".join(told))


def _monitor(patcher: Patcher, status: TrainingStatus, view: View, folder: Run) -> Monitor:
    logs = folder.folder / "tensorboard" if folder.writes and not distributed.rank() else None
    return Monitor(
        status,
        show=view.show,
        send=view.trainings.send,
        draw=view.draw,
        device=patcher.load_device,
        logs=logs,
    )
