"""Make, check and repair the virtual environment; standard library alone, for nothing is installed yet."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
CONSTRAINTS = REQUIREMENTS / "constraints.txt"
MIN_PYTHON = (3, 11)
# On a CPU, threads that wait must not spin: with others on the machine a step took 20 times as long.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}

# Never taken from a user's own ComfyUI: torch is pinned here, and templates are gigabytes of media.
_NOT_FROM_HOST = re.compile(r"(torch|torchvision|torchaudio|comfyui-workflow-templates.*)$")
_PROBE = "import sys, sysconfig; print(*sys.version_info[:2], sysconfig.get_path('purelib'), sep='\\n')"


class SetupError(RuntimeError):
    """The environment or the host could not be made; the message says what the user can do."""


def parse_requirements(text: str) -> dict[str, str]:
    """Map normalized package names to requirement lines, without comments and pip options.

    Args:
        text: the content of a requirements file.
    """
    lines = (line.split(" #")[0].strip() for line in text.splitlines())
    kept = [line for line in lines if line and not line.startswith(("#", "-"))]
    return {_normalize(re.split(r"[\s<>=!~;\[@]", line, maxsplit=1)[0]): line for line in kept}


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def host_requirements(own_host: Path | None) -> dict[str, str]:
    """Requirements of the host: our pins, overridden by those of a user's own ComfyUI where there is one."""
    ours = parse_requirements((REQUIREMENTS / "host.txt").read_text(encoding="utf-8"))
    listed = own_host / "requirements.txt" if own_host else None
    if listed is None or not listed.is_file():
        return ours
    theirs = parse_requirements(listed.read_text(encoding="utf-8"))
    return ours | {name: line for name, line in theirs.items() if _differs(name, line, ours)}


def _differs(name: str, line: str, ours: dict[str, str]) -> bool:
    return not _NOT_FROM_HOST.match(name) and (name not in ours or "==" in line)


class _Stamp(TypedDict):
    """What was installed completely: the key of each group, and the top-level names of each dist-info folder."""

    groups: dict[str, str]
    installed: dict[str, list[str]]


@dataclass(frozen=True)
class Group:
    """A set of requirements that is installed together.

    Args:
        name: "host", "dev" or "node".
        requirements: requirement lines.
        constraints: a pip constraints file, or None.
        no_deps: requirement lines that are installed without their dependencies.
    """

    name: str
    requirements: tuple[str, ...]
    constraints: Path | None = CONSTRAINTS
    no_deps: tuple[str, ...] = ()

    def key(self, python: Sequence[int]) -> str:
        """Hash of all that decides what this group installs."""
        pinned = parse_requirements(self.constraints.read_text(encoding="utf-8")) if self.constraints else {}
        content = [list(python), self.requirements, self.no_deps, sorted(pinned.values())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def host_group(own_host: Path | None = None) -> Group:
    """What ComfyUI needs. The constraints pin our own host; a user's host brings its own versions."""
    no_deps = parse_requirements((REQUIREMENTS / "host-no-deps.txt").read_text(encoding="utf-8"))
    lines = tuple(host_requirements(own_host).values())
    return Group("host", lines, None if own_host else CONSTRAINTS, tuple(no_deps.values()))


def dev_group() -> Group:
    """What tests, lint and benchmarks need on top of the host."""
    lines = parse_requirements((REQUIREMENTS / "dev.txt").read_text(encoding="utf-8"))
    return Group("dev", tuple(lines.values()))


def node_group() -> Group:
    """What checks the page's scripts."""
    lines = parse_requirements((REQUIREMENTS / "node.txt").read_text(encoding="utf-8"))
    return Group("node", tuple(lines.values()), None)


class Environment:
    """The virtual environment in `folder`, with a stamp inside that says what was installed completely."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scripts = folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.scripts / ("python.exe" if os.name == "nt" else "python")
        self.stamp = folder / "qrlora-stamp.json"

    def ensure(self, groups: Iterable[Group]) -> None:
        """Make, complete or repair the environment; nothing is done when it is whole already.

        Raises:
            SetupError: no environment can be made here, or an installation failed.
        """
        probe = self._probe()
        if probe is None:
            self.create()
            probe = self._probe()
        if probe is None:
            raise SetupError(f"{self.python} was made but does not start; delete {self.folder} and try again.")
        python, site = probe
        stamp = self._repaired_stamp(site)
        missing = [group for group in groups if stamp["groups"].get(group.name) != group.key(python)]
        for group in missing:
            self._install(group, stamp, python, site)

    def _probe(self) -> tuple[tuple[int, int], Path] | None:
        """Version and site-packages of the environment's interpreter, None when it does not run."""
        try:
            command = [str(self.python), "-I", "-c", _PROBE]
            output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
            major, minor, site = output.splitlines()
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
        version = (int(major), int(minor))
        inside = Path(site).resolve().is_relative_to(self.folder.resolve())  # false without a pyvenv.cfg
        return (version, Path(site)) if inside and version >= MIN_PYTHON else None

    def create(self) -> None:
        """Make an environment without any package, in the place of a broken one.

        Raises:
            SetupError: the folder holds something else, or Python cannot make one.
        """
        if self.folder.exists():
            say(f"{self.folder} is broken: making it anew")
            if not (self.scripts.exists() or self.stamp.exists()) and any(self.folder.iterdir()):
                raise SetupError(f"{self.folder} is no virtual environment; move it or choose another --home.")
            shutil.rmtree(self.folder)
        else:
            say(f"making the virtual environment {self.folder}")
        if subprocess.run([sys.executable, "-m", "venv", self.folder], stdout=subprocess.DEVNULL).returncode:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise SetupError("python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv")

    def _repaired_stamp(self, site: Path) -> _Stamp:
        """The stamp, emptied where packages are gone or damaged, whose remains are removed."""
        try:
            stamp: _Stamp = json.loads(self.stamp.read_text(encoding="utf-8"))
            damaged = [name for name, tops in stamp["installed"].items() if not _is_whole(site, name, tops)]
            stamp["groups"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {"groups": {}, "installed": {}}
        if not damaged:
            return stamp
        say(f"repairing {', '.join(name.removesuffix('.dist-info') for name in damaged)}")
        self.stamp.unlink()
        for name in damaged:  # without its dist-info an installer sees that the package is missing
            shutil.rmtree(site / name, ignore_errors=True)
        return {"groups": {}, "installed": {}}

    def _install(self, group: Group, stamp: _Stamp, python: Sequence[int], site: Path) -> None:
        count = len(group.requirements) + len(group.no_deps)
        say(f"installing the {group.name} requirements ({count} packages and what they need)")
        self.stamp.unlink(missing_ok=True)
        _drop_torn(site)
        limits = ["-c", str(group.constraints)] if group.constraints else []
        self.install([*limits, *group.requirements])
        if group.no_deps:
            self.install(["--no-deps", *group.no_deps])
        stamp["groups"][group.name] = group.key(python)
        stamp["installed"] = installed(site)
        write_atomically(self.stamp, json.dumps(stamp, indent=1))

    def install(self, arguments: Sequence[str]) -> None:
        """Run `pip install` with these arguments, by uv where it can be had.

        Raises:
            SetupError: the installation failed.
        """
        uv = self._uv()
        if uv and _succeeds([uv, "pip", "install", "--python", str(self.python), *arguments]):
            return
        if uv:
            say("uv failed; trying pip")
        if not _succeeds([str(self.python), "-m", "pip", "install", *arguments]):
            raise SetupError("the installation failed (see above); start again to go on.")

    def _uv(self) -> str | None:
        own = shutil.which("uv", path=str(self.scripts))
        if own or (own := shutil.which("uv")):
            return own
        say("fetching uv, which installs faster")
        quiet = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"]
        return shutil.which("uv", path=str(self.scripts)) if _succeeds(quiet) else None


def installed(site: Path) -> dict[str, list[str]]:
    """Map each dist-info folder in `site` to the top-level names that it recorded."""
    return {folder.name: _top_levels(folder) for folder in sorted(site.glob("*.dist-info"))}


def _top_levels(dist_info: Path) -> list[str]:
    record = dist_info / "RECORD"
    if not record.is_file():
        return []
    tops = {line.split("/", 1)[0].split(",", 1)[0] for line in record.read_text(encoding="utf-8").splitlines()}
    return sorted(tops - {"..", "__pycache__", dist_info.name, ""})


def _is_whole(site: Path, dist_info: str, tops: Iterable[str]) -> bool:
    return (site / dist_info / "RECORD").is_file() and all((site / top).exists() for top in tops)


def _drop_torn(site: Path) -> None:
    """Remove what an interrupted installation left: metadata whose files are not all there."""
    for name, tops in installed(site).items():
        if not _is_whole(site, name, tops):
            shutil.rmtree(site / name)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to a temporary neighbour and rename it, so that no half file is ever seen."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def say(message: str) -> None:
    """Tell the user in one line what is being done."""
    print(f"[qr-lora] {message}", flush=True)


def _succeeds(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False
