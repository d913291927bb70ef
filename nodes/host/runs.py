"""Where the checkpoints of trainings lie: a numbered folder per run under ``output/qr_loras/checkpoints``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ...qrlora_core import AdapterFileError, TrainingError, TrainingState, save_training
from .files import output_folder

_FOLDER = "checkpoints"
_CHECKPOINT = re.compile(r"^step_(\d{8})\.safetensors$")
_NAME = re.compile(r"^[\w][\w .-]*$")


class Run:
    """The folder of one training.

    Args:
        folder: made when the first file is written.
        keep: how many checkpoints stay; older ones of this run are removed. 0: none is ever written.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep

    @property
    def writes(self) -> bool:
        """Whether checkpoints are wanted at all."""
        return self._keep > 0

    def write(self, state: TrainingState, updates: int) -> str:
        """Write a checkpoint, then remove those that are too many; returns its name for ``resume_from``.

        Raises:
            AdapterFileError: it cannot be written; the others stay as they are.
        """
        path = save_training(state, self.folder / f"step_{updates:08}.safetensors")
        for _, old in sorted(_checkpoints(self.folder))[: -self._keep]:
            old.unlink(missing_ok=True)
        return checkpoint_name(path)


def new_run(run_name: str, keep: int) -> Run:
    """A run in a folder of its own: ``<run_name>_00001`` and so on.

    Raises:
        TrainingError: a name that is no plain folder name.
    """
    if not _NAME.match(run_name):
        raise TrainingError(
            f"run_name: expected a plain name such as 'cat' (no slashes, not empty), found {run_name!r}."
        )
    taken = [number for number, _ in _runs(run_name)]
    return Run(_root() / f"{run_name}_{max(taken, default=0) + 1:05}", keep)


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
    path = _root() / os.path.normpath(name.replace("\\", "/"))
    if path.parent.parent != _root() or not _CHECKPOINT.match(path.name) or not path.is_file():
        raise AdapterFileError(
            f"resume_from: no checkpoint {name!r} in {_root()}. It was moved, renamed or deleted. Press R to refresh "
            "the list, choose another, or choose none to start anew."
        )
    return path


def latest_checkpoint(run_name: str) -> Path | None:
    """The last checkpoint of the newest run of this name that has one."""
    found = [(number, step, path) for number, folder in _runs(run_name) for step, path in _checkpoints(folder)]
    return max(found)[2] if found else None


def _root() -> Path:
    return output_folder() / _FOLDER


def checkpoint_name(path: Path) -> str:
    """The name of a checkpoint's file for ``resume_from``."""
    return path.relative_to(_root()).as_posix()


def _runs(run_name: str = "") -> Iterator[tuple[int, Path]]:
    """(number, folder) of all runs, or of those with this name."""
    for folder in _root().iterdir() if _root().is_dir() else ():
        name, _, number = folder.name.rpartition("_")
        if folder.is_dir() and number.isdigit() and run_name in ("", name):
            yield int(number), folder


def _checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    """(updates, file) of a run's checkpoints."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := _CHECKPOINT.match(path.name):
            yield int(match[1]), path
