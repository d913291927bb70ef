"""Run one API-form workflow on a server of its own and say what happens (`python -m devtools.headless`)."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp

from devtools.environment import say
from devtools.server import PromptError, Server, ServerError, exit_on_sigterm

_SECONDS_BETWEEN_LINES = 2.0
_LAST_EVENTS = {"execution_success", "execution_error", "execution_interrupted"}


class Progress:
    """Prints one line per finished node, and one now and then within a long one."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self._prompt = prompt
        self._node: str | None = None
        self._done = 0
        self._started = self._printed = time.monotonic()

    def handle(self, event: str, data: dict[str, Any]) -> None:
        """Take one event of the server's websocket."""
        if event == "execution_cached":
            self._done += len(data["nodes"])
        elif event == "executing":
            self._finish()
            self._node, self._started = data["node"], time.monotonic()
        elif event == "execution_success":
            self._finish()
        elif event == "progress" and time.monotonic() - self._printed > _SECONDS_BETWEEN_LINES:
            self._print(self._done + 1, f"step {data['value']} of {data['max']}")

    def _finish(self) -> None:
        if self._node is not None:
            self._done += 1
            self._print(self._done, f"{time.monotonic() - self._started:.1f} s")

    def _print(self, position: int, what: str) -> None:
        node = self._prompt.get(self._node or "", {})
        title = node.get("_meta", {}).get("title") or node.get("class_type", self._node)
        print(f"[{position:>2}/{len(self._prompt)}] {title}: {what}", flush=True)
        self._printed = time.monotonic()


async def run_prompt(server: Server, prompt: dict[str, Any]) -> dict[str, Any]:
    """Queue `prompt`, print its progress, return its history entry. Raises as `Server.queue` does."""
    client_id = uuid.uuid4().hex
    progress = Progress(prompt)
    address = f"{server.url}/ws?clientId={client_id}"
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as events:
        prompt_id = server.submit(prompt, client_id)
        async for message in events:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            if event["data"].get("prompt_id") == prompt_id:
                progress.handle(event["type"], event["data"])
                if event["type"] in _LAST_EVENTS:
                    break
    return server.result(prompt_id, prompt)


def written_since(folder: Path, moment: float) -> list[Path]:
    """Files below `folder` that were written at or after `moment` (seconds since the epoch)."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in files if path.stat().st_mtime >= moment)


def run(base: Path, workflow: Path, *, cpu: bool, port: int | None) -> int:
    """Run a workflow in the base directory; return the exit status."""
    prompt = json.loads(workflow.read_text(encoding="utf-8"))
    moment = time.time() - 1.0  # file systems with coarse times
    try:
        server = Server(base, cpu=cpu, port=port)
        say(f"starting {server.title}" + (" on the CPU" if cpu else ""))
        with server:
            say(f"running {workflow.name} ({len(prompt)} nodes)")
            asyncio.run(run_prompt(server, prompt))
            files = written_since(server.output_dir, moment)
    except (PromptError, ServerError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    print("written:", *(f"  {path}" for path in files), sep="\n", flush=True)
    return 0


def main() -> int:
    """Command line of this module; `python dev.py run --headless` calls it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="base directory (models, input, output)")
    parser.add_argument("--workflow", type=Path, required=True, help="workflow in API form")
    parser.add_argument("--port", type=int, help="port of the server (default: a free one)")
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU")
    options = parser.parse_args()
    exit_on_sigterm()
    return run(options.base, options.workflow, cpu=options.cpu, port=options.port)


if __name__ == "__main__":
    sys.exit(main())
