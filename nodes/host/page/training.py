"""Look at trainings while they run, and end one early: for the page, and for everyone who uses the API.

``GET /qr_lora/training`` tells what runs; ``POST /qr_lora/training/stop`` ends it after its present step and
keeps the adapter, of one node with ``{"node_id": "8"}`` or of all without. The websocket message
``qr_lora.training`` brings the same as the former, about once a second, and once more when it ends.
"""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from ..train.status import RunningTrainings, TrainingStatus
from .server import running_server

EVENT = "qr_lora.training"

_KEY = web.AppKey("qr_lora_training", RunningTrainings)


def register_routes() -> None:
    """Add the routes to the host's server; does nothing where none runs."""
    server = running_server()
    if server is None:
        return
    routes: web.RouteTableDef = server.routes
    trainings = server.app[_KEY] = RunningTrainings(send)

    @routes.get("/qr_lora/training")
    async def tell(_request: web.Request) -> web.Response:
        return web.json_response({"running": trainings.all()})

    @routes.post("/qr_lora/training/stop")
    async def stop(request: web.Request) -> web.Response:
        asked = trainings.stop(await _asked_node(request))
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


def current_trainings() -> RunningTrainings:
    """Those of the host's server; where none runs, new ones that nobody can reach."""
    app = getattr(running_server(), "app", None)
    return RunningTrainings() if app is None else app.get(_KEY) or RunningTrainings(send)


def send(status: TrainingStatus) -> None:
    """Send a websocket message to the client that runs the prompt."""
    server = running_server()
    if server is not None:
        server.send_sync(EVENT, asdict(status), getattr(server, "client_id", None))
