"""The page that a server hands out: the one that its environment brings, or a version that QRLORA_FRONTEND names."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from devtools.environment import Environment, SetupError, say
from devtools.workspace import Home

VARIABLE = "QRLORA_FRONTEND"
PACKAGE = "comfyui-frontend-package"
_ASK = f"from importlib.metadata import version; print(version('{PACKAGE}'))"
_IN_WHEEL = Path("comfyui_frontend_package", "static")


def chosen_frontend() -> str | None:
    """The version that QRLORA_FRONTEND names; None where the environment's own serves.

    Raises:
        SetupError: what it names is no version.
    """
    version = os.environ.get(VARIABLE)
    if version and not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise SetupError(f"{VARIABLE}={version} is no version of {PACKAGE}, such as 1.32.9; unset it for the host's.")
    return version or None


def frontend_version(python: Path) -> str:
    """The version that a server of this interpreter hands out, "unknown" where its environment has none."""
    chosen = chosen_frontend()
    if chosen:
        return chosen
    asked = subprocess.run([python, "-c", _ASK], capture_output=True, text=True)
    return asked.stdout.strip() or "unknown"


def frontend_arguments(home: Home | None = None) -> list[str]:
    """What the host's main.py needs to be told to serve the chosen frontend; nothing without one."""
    version = chosen_frontend()
    if version is None:
        return []
    home = home or Home.from_environment()
    return ["--front-end-root", str(ensure_frontend(home, version, Environment(home.venv).install))]


def ensure_frontend(home: Home, version: str, install: Callable[[Sequence[str]], None]) -> Path:
    """Return the folder of a frontend; download and unpack it when it is not there.

    Args:
        home: where to unpack.
        version: of the frontend's package.
        install: runs `pip install` with the given arguments.

    Raises:
        SetupError: the download failed.
    """
    folder = home.folder / ".run" / "frontends" / version
    if not (folder / "index.html").is_file():
        say(f"unpacking {PACKAGE} {version} to {folder}")
        _unpack(folder, version, install)
    return folder


def _unpack(folder: Path, version: str, install: Callable[[Sequence[str]], None]) -> None:
    """Unpack beside `folder` and rename at the end, so that a frontend that is there is a whole one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=folder.parent) as scratch:
        install(["--no-deps", "--only-binary", ":all:", "--target", scratch, f"{PACKAGE}=={version}"])
        if folder.exists():
            folder.replace(Path(scratch) / "replaced")
        (Path(scratch) / _IN_WHEEL).replace(folder)
