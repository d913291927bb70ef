"""Which files are opened: what is said to be read from nowhere else is seen not to be."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LISTS: list[list[str]] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _LISTS and isinstance(arguments[0], (str, bytes, os.PathLike)):
        for heard in _LISTS:
            heard.append(os.path.realpath(os.fsdecode(arguments[0])))


sys.addaudithook(_hear)  # which no one can take back; it hears nothing outside of `opened`


@contextmanager
def opened() -> Iterator[list[str]]:
    """The real paths of all files that are opened within."""
    heard: list[str] = []
    _LISTS.append(heard)
    try:
        yield heard
    finally:
        _LISTS.remove(heard)


def below(paths: list[str], folder: Path) -> list[str]:
    """Those of them that lie in a folder, by their names from it."""
    root = os.path.realpath(folder)
    return [os.path.relpath(path, root) for path in paths if path.startswith(root + os.sep)]
