"""What a training will take, before its layers are decomposed: dry steps with stand-ins for what is trained.

The steps are those of the loop itself, on the largest picture, with a batch, a graph, an optimizer and random numbers
of their own; nothing of them is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import comfy.model_management
import torch
from torch import Tensor

from ....qrlora_core import Trainable, Trainer
from ..files.checkpoints import Run
from ..model.host_types import Patcher
from ..model.key_map import Target
from .dataset import Example, TrainingSet
from .loop import Loop
from .memory import OUT_OF_MEMORY, LiveTensors, MemoryShortageError, shortage, what_to_lower
from .monitor import Monitor, duration
from .samples import SampleSettings
from .settings import TrainingSettings
from .status import TrainingStatus

FEWEST_STEPS = 20  # below, an estimate costs more than it tells
_TIMED = 2  # steps, of which the first warms up
_SHOWN_AS_GB = 1e8
_INTERRUPTED = comfy.model_management.InterruptProcessingException


@dataclass(frozen=True)
class Estimate:
    """What a training will take, but for samples and checkpoints.

    Attributes:
        seconds: of all steps. memory: bytes at the peak, the model among them.
        available: bytes that the training may have; None where the host does not know.
    """

    seconds: float
    memory: int
    available: int | None

    def as_status(self) -> dict[str, Any]:
        """What a page is told."""
        return asdict(self)

    def notes(self, settings: TrainingSettings, device: torch.device) -> list[str]:
        """What the user reads."""
        of = "" if self.available is None else f" of {_as_size(self.available)}"
        how = "" if device.type == "cuda" else ", counted by tensors"
        lines = [
            f"estimate: about {duration(self.seconds)} for {settings.steps} steps, {_as_size(self.memory)}{of}{how}; "
            "samples and checkpoints come on top"
        ]
        if self.available is not None and self.memory > self.available:
            lines.append(
                "warning: that is more than is free. The host may move a part of the model out of the way, which is "
                f"slower; if the training runs out of memory: {', or '.join(what_to_lower(settings))}"
            )
        return lines


@dataclass(frozen=True)
class DryRun:
    """Steps of the loop of which nothing is kept.

    Attributes:
        patcher: computes in the dtype of the training.
        stand_ins: makes what is trained, with the right shapes.
        run: runs a loop on the model.
    """

    patcher: Patcher
    targets: Mapping[str, Target]
    data: TrainingSet
    settings: TrainingSettings
    stand_ins: Callable[[], dict[str, Trainable]]
    run: Callable[[Loop], None]

    def steps(self, count: int, before_update: Callable[[], None] | None = None) -> tuple[Trainer, float]:
        """So many steps on the largest picture: what was trained, and the seconds of the last one."""
        dry = replace(self.settings, steps=count, grad_accumulation=1)
        status = TrainingStatus("", steps=count)
        stopwatch = _Stopwatch(status, self.patcher.load_device)  # from here on a GPU's peak counts
        trainer = Trainer(self.stand_ins(), dry.whole_optimizer(), steps=count)
        if before_update is not None:
            trainer.optimizer.register_step_pre_hook(lambda *_: before_update())
        self.run(
            Loop(
                trainer=trainer, targets=dict(self.targets), data=largest_alone(self.data), lower=what_to_lower(dry),
                objective=dry.whole_objective(), samples=SampleSettings(), steps=count, batch_size=dry.batch_size,
                seed=dry.seed, gradient_checkpointing=dry.gradient_checkpointing, checkpoint_every=0,
                run=Run(Path(), keep=0), monitor=stopwatch, status=status, resumed=None, snapshot=_never_kept,
            )
        )  # fmt: skip
        return trainer, stopwatch.seconds[-1]


def estimated(dry: DryRun) -> tuple[Estimate | None, list[str]]:
    """What dry steps tell, and what the user should read. None where they could not be done.

    Raises:
        MemoryShortageError: a step does not fit.
    """
    try:
        measured = _measured(dry)
        return measured, measured.notes(dry.settings, dry.patcher.load_device)
    except (_INTERRUPTED, MemoryShortageError):
        raise
    except OUT_OF_MEMORY as error:
        raise shortage(largest_alone(dry.data), what_to_lower(dry.settings)) from error
    except Exception as error:  # no estimate is no reason not to train
        return None, [f"no estimate: the dry step failed ({error}); the training goes on"]
    finally:
        comfy.model_management.soft_empty_cache()


def largest_alone(data: TrainingSet) -> TrainingSet:
    """Of the pictures, and of the class images, the largest with its longest caption."""
    examples, prior = (tuple(_largest(some) for some in [part] if some) for part in (data.examples, data.prior))
    return replace(data, examples=examples, prior=prior, caption_dropout=0.0, empty_caption=None)


def _largest(examples: tuple[Example, ...]) -> Example:
    found = max(examples, key=lambda example: example.latent.numel())
    return replace(found, captions=(max(found.captions, key=lambda caption: caption[0].numel()),), variants=())


class _Stopwatch(Monitor):
    """Shows nothing and keeps the time of every step."""

    def __init__(self, status: TrainingStatus, device: torch.device) -> None:
        super().__init__(status, show=lambda text: None, send=lambda status: None, draw=None, device=device, logs=None)
        self.seconds: list[float] = []

    def step(self, step: int, loss: float, rate: float, seconds: float) -> None:
        """See `Monitor`."""
        super().step(step, loss, rate, seconds)
        self.seconds.append(seconds)

    def warn(self, text: str) -> None:
        """Nothing: what ends a dry step is told by whoever asked for it."""


def _measured(dry: DryRun) -> Estimate:
    device, available = dry.patcher.load_device, _available(dry.patcher)
    counted = None if device.type == "cuda" else _counted(dry)
    _, seconds = dry.steps(_TIMED)
    memory = torch.cuda.max_memory_allocated(device) if counted is None else counted
    return Estimate(seconds * dry.settings.grad_accumulation * dry.settings.steps, memory, available)


def _never_kept(losses: list[float]) -> NoReturn:
    raise AssertionError("a dry step is never kept")


def _counted(dry: DryRun) -> int:
    """Bytes of the model, of all tensors of a step up to its update, and of what the optimizer keeps.

    In a step of its own, since the count takes time.
    """
    with LiveTensors() as tensors:
        trainer, _ = dry.steps(1, tensors.stop)
    kept = [value for state in trainer.optimizer.state.values() for value in state.values()]
    moments = sum(value.nbytes for value in kept if isinstance(value, Tensor))
    total: int = dry.patcher.model_size() + tensors.peak + moments
    return total


def _available(patcher: Patcher) -> int | None:
    """Bytes that are free, and those that the model has already."""
    device = patcher.load_device
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else patcher.model_size()
    free: int | None = comfy.model_management.get_free_memory(device)
    return None if free is None else free + held


def _as_size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= _SHOWN_AS_GB else f"{size / 1e6:.0f} MB"
