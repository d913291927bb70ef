"""A real ComfyUI server in a process of its own, driven over HTTP. Standard library alone."""

from __future__ import annotations

import ctypes
import io
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from devtools.environment import PATIENT
from devtools.frontend import frontend_arguments, frontend_version
from devtools.workspace import PACK_NAME, Home, host_version, make_base, own_host

if TYPE_CHECKING:
    from PIL.Image import Image

_POLL_SECONDS = 0.05
_LONGEST_ANSWER = 600.0  # seconds, for a server that computes on a busy machine
# Newer hosts put the level, in colour, before what they say.
_LOAD_FAILURE = re.compile(r"(\x1b\[[\d;]*m|\[[A-Z]+\]|\s)*(Cannot import|Error while calling comfy_entrypoint)")
_ASK_TORCH = "import torch as t; exit(not (t.cuda.is_available() or t.backends.mps.is_available()))"
# A proxy from the environment must not stand between us and this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class PromptError(RuntimeError):
    """A prompt was rejected or failed.

    Args:
        message: node title, id and class with what the server said.
        node_id: the first node at fault, if one is.
        node_class: its class.
        details: the server's own JSON.
    """

    def __init__(self, message: str, *, node_id: str | None, node_class: str | None, details: Any) -> None:
        super().__init__(message)
        self.node_id = node_id
        self.node_class = node_class
        self.details = details


class ServerError(RuntimeError):
    """The server did not start or died; the message holds the end of its log."""


def is_port_free(port: int, address: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `port`."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        if os.name != "nt":  # there it would let us share a port that is taken
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that the system says is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def has_gpu(python: Path) -> bool:
    """Whether torch in the environment of `python` can use a GPU; asked only where there may be one."""
    command = [str(python), "-c", _ASK_TORCH]
    return _may_have_gpu() and subprocess.run(command, capture_output=True).returncode == 0


def _may_have_gpu() -> bool:
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()  # AMD
    return True


class Server:
    """A ComfyUI server with this pack as a custom node; a context manager.

    Args:
        base: base directory (models, input, output, ...); a temporary one, removed at the end, when None.
        host: folder of ComfyUI; found as everywhere else when None.
        python: interpreter that has the host's packages.
        port: port to listen on; a free one when None.
        listen: address to listen on.
        cpu: compute on the CPU; when None, yes unless QRLORA_TEST_DEVICE is cuda.
        args: further arguments for ComfyUI's main.py.
        quiet: write the output to `log` instead of the terminal.
        timeout: seconds to wait for the server to answer.
    """

    def __init__(
        self,
        base: Path | None = None,
        *,
        host: Path | None = None,
        python: Path | None = None,
        port: int | None = None,
        listen: str = "127.0.0.1",
        cpu: bool | None = None,
        args: Sequence[str] = (),
        quiet: bool = True,
        timeout: float = 600.0,
    ) -> None:
        self._temporary = base is None
        self.base = Path(tempfile.mkdtemp(prefix="qrlora-")) if base is None else Path(base).resolve()
        self.host = host or comfyui_dir()
        self.python = python or Path(sys.executable)
        self.port = port or free_port()
        self.listen = listen
        self.cpu = os.environ.get("QRLORA_TEST_DEVICE") != "cuda" if cpu is None else cpu
        self.args = list(args)
        self.quiet = quiet
        self.timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the server, for this machine."""
        first = self.listen.split(",")[0]
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(first, first)
        return f"http://[{local}]:{self.port}" if ":" in local else f"http://{local}:{self.port}"

    @property
    def models_dir(self) -> Path:
        return self.base / "models"

    @property
    def input_dir(self) -> Path:
        return self.base / "input"

    @property
    def output_dir(self) -> Path:
        return self.base / "output"

    @property
    def log(self) -> str:
        """All that the server has written so far; empty unless `quiet`."""
        path = self.base / "server.log"
        return path.read_text(encoding="utf-8", errors="replace") if self.quiet and path.exists() else ""

    @property
    def import_errors(self) -> list[str]:
        """What the log says of custom nodes that could not be loaded."""
        return [line for line in self.log.splitlines() if _LOAD_FAILURE.match(line)]

    @property
    def title(self) -> str:
        """Which ComfyUI this is, by version and folder, and which frontend it hands out."""
        return f"ComfyUI {host_version(self.host)} in {self.host} with frontend {frontend_version(self.python)}"

    @property
    def command(self) -> list[str]:
        """The command line that starts the server, with the frontend that QRLORA_FRONTEND names."""
        fixed = ["--disable-auto-launch", "--disable-api-nodes", *(["--cpu"] if self.cpu else [])]
        return [
            *(str(self.python), "-u", str(self.host / "main.py")),
            *("--listen", self.listen, "--port", str(self.port), "--base-directory", str(self.base)),
            *("--database-url", f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"),
            *fixed,
            *frontend_arguments(),
            *self.args,
        ]

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException as error:
            self.stop(interrupted=isinstance(error, KeyboardInterrupt))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(interrupted=isinstance(error, KeyboardInterrupt))

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            ServerError: it ended, did not answer in time, or could not load this pack.
        """
        make_base(self.base)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if self.cpu:
            environment = {**PATIENT, **environment}
        with (self.base / "server.log" if self.quiet else Path(os.devnull)).open("wb") as log:
            output = log if self.quiet else None
            self._process = subprocess.Popen(
                self.command,
                cwd=self.base,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if self.quiet else None,
            )
        self._await_answer()
        failed = [line for line in self.import_errors if PACK_NAME in line]
        if failed:
            raise ServerError("\n".join(failed) + self._log_tail())

    def _await_answer(self) -> None:
        deadline = time.monotonic() + self.timeout
        while time.monotonic() < deadline:
            self._check_alive()
            try:
                arguments = self.get("/system_stats")["system"].get("argv")
            except OSError:
                arguments = []
            if arguments is None or str(self.base) in arguments:  # else another server took the port first
                return
            time.sleep(_POLL_SECONDS)
        raise ServerError(f"the server did not answer within {self.timeout:.0f} s{self._log_tail()}")

    def _check_alive(self) -> None:
        if self._process is None:
            raise ServerError("the server was not started")
        code = self._process.poll()
        if code is not None:
            raise ServerError(f"the server ended with exit status {code}{self._log_tail()}")

    def _log_tail(self, lines: int = 40) -> str:
        tail = "\n".join(self.log.splitlines()[-lines:])
        return f"; its last words:\n{tail}" if tail else ""

    def wait(self) -> int:
        """Wait until the server ends; return its exit status."""
        assert self._process is not None
        return self._process.wait()

    def stop(self, *, interrupted: bool = False) -> None:
        """Stop the server. After Ctrl-C it has had the signal itself and gets the time to end on its own."""
        if self._process is not None:
            _end(self._process, patience=10.0 if interrupted else 0.0)
        if self._temporary:
            shutil.rmtree(self.base, ignore_errors=True)

    def get(self, path: str) -> Any:
        """GET a path; the decoded JSON, or the bytes of anything else."""
        return self._request(path, None)

    def post(self, path: str, json: Any) -> Any:
        """POST JSON to a path; the decoded answer."""
        return self._request(path, json)

    def _request(self, path: str, payload: Any) -> Any:
        data = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with _OPENER.open(request, timeout=_LONGEST_ANSWER) as answer:
            content = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
        return json.loads(content) if is_json and content else content

    def submit(self, prompt: dict[str, Any], client_id: str | None = None) -> str:
        """Queue an API-form prompt; return its id.

        Raises:
            PromptError: it was rejected, as a whole or for one of its outputs.
        """
        payload = {"prompt": prompt} | ({"client_id": client_id} if client_id else {})
        try:
            answer = self.post("/prompt", payload)
        except urllib.error.HTTPError as error:
            raise _rejected(prompt, _read_json(error)) from None
        if answer["node_errors"]:  # the host runs the outputs that are valid; we want all or nothing
            self.post("/queue", {"delete": [answer["prompt_id"]]})
            self.post("/interrupt", {"prompt_id": answer["prompt_id"]})
            raise _rejected(prompt, answer)
        prompt_id: str = answer["prompt_id"]
        return prompt_id

    def result(self, prompt_id: str, prompt: dict[str, Any], timeout: float = 600.0) -> dict[str, Any]:
        """Wait for a submitted prompt; return its history entry.

        Raises:
            PromptError: a node failed.
            TimeoutError: it took longer than `timeout` seconds; it is interrupted.
            ServerError: the server died.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self._check_alive()
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return _checked(prompt, entry)
            time.sleep(_POLL_SECONDS)
        self.post("/interrupt", {"prompt_id": prompt_id})
        raise TimeoutError(f"the prompt did not finish within {timeout:.0f} s{self._log_tail()}")

    def queue(self, prompt: dict[str, Any], timeout: float = 600.0) -> dict[str, Any]:
        """Run an API-form prompt to its end; return its history entry. Raises as `submit` and `result` do."""
        return self.result(self.submit(prompt), prompt, timeout)

    def images(self, history: dict[str, Any]) -> list[Image]:
        """The pictures that a finished prompt wrote, in node order."""
        from PIL import Image

        shown = [entry for output in history["outputs"].values() for entry in output.get("images", [])]
        entries = [entry for entry in shown if entry["type"] == "output"]  # not those of previews
        return [Image.open(io.BytesIO(self.get(f"/view?{urllib.parse.urlencode(e)}"))) for e in entries]


def comfyui_dir() -> Path:
    """Folder of ComfyUI: COMFYUI_DIR, else the one that the bootstrap unpacked.

    Raises:
        SetupError: COMFYUI_DIR is no ComfyUI.
        FileNotFoundError: none was unpacked yet.
    """
    folder = own_host() or Home.from_environment().host
    if not (folder / "main.py").is_file():
        raise FileNotFoundError(f"no ComfyUI in {folder}: run `python dev.py setup`, or set COMFYUI_DIR.")
    return folder


def exit_on_sigterm() -> None:
    """Make a termination request end this process like an exit, so that servers are stopped on the way."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def node_label(prompt: dict[str, Any], node_id: str | None) -> str:
    """A node as a reader knows it: its title and class, or the id alone."""
    node = prompt.get(node_id or "", {})
    kind = node.get("class_type", "unknown class")
    title = node.get("_meta", {}).get("title")
    return f"{title} ({kind}, node {node_id})" if title and title != kind else f"{kind} (node {node_id})"


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    try:
        process.wait(patience)
        return
    except subprocess.TimeoutExpired:
        process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read_json(error: urllib.error.HTTPError) -> dict[str, Any]:
    body = error.read()
    try:
        answer: dict[str, Any] = json.loads(body)
    except ValueError:
        return {"error": {"message": f"HTTP {error.code}: {body[:500]!r}"}}
    return answer


def _rejected(prompt: dict[str, Any], answer: dict[str, Any]) -> PromptError:
    node_errors = answer.get("node_errors") or {}
    lines = [
        f"{node_label(prompt, node_id)}: {reason['message']}: {reason['details']}"
        for node_id, found in node_errors.items()
        for reason in found["errors"]
    ]
    error = answer.get("error") or {}
    if not lines:
        lines = [": ".join(str(part) for part in (error.get("message"), error.get("details")) if part)]
    unknown = re.search(r"Node ID '#(.+)'", str(error.get("details")))  # how the host names an unknown class
    first = next(iter(node_errors), None) or (unknown[1] if unknown else None)
    kind = prompt.get(first, {}).get("class_type") if first else None
    message = "the prompt was rejected: " + "; ".join(lines)
    return PromptError(message, node_id=first, node_class=kind, details=answer)


def _checked(prompt: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    status = entry["status"]
    if status["status_str"] == "success":
        return entry
    told = dict(status["messages"])
    failure = told.get("execution_error") or told.get("execution_interrupted") or {}
    node_id, kind = failure.get("node_id"), failure.get("node_type")
    reason = failure.get("exception_message", "interrupted").strip()
    raise PromptError(
        f"{node_label(prompt, node_id)}: {failure.get('exception_type', '')} {reason}",
        node_id=node_id,
        node_class=kind,
        details=entry,
    )
