"""What `python dev.py lint` runs: ruff and mypy, and on the page's scripts TypeScript's checker and eslint.

The latter two need Node and npm. Where these are not, they are left out; with CI set they are installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devtools.environment import ROOT, Environment, SetupError, node_group, say, write_atomically
from devtools.host import PACK_ALIAS
from devtools.workspace import link_folder

# Versions and settings. Not below `web`: the host's page imports every script that lies there.
PAGE = Path("devtools", "page")
MIN_NODE = (20, 19)
Command = list[str | Path]


@dataclass(frozen=True)
class Node:
    """The two programs, as paths."""

    node: str
    npm: str


def python_checks(environment: Environment) -> list[Command]:
    """ruff and mypy."""
    arguments = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])
    return [[environment.python, "-m", *check] for check in arguments]


def findable_pack(run: Path) -> Path:
    """A folder in which a type checker finds the pack under its alias: relative imports leave `nodes` for the core.

    Args:
        run: the home's folder of everything that runs.
    """
    folder = run / "types"
    folder.mkdir(parents=True, exist_ok=True)
    link_folder(folder / PACK_ALIAS, ROOT)
    return folder


def page_checks(environment: Environment, root: Path = ROOT) -> Iterator[Command]:
    """tsc and eslint; nothing, and why in one line, where they cannot be had.

    Args:
        environment: gets a Node where there is none, with CI set.
        root: of the tree to check.

    Raises:
        SetupError: they cannot be had, with CI set.
    """
    try:
        node = find_node() or _installed_node(environment)
        _install_packages(node, root / PAGE)
    except SetupError as error:
        if os.environ.get("CI"):
            raise
        say(f"web/**/*.js was not checked: {error}")
        return
    settings, modules = root / PAGE, root / PAGE / "node_modules"
    yield [node.node, modules / "typescript" / "bin" / "tsc", "-p", settings / "jsconfig.json"]
    eslint = modules / "eslint" / "bin" / "eslint.js"
    yield [node.node, eslint, "--max-warnings", "0", "--config", settings / "eslint.config.js", root / "web"]


def find_node(path: str | None = None) -> Node | None:
    """Node and npm, None where one of them is not there or Node is too old.

    Args:
        path: where to look, as in PATH, which it is by default.
    """
    node, npm = (shutil.which(name, path=path) for name in ("node", "npm"))
    return Node(node, npm) if node and npm and _version(node) >= MIN_NODE else None


def _version(node: str) -> tuple[int, ...]:
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(int(part) for part in re.findall(r"\d+", said))


def _installed_node(environment: Environment) -> Node:
    if os.environ.get("CI"):
        environment.ensure([node_group()])
    found = find_node(str(environment.scripts))
    if found is None:
        raise SetupError(f"there is no Node {'.'.join(map(str, MIN_NODE))} or newer with npm")
    return found


def _install_packages(node: Node, folder: Path) -> None:
    """What the lock file says, once for each state of it."""
    lock = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / ".qrlora-stamp"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == lock:
        return
    say("installing TypeScript and eslint with npm")
    command = [node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    if subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode:
        raise SetupError(f"npm could not install what {folder / 'package-lock.json'} lists (see above)")
    write_atomically(stamp, lock)
