"""Look at trainings while they run, and end one early: for the page, and for everyone who uses the API.

``GET /qr_lora/training`` tells what runs; ``POST /qr_lora/training/stop`` ends it after its present step and
keeps the adapter, of one node with ``{"node_id": "8"}`` or of all without. The websocket message
``qr_lora.training`` brings the same report as the former, about once a second, and once more when it ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from aiohttp import web
from server import PromptServer

EVENT = "qr_lora.training"


@dataclass
class Report:
    """How a training stands; times in seconds, memory in bytes.

    Attributes:
        workflow_id: of the workflow that came with the prompt, by which a page tells nodes of the same number apart.
        losses: the curve so far, each value the mean of `updates_per_loss` updates, the last one of the rest.
        samples: the last sample pictures, each with its step, and where the host's ``/view`` finds it.
        warnings: what the user must read.
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
    warnings: list[str] = field(default_factory=list)
    state: Literal["running", "finished", "stopped", "failed"] = "running"


class Control:
    """The trainings that a server runs."""

    def __init__(self) -> None:
        self._running: dict[str, Report] = {}

    @contextlib.contextmanager
    def running(self, node_id: str, steps: int, workflow_id: str | None = None) -> Iterator[Report]:
        """Within the context, the training of this node can be seen and stopped."""
        report = self._running[node_id] = Report(node_id, workflow_id, steps=steps)
        send(report)
        try:
            yield report
            report.state = "stopped" if report.step < steps else "finished"
        except BaseException:
            report.state = "failed"
            raise
        finally:
            del self._running[node_id]
            send(report)

    def reports(self) -> list[dict[str, Any]]:
        """What runs now."""
        return [asdict(report) for report in list(self._running.values())]

    def stop(self, node_id: str | None = None) -> list[str]:
        """Ask the training of this node, or every one, to end and keep its adapter; returns the nodes asked."""
        asked = [report for report in list(self._running.values()) if node_id in (None, report.node_id)]
        for report in asked:
            report.stopping = True
        return [report.node_id for report in asked]


_KEY = web.AppKey("qr_lora_training", Control)


def register_routes() -> None:
    """Add the routes to the host's server; does nothing where none runs."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    control = server.app[_KEY] = Control()

    @server.routes.get("/qr_lora/training")
    async def tell(_request: web.Request) -> web.Response:
        return web.json_response({"running": control.reports()})

    @server.routes.post("/qr_lora/training/stop")
    async def stop(request: web.Request) -> web.Response:
        asked = control.stop(await _asked_node(request))
        if not asked:
            return web.json_response({"error": "no such training runs now; nothing was stopped."}, status=409)
        return web.json_response({"stopping": asked})


async def _asked_node(request: web.Request) -> str | None:
    try:
        body = await request.json()
    except ValueError:  # no body
        return None
    node_id = body.get("node_id") if isinstance(body, dict) else None
    return None if node_id is None else str(node_id)


def current_control() -> Control:
    """That of the host's server, or one that nobody can reach where no server runs."""
    app = getattr(getattr(PromptServer, "instance", None), "app", None)
    return Control() if app is None else app.get(_KEY) or Control()


def send(report: Report) -> None:
    """Send the report as a websocket message to the client that runs the prompt."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync(EVENT, asdict(report), getattr(server, "client_id", None))
