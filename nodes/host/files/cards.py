"""What all adapter files say of themselves, in short, remembered between starts of the host by path, size and time."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import folder_paths

from ....qrlora_core import AdapterFileError
from .header import could_be_in_short, in_short

_VERSION = 1  # another where other facts are read from the same files
_MOST_FILES = 20_000
_LONGEST = 64 * 2**20  # bytes of what is remembered
# A file that was written so shortly before may be written again without another time.
_SETTLED = 2 * 10**9  # nanoseconds

Card = dict[str, str]
# Size, time in nanoseconds, and the card; None of a file that is no adapter.
_Entry = tuple[int, int, Card | None]


def remembered_file() -> Path:
    """In a folder of the host's that is no user's and holds no models: ``user/__qr_lora/library.json``."""
    return Path(folder_paths.get_user_directory()) / "__qr_lora" / "library.json"


class Cards:
    """The cards of many files, see `in_short`. A header is read once, until its file has another size or time.

    What is remembered is a convenience: damaged, lost or unwritable it costs time alone. Of two servers with one
    file the last that wrote it is remembered; what the other read, and is still there, stays.
    """

    def __init__(self, kept: Path) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._known: dict[str, _Entry] | None = None

    def of(self, files: Mapping[str, Path]) -> dict[str, Card | None]:
        """Name to card; None for a file that is no adapter or cannot be read."""
        with self._lock:
            before = self._known if self._known is not None else self._read()
            entries, cards = dict[str, _Entry](), dict[str, Card | None]()
            for name, path in files.items():
                with contextlib.suppress(OSError):  # removed since it was listed
                    entry, may_keep = _entry(path, before.get(str(path)))
                    cards[name] = entry[2]
                    if may_keep:
                        entries[str(path)] = entry
            if entries != before:
                self._write(before, entries)
            self._known = entries
            return cards

    def _read(self) -> dict[str, _Entry]:
        try:
            if self._kept.stat().st_size > _LONGEST:
                return {}
            told = json.loads(self._kept.read_bytes())
            files = told["files"] if told["version"] == _VERSION else {}
            return {path: (entry[0], entry[1], entry[2]) for path, entry in files.items() if _is_entry(entry)}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return {}

    def _write(self, before: Mapping[str, _Entry], entries: Mapping[str, _Entry]) -> None:
        others = {path: entry for path, entry in {**before, **self._read()}.items() if path not in entries}
        there = {path: entry for path, entry in others.items() if _is_as(path, entry)}
        kept = dict(list({**entries, **there}.items())[:_MOST_FILES])
        text = json.dumps({"version": _VERSION, "files": kept}, separators=(",", ":"))
        with contextlib.suppress(OSError), _temporary(self._kept) as temporary:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self._kept)


def _entry(path: Path, known: _Entry | None) -> tuple[_Entry, bool]:
    """A file as it is now, and whether that may be remembered.

    Raises:
        OSError: the file is gone.
    """
    found = path.stat()
    at = (found.st_size, found.st_mtime_ns)
    if known is not None and known[:2] == at:
        return known, True
    card, may_keep = _card(path)
    return (*at, card), may_keep and found.st_mtime_ns < time.time_ns() - _SETTLED


def _card(path: Path) -> tuple[Card | None, bool]:
    try:
        return in_short(path), True
    except AdapterFileError as error:
        # What the disk refused now it may give later; what the file says it says again.
        return None, not isinstance(error.__cause__, OSError)


def _is_entry(entry: Any) -> bool:
    """Whether this was written by us, as far as anyone can tell: what a file may not say, this may not either."""
    size, time_ns, card = entry
    return type(size) is int and type(time_ns) is int and (card is None or could_be_in_short(card))


def _is_as(path: str, entry: _Entry) -> bool:
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
