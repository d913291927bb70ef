"""What a user sees of a training while it runs: progress, a picture of the loss and the samples, log files.

Nothing is drawn or sent more than once a second, so a step that shows nothing pays for reading a clock.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import ui
from torch import Tensor

from .judge.scores import Scores
from .samples import KINDS, OWN
from .status import TrainingStatus

_SECONDS_BETWEEN = 1.0
_LARGEST_PREVIEW = 1024
_KEPT_TIMES = 50
_MOST_LOSSES = 200
_MOST_SAMPLES = 24  # of a kind

# Draws (losses, sample pictures with their steps by kind) for the preview on the node: a PIL image.
Draw = Callable[[Sequence[float], Mapping[str, Sequence[tuple[int, Tensor]]]], Any]


class Monitor:
    """Shows one training.

    Args:
        status: kept up to date.
        show: puts text on the node.
        send: gets the status whenever it is shown.
        draw: makes the preview picture; None shows none.
        device: where it trains, for the peak of its memory.
        logs: folder of TensorBoard files, written where that package is there; None for none.
    """

    def __init__(
        self,
        status: TrainingStatus,
        *,
        show: Callable[[str], None],
        send: Callable[[TrainingStatus], None],
        draw: Draw | None,
        device: torch.device,
        logs: Path | None,
    ) -> None:
        self._status, self._show, self._send, self._draw, self._device = status, show, send, draw, device
        self._bar = comfy.utils.ProgressBar(status.steps)
        self._times: deque[float] = deque(maxlen=_KEPT_TIMES)
        self._shown = 0.0
        self._logs = logs
        self._writer: Any = None
        self.losses: list[float] = []
        self.pictures: dict[str, list[tuple[int, Tensor]]] = {}
        self.warnings: list[str] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def resume(self, losses: Sequence[float], checkpoint: str) -> None:
        """Go on after so many updates, from a checkpoint of this name."""
        self.losses += losses
        self._status.step, self._status.checkpoint = len(losses), checkpoint

    def step(self, step: int, loss: float, rate: float, seconds: float) -> None:
        """Take in an update; shows it if the last one that was shown is long enough ago."""
        self.losses.append(loss)
        self._times.append(seconds)
        self._status.step, self._status.loss = step, loss
        if self._logs is not None:  # not before there is something to write
            self._writer, self._logs = _summary_writer(self._logs), None
        if self._writer is not None:
            self._writer.add_scalar("loss", loss, step)
            self._writer.add_scalar("learning_rate", rate, step)
        if time.monotonic() - self._shown >= _SECONDS_BETWEEN or step == self._status.steps:
            self.show()

    def samples(self, step: int, pictures: Mapping[str, Tensor], scores: Scores | None = None) -> None:
        """Add samples of one step.

        Args:
            pictures: by kind, (height, width, 3) float tensors on the CPU, 0 to 1.
            scores: what the judge saw in them.
        """
        for kind, picture in pictures.items():
            self.pictures.setdefault(kind, []).append((step, picture))
            judged = asdict(scores or Scores()) if kind == OWN else {}
            self._list(f"the sample of step {step}", picture, self._status.samples, step=step, kind=kind, **judged)
            if self._writer is not None:
                name = "sample" if kind == OWN else f"sample_{kind}"
                self._writer.add_image(name, picture, step, dataformats="HWC")
        self._status.samples = _last_of_each(self._status.samples)
        self.show()

    def seen(self, pictures: Iterable[Tensor]) -> None:
        """Show what the training sees: pictures as in `samples`."""
        for number, picture in enumerate(pictures, 1):
            self._list(f"picture {number} of what it saw", picture, self._status.seen)
        if self._status.seen:
            self.tell()

    def _list(self, what: str, picture: Tensor, entries: list[dict[str, Any]], **facts: Any) -> None:
        """Add an entry, the picture being a file of the host's temporary folder from now on; none without a page."""
        if not self._status.node_id:
            return
        try:
            (saved,) = ui.PreviewImage(picture[None]).as_dict()["images"]
        except OSError as error:
            self.warn(f"warning: {what} could not be written for the page: {error}")
            return
        entries.append({**facts, **saved})

    def warn(self, text: str) -> None:
        """Remember what the user must read, once."""
        if text not in self.warnings:
            self.warnings.append(text)
            logging.warning("QR-LoRA: %s", text)

    def show(self) -> None:
        """Show how it stands now, on the node and as messages."""
        self.tell()
        preview = None if self._draw is None else ("JPEG", self._draw(self.losses, self.pictures), _LARGEST_PREVIEW)
        self._shown = time.monotonic()
        # Last, since the host may interrupt here.
        self._bar.update_absolute(self._status.step, self._status.steps, preview)

    def tell(self) -> None:
        """Say how it stands now, without a picture."""
        status = self._status
        self._refresh()
        self._send(status)
        self._show(".\n".join([*self.warnings, _progress_text(status)]))  # what must be read comes first

    def close(self) -> None:
        """Finish the status and the log files."""
        self._refresh()
        if self._writer is not None:
            self._writer.close()

    def _refresh(self) -> None:
        status = self._status
        status.warnings = list(self.warnings)
        status.losses, status.updates_per_loss = thinned(self.losses)
        status.seconds_per_step = sum(self._times) / len(self._times) if self._times else None
        if status.seconds_per_step is not None:
            status.seconds_left = status.seconds_per_step * (status.steps - status.step)
        status.peak_memory = _peak_memory(self._device)


def _last_of_each(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every kind the last ones, in their order."""
    kept = {id(one) for kind in KINDS for one in [one for one in samples if one["kind"] == kind][-_MOST_SAMPLES:]}
    return [one for one in samples if id(one) in kept]


def thinned(losses: Sequence[float]) -> tuple[list[float], int]:
    """Means of so many losses each that few numbers are left, and how many that is."""
    span = max(1, math.ceil(len(losses) / _MOST_LOSSES))
    spans = (losses[start : start + span] for start in range(0, len(losses), span))
    return [sum(part) / len(part) for part in spans], span


def _progress_text(status: TrainingStatus) -> str:
    parts = [f"step {status.step} of {status.steps}"]
    if status.loss is not None:
        parts.append(f"loss {status.loss:.4g}")
    if status.seconds_per_step is not None and status.seconds_left is not None:
        parts += [f"{status.seconds_per_step:.3g} s a step", f"{duration(status.seconds_left)} left"]
    if status.peak_memory:
        parts.append(f"peak memory {status.peak_memory / 1e9:.1f} GB")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _peak_memory(device: torch.device) -> int | None:
    """Most bytes in use: of the GPU by PyTorch since the training began; else of this process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _summary_writer(logs: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the package tensorboard is optional
        return None
    return SummaryWriter(str(logs))
