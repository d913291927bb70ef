"""How trainings stand, and the wish to end one early."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass
class TrainingStatus:
    """How a training stands; times in seconds, memory in bytes.

    Attributes:
        workflow_id: of the workflow that came with the prompt, by which a page tells nodes of the same number apart.
        losses: the curve so far, each value the mean of `updates_per_loss` updates, the last one of the rest.
        samples: the last sample pictures, each with its step and kind, and where the host's ``/view`` finds it; the
            own ones with what the judge saw in that step.
        seen: some of the pictures and variants that are learned. judge: what compares the samples; None: nothing does.
        best: the step that does best by what the user has picked, see `judge.best.Best`.
        warnings: what the user must read.
        preset: that the settings are of: ``name``, ``family``, ``source``, and ``values`` of the node's inputs by name.
        estimate: what it will take, before its first step: ``seconds``, ``memory``, ``available`` (None: not known).
        state: ``stopped`` if a user ended it early and kept the adapter; ``failed`` after an error or Cancel.
    """

    node_id: str
    workflow_id: str | None = None
    step: int = 0
    steps: int = 0
    loss: float | None = None
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    peak_memory: int | None = None
    checkpoint: str | None = None
    stopping: bool = False
    losses: list[float] = field(default_factory=list)
    updates_per_loss: int = 1
    samples: list[dict[str, Any]] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    judge: str | None = None
    best: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    preset: dict[str, Any] | None = None
    estimate: dict[str, Any] | None = None
    state: Literal["running", "finished", "stopped", "failed"] = "running"


class RunningTrainings:
    """The trainings that run now.

    Args:
        send: gets the status of one at its start, while it runs, and at its end.
    """

    def __init__(self, send: Callable[[TrainingStatus], None] = lambda status: None) -> None:
        self.send = send
        self._running: dict[str, TrainingStatus] = {}

    @contextlib.contextmanager
    def running(
        self, node_id: str, steps: int, workflow_id: str | None = None, preset: dict[str, Any] | None = None
    ) -> Iterator[TrainingStatus]:
        """Within the context, the training of this node can be seen and stopped."""
        status = self._running[node_id] = TrainingStatus(node_id, workflow_id, steps=steps, preset=preset)
        self.send(status)
        try:
            yield status
            status.state = "stopped" if status.step < steps else "finished"
        except BaseException:
            status.state = "failed"
            raise
        finally:
            del self._running[node_id]
            self.send(status)

    def all(self) -> list[dict[str, Any]]:
        """What runs now."""
        return [asdict(status) for status in list(self._running.values())]

    def stop(self, node_id: str | None = None) -> list[str]:
        """Ask the training of this node, or every one, to end and keep its adapter; returns the nodes asked."""
        asked = [status for status in list(self._running.values()) if node_id in (None, status.node_id)]
        for status in asked:
            status.stopping = True
        return [status.node_id for status in asked]
