"""Bases kept apart from the adapters on them: found by name and checked by a sketch."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import AdapterError, AdapterFileError
from ..functional.sketch import fits, sketch
from ..term import Term
from .memory import Memory
from .safetensors_io import SUFFIX, plain, reading, write

# Of a basis in the cache: a sketch does not notice a few damaged entries. Earlier versions wrote a digest, which takes
# four times as long as reading.
_CHECKSUM, _DIGEST = "checksum", "digest"
_LANES = 1024
_OF_WEIGHT = "of_weight_"
_BASIS, _CONTENT = "basis", "content"  # of what is known of a weight: the name of its basis, and how much it has
_ID = re.compile(r"[0-9a-f]{32}")
_CONTENT_ROWS = re.compile(r"[0-9]{1,9}")


class BasisStore:
    """Bases in a folder, one file each: a cache, which may be deleted at any time.

    A basis is found by the digest of the q that it was first stored for (`Term.basis_id`), so adapters on one
    base model and rank share it. What was rebuilt and aligned is stored under the same name. A weight that was
    decomposed here is known by its digest: a small file beside the bases says which of them is its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memory = Memory()
        self.has_grown = False  # since it was made

    def find(self, basis_id: str, stored: Tensor) -> Tensor | None:
        """The basis of this name if it is there, undamaged and has this sketch, else None."""
        read = self._read(self._path(basis_id, stored.shape[0]), "q")
        if read is None:
            return None
        q, told = read
        whole = q.is_floating_point() and _is_undamaged(q, told)
        return q if whole and fits(q, stored) else None

    def put(self, basis_id: str, q: Tensor) -> None:
        """Store a basis, in its dtype.

        Raises:
            AdapterFileError: the folder cannot be written.
        """
        kept = plain(q)
        write(self._path(basis_id, q.shape[1]), {"q": kept}, {_CHECKSUM: _checksum(kept)})
        self.has_grown = True

    def find_of(self, weight: str, rank: int) -> tuple[Tensor, int] | None:
        """What `put_of` kept for a weight at a rank, bit for bit, if it is there and undamaged, else None."""
        read = self._read(self._path(weight, rank, _OF_WEIGHT), "sketch")
        if read is None:
            return None
        sketch_of_q, told = read
        content, basis_id = told.get(_CONTENT, ""), told.get(_BASIS, "")
        if sketch_of_q.shape != (rank, rank) or not _CONTENT_ROWS.fullmatch(content) or not _ID.fullmatch(basis_id):
            return None
        q = self.find(basis_id, sketch_of_q)
        # Under its name may also lie one that was rebuilt elsewhere and aligned: as good, but other bits.
        return None if q is None or _checksum(q) != told.get(_CHECKSUM) else (q, min(int(content), rank))

    def put_of(self, weight: str, q: Tensor, content: int) -> None:
        """Store the basis of a weight, so that it is found by the weight as well as by its own name.

        Args:
            weight: the digest of the weight, see `weight_digest`.
            content: how many columns the weight has, see `factors_on`.

        Raises:
            AdapterFileError: the folder cannot be written.
        """
        basis_id = Term(q, q.new_zeros(q.shape[1], 1)).basis_id
        self.put(basis_id, q)
        told = {_BASIS: basis_id, _CHECKSUM: _checksum(plain(q)), _CONTENT: str(content)}
        write(self._path(weight, q.shape[1], _OF_WEIGHT), {"sketch": plain(sketch(q))}, told)

    def prune(self, limit: int) -> int:
        """Delete the bases that were not used for the longest time until the others have at most `limit` bytes.

        Returns:
            How many were deleted.
        """
        used: list[tuple[float, int, Path]] = []
        for path in self._folder.glob(f"rank_*/*{SUFFIX}"):
            with contextlib.suppress(OSError):  # another process may have deleted it
                found = path.stat()
                used.append((max(found.st_atime, found.st_mtime), found.st_size, path))
        total, deleted = sum(size for _, size, _ in used), 0
        for _, size, path in sorted(used):
            if total <= limit:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                deleted += 1
            total -= size
        return deleted

    def _read(self, path: Path, key: str) -> tuple[Tensor, dict[str, str]] | None:
        """A tensor of an entry and its metadata; None where it is not there or damaged, the same to a cache."""
        try:
            with reading(path, self._memory) as file:
                found = file.get_tensor(key), file.metadata()
        except AdapterFileError:
            return None
        with contextlib.suppress(OSError):  # a folder that can only be read
            # Used now; a file system alone may not note it.
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return found

    def _path(self, name: str, rank: int, kind: str = "") -> Path:
        if not _ID.fullmatch(name):  # it comes from a file and becomes a path
            raise AdapterError(f"expected the name of a basis as 32 hexadecimal digits, found {name[:50]!r}.")
        return self._folder / f"rank_{rank}" / f"{kind}{name}{SUFFIX}"


def _is_undamaged(q: Tensor, told: Mapping[str, str]) -> bool:
    if _CHECKSUM in told:
        return _checksum(q) == told[_CHECKSUM]
    return hashlib.blake2b(_bytes(q).data, digest_size=16).hexdigest() == told.get(_DIGEST)


def _checksum(q: Tensor) -> str:
    """Sums of every 1,024th word of 8 bytes, hashed: against damage, not against intent, and as fast as reading."""
    raw = _bytes(q)
    words = raw[: raw.size // (8 * _LANES) * 8 * _LANES].view(np.uint64).reshape(-1, _LANES)
    rest = raw[words.nbytes :]
    return hashlib.blake2b(words.sum(0).tobytes() + rest.tobytes(), digest_size=16).hexdigest()


def _bytes(q: Tensor) -> np.ndarray:
    raw: np.ndarray = q.contiguous().flatten().view(torch.uint8).numpy()
    return raw
