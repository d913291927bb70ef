"""Whole files by their content: SHA-256, and which file is likely one that was moved or renamed."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .folders import adapter_files
from .remembered import Remembered, remembered_folder

_VERSION = 1
_CHUNK = 2**20  # bytes
_SHA256 = re.compile("[0-9a-f]{64}")
_NO_LETTERS = re.compile(r"[\W_]+")
_MOST_LIKELY = 5
_LEAST_LIKENESS = 0.6  # of `difflib`: 1 for the same
_LONGEST_STEM = 255
_MOST_READ = 8 * 2**30  # bytes


class Hashes:
    """SHA-256 of adapter files, each read once until it has another size or time.

    Args:
        kept: where they are remembered between starts; None for the host's place.
    """

    def __init__(self, kept: Path | None = None) -> None:
        place = remembered_folder() / "hashes.json" if kept is None else kept
        self._remembered = Remembered[str](place, _VERSION, lambda path: (_sha256(path), True), is_sha256)

    def of(self, path: Path) -> tuple[int, str] | None:
        """Bytes and SHA-256 of a file; None where it is gone or cannot be read. Takes seconds for a large one."""
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            for found in self._remembered.of({"": path}).values():
                return size, found
        return None

    def already(self, path: Path) -> str | None:
        """SHA-256 as it is remembered; None where the file would have to be read."""
        return self._remembered.already(path)


@dataclass(frozen=True)
class Likely:
    """A file that another may be.

    Args:
        name: as `adapter_names` has it. same: whether it has the same content.
    """

    name: str
    same: bool


class Search:
    """One look through all adapter files for several that are missing. Lists and reads only what is asked for.

    Args:
        most_read: bytes that it reads in all; what it reads is remembered, so that the next comes further.
    """

    def __init__(self, hashes: Hashes, most_read: int = _MOST_READ) -> None:
        self._hashes = hashes
        self._left = most_read

    def likely(self, file: str, size: int = 0, sha256: str = "") -> list[Likely]:
        """The most likely first: those of the same content, of the same stem, of a similar one; at most five.

        Args:
            file: name of the missing file, with slashes of either kind.
            size: its bytes; 0 where unknown. Only files of that size are read.
            sha256: hexadecimal; empty where unknown.
        """
        stem = _stem(file)
        same = self._same_content(stem, size, sha256) if size and sha256 else []
        names = [*same, *self._by_stem.get(stem, []), *self._similar(stem)]
        return [Likely(name, name in same) for name in list(dict.fromkeys(names))[:_MOST_LIKELY]]

    def _same_content(self, stem: str, size: int, sha256: str) -> list[str]:
        """Where one is found, no other is read for the sake of it."""
        found: list[str] = []
        for name in sorted(self._by_size.get(size, []), key=lambda name: (_stem(name) != stem, name)):
            path = self._files[name]
            known = self._hashes.already(path)
            if known is None and not found and size <= self._left:
                self._left -= size
                known = (self._hashes.of(path) or (size, None))[1]
            if known == sha256:
                found.append(name)
        return found

    def _similar(self, stem: str) -> Iterator[str]:
        close = difflib.get_close_matches(stem, self._by_stem, _MOST_LIKELY, _LEAST_LIKENESS) if stem else []
        for other in close:
            yield from self._by_stem[other]

    @cached_property
    def _files(self) -> dict[str, Path]:
        return adapter_files()

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = {}
        for name in sorted(self._files):
            stems.setdefault(_stem(name), []).append(name)
        return stems

    @cached_property
    def _by_size(self) -> dict[int, list[str]]:
        sizes: dict[int, list[str]] = {}
        for name, path in self._files.items():
            with contextlib.suppress(OSError):  # removed since it was listed
                sizes.setdefault(path.stat().st_size, []).append(name)
        return sizes


def _stem(name: str) -> str:
    """What of a file's name tells it apart: letters and digits, in any case, whatever stands between them."""
    file = name.replace("\\", "/").rpartition("/")[2]
    stem = os.path.splitext(file)[0][:_LONGEST_STEM]  # noqa: PTH122 (of thousands)
    return _NO_LETTERS.sub(" ", stem.casefold()).strip()


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def is_sha256(told: object) -> bool:
    """Whether it is one as text: 64 hexadecimal digits in small letters."""
    return isinstance(told, str) and _SHA256.fullmatch(told) is not None
