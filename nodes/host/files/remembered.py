"""What was worked out from files, remembered between starts of the host by path, size and time."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import folder_paths

_MOST_FILES = 20_000
_LONGEST = 64 * 2**20  # bytes of what is remembered
# A file that was written so shortly before may be written again without another time.
_SETTLED = 2 * 10**9  # nanoseconds

Value = TypeVar("Value")
# Size, time in nanoseconds, and what was worked out.
_Entry = tuple[int, int, Value]


def remembered_folder() -> Path:
    """A folder of the host's that is no user's and holds no models: ``user/__qr_lora``."""
    return Path(folder_paths.get_user_directory()) / "__qr_lora"


class Remembered(Generic[Value]):
    """One value for each of many files. A file is read once, until it has another size or time.

    What is remembered is a convenience: damaged, lost or unwritable it costs time alone. Of two servers with one
    file the last that wrote it is remembered; what the other read, and is still there, stays.

    Args:
        kept: where it lies between starts.
        version: another where other values come from the same files.
        work_out: the value of a file, which JSON can say, and whether it may be remembered.
        could_be: whether it could have given this: for what lay in a file, where anybody may have changed it.
    """

    def __init__(
        self,
        kept: Path,
        version: int,
        work_out: Callable[[Path], tuple[Value, bool]],
        could_be: Callable[[object], bool],
    ) -> None:
        self._kept = kept
        self._version = version
        self._work_out = work_out
        self._could_be = could_be
        self._lock = threading.Lock()
        self._known: dict[str, _Entry[Value]] | None = None

    def of(self, files: Mapping[str, Path]) -> dict[str, Value]:
        """Name to value; a file that is gone is left out."""
        with self._lock:
            known = self._remembered()
            entries, values = dict[str, _Entry[Value]](), dict[str, Value]()
            for name, path in files.items():
                with contextlib.suppress(OSError):  # removed since it was listed
                    entry, may_keep = self._entry(path, known.get(str(path)))
                    values[name] = entry[2]
                    if may_keep:
                        entries[str(path)] = entry
            if any(known.get(path) is not entry for path, entry in entries.items()):
                self._known = self._write(known, entries)
            return values

    def already(self, path: Path) -> Value | None:
        """What is remembered of a file as it is now; None where it would have to be worked out."""
        with self._lock:
            entry = self._remembered().get(str(path))
        return entry[2] if entry is not None and _is_as(str(path), entry) else None

    def _remembered(self) -> dict[str, _Entry[Value]]:
        if self._known is None:
            self._known = self._read()
        return self._known

    def _entry(self, path: Path, known: _Entry[Value] | None) -> tuple[_Entry[Value], bool]:
        """A file as it is now, and whether that may be remembered.

        Raises:
            OSError: the file is gone.
        """
        found = path.stat()
        at = (found.st_size, found.st_mtime_ns)
        if known is not None and known[:2] == at:
            return known, True
        value, may_keep = self._work_out(path)
        return (*at, value), may_keep and found.st_mtime_ns < time.time_ns() - _SETTLED

    def _read(self) -> dict[str, _Entry[Value]]:
        try:
            if self._kept.stat().st_size > _LONGEST:
                return {}
            told = json.loads(self._kept.read_bytes())
            files = told["files"] if told["version"] == self._version else {}
            return {path: (entry[0], entry[1], entry[2]) for path, entry in files.items() if self._is_entry(entry)}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return {}

    def _write(
        self, before: Mapping[str, _Entry[Value]], entries: Mapping[str, _Entry[Value]]
    ) -> dict[str, _Entry[Value]]:
        others = {path: entry for path, entry in {**before, **self._read()}.items() if path not in entries}
        there = {path: entry for path, entry in others.items() if _is_as(path, entry)}
        kept = dict(list({**entries, **there}.items())[:_MOST_FILES])
        text = json.dumps({"version": self._version, "files": kept}, separators=(",", ":"))
        with contextlib.suppress(OSError), _temporary(self._kept) as temporary:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self._kept)
        return kept

    def _is_entry(self, entry: Any) -> bool:
        """Whether this was written by us, as far as anyone can tell: what a file may not say, this may not either."""
        size, time_ns, value = entry
        return type(size) is int and type(time_ns) is int and self._could_be(value)


def _is_as(path: str, entry: _Entry[Any]) -> bool:
    try:
        found = os.stat(path)  # noqa: PTH116 (of thousands)
    except (OSError, ValueError):
        return False
    return (found.st_size, found.st_mtime_ns) == entry[:2]


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
