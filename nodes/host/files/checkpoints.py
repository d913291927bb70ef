"""Where the checkpoints of trainings lie: a numbered folder per run under ``output/qr_loras/checkpoints``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ....qrlora_core import AdapterFileError, TrainingError, TrainingState, save_training
from .folders import is_inside, output_folder, relative_parts, require_inside

_FOLDER = "checkpoints"
_NAME = re.compile(r"\w[\w .-]*")
_PLAIN = re.compile(r"(?![ .]*$)[^/\\]+", re.DOTALL)  # of one part; what is wrong with it may be said
_RUN = re.compile(rf"({_NAME.pattern})_([0-9]+)")
_CHECKPOINT = re.compile(r"step_([0-9]{8})\.safetensors")


class Run:
    """The folder of one training.

    Args:
        folder: made when the first file is written.
        keep: how many checkpoints stay; older ones of this run are removed. 0: none is ever written.

    Attributes:
        best: updates of a checkpoint that stays beside them; None for none.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep
        self.best: int | None = None

    @property
    def writes(self) -> bool:
        """Whether checkpoints are wanted at all."""
        return self._keep > 0

    def write(self, state: TrainingState, updates: int) -> str:
        """Write a checkpoint, then remove those that are too many; returns its name for ``resume_from``.

        Raises:
            AdapterFileError: it cannot be written; the others stay as they are.
        """
        path = save_training(state, self._path(updates))
        for old_updates, old in sorted(_checkpoints(self.folder))[: -self._keep]:
            if old_updates != self.best:
                old.unlink(missing_ok=True)
        return checkpoint_name(path)

    def name(self, updates: int) -> str:
        """The name of the checkpoint after so many updates, written or not."""
        return checkpoint_name(self._path(updates))

    def _path(self, updates: int) -> Path:
        return self.folder / f"step_{updates:08}.safetensors"


def new_run(run_name: str, keep: int) -> Run:
    """A run in a folder of its own: ``<run_name>_00001`` and so on.

    Raises:
        TrainingError: a name that is no plain folder name.
        AdapterFileError: a name that some system does not allow, or a folder of checkpoints that leads elsewhere.
    """
    what = f"run_name {run_name!r}"
    if _PLAIN.fullmatch(run_name):
        relative_parts(run_name, what, str(_root()), added="_00001")
    if not _NAME.fullmatch(run_name):
        raise TrainingError(
            "run_name: expected a plain name such as 'cat' (letters, digits and _, after the first also spaces, dots "
            f"and hyphens), found {run_name!r}."
        )
    taken = [number for number, _ in _runs(run_name)]
    folder = _root() / f"{run_name}_{max(taken, default=0) + 1:05}"
    return Run(require_inside(folder, what), keep)


def resumed_run(checkpoint: Path, run_name: str, keep: int) -> Run:
    """The run that goes on from a checkpoint: its own folder if nothing newer is there, else a new one."""
    newest = max(_checkpoints(checkpoint.parent))[1]
    if newest != checkpoint:
        return new_run(run_name, keep)
    for left_over in checkpoint.parent.glob(".*.tmp"):  # of a process that was killed while it wrote
        left_over.unlink(missing_ok=True)
    return Run(checkpoint.parent, keep)


def checkpoint_names() -> list[str]:
    """Names for ``resume_from``, the newest first."""
    paths = [path for _, folder in _runs() for _, path in _checkpoints(folder)]
    return [checkpoint_name(path) for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)]


def checkpoint_path(name: str) -> Path:
    """The file of a checkpoint's name.

    Raises:
        AdapterFileError: no such checkpoint, or a name that leads out of the folder.
    """
    folder, _, file = name.replace("\\", "/").partition("/")
    path = _root() / folder / file
    if _RUN.fullmatch(folder) and _CHECKPOINT.fullmatch(file):
        require_inside(path, f"resume_from {name!r}")
        if os.path.isfile(path):  # noqa: PTH113 (`Path.is_file` raises where it may not look)
            return path
    raise AdapterFileError(
        f"resume_from: no checkpoint {name!r} in {_root()}. It was moved, renamed or deleted. Press R to refresh "
        "the list, choose another, or choose none to start anew."
    )


def latest_checkpoint(run_name: str) -> Path | None:
    """The last checkpoint of the newest run of this name that has one."""
    found = [(number, step, path) for number, folder in _runs(run_name) for step, path in _checkpoints(folder)]
    return max(found)[2] if found else None


def is_checkpoint(name: str) -> bool:
    """Whether there is a checkpoint of this name."""
    try:
        checkpoint_path(name)
    except AdapterFileError:
        return False
    return True


def _root() -> Path:
    return output_folder() / _FOLDER


def checkpoint_name(path: Path) -> str:
    """The name of a checkpoint's file for ``resume_from``."""
    return path.relative_to(_root()).as_posix()


def _runs(run_name: str = "") -> Iterator[tuple[int, Path]]:
    """(number, folder) of all names that are taken by runs, or by those with this name."""
    for folder in _root().iterdir() if _root().is_dir() else ():
        match = _RUN.fullmatch(folder.name)
        if match and run_name in ("", match[1]):
            yield int(match[2]), folder


def _checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    """(updates, file) of a run's checkpoints; what a link leads to elsewhere is none."""
    for path in folder.iterdir() if folder.is_dir() and is_inside(folder) else ():
        match = _CHECKPOINT.fullmatch(path.name)
        if match and path.is_file() and is_inside(path):
            yield int(match[1]), path
