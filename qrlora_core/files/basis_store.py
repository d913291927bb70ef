"""Bases kept apart from the adapters on them: found by name, checked by a sketch, rebuilt and aligned."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import AdapterError, AdapterFileError
from .safetensors_io import SUFFIX, plain, reading, write

# Of the sketch's norm. Another machine, thread count or precision of the decomposition gives 1e-5 to 1e-3 after
# alignment; a basis of another weight has at least one direction elsewhere.
_TOLERANCE = 1e-2
_SEED = 0
_DIGEST = "digest"  # of a basis in the cache: a sketch does not notice a few damaged entries
_BASIS_ID = re.compile(r"[0-9a-f]{32}")
# A sketch in float16 would lose 3e-4 of a basis that is rebuilt; above this rank it would outgrow what it saves.
_FULL_SKETCH_RANK = 64


def sketch(q: Tensor) -> Tensor:
    """``Q^T G`` (rank, rank): enough of a basis to tell it from others and to find a rotation of it.

    ``G`` (out, rank) is standard normal from a fixed seed, so the error of a sketch is, up to chance, that of the
    basis (Johnson and Lindenstrauss). float32, or float16 above rank 64.
    """
    found = q.detach().cpu().double().T @ _gaussian(*q.shape)
    return found.to(torch.float32 if q.shape[1] <= _FULL_SKETCH_RANK else torch.float16)


@lru_cache(maxsize=8)
def _gaussian(rows: int, columns: int) -> Tensor:
    # This generator's stream is frozen for all versions of numpy, which torch promises for none of its own.
    return torch.from_numpy(np.random.RandomState(_SEED).standard_normal((rows, columns)))


def differs(q: Tensor, stored: Tensor) -> float:
    """``|Q^T G - S|_F / |S|_F``: how far a basis is from the one with sketch S; infinity where shapes differ."""
    if q.ndim != 2 or stored.shape != (q.shape[1], q.shape[1]):
        return float("inf")
    # float32 does for a tolerance of this size, in a tenth of the time.
    found, expected = q.detach().cpu().float().T @ _gaussian(*q.shape).float(), stored.float()
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected).clamp_min(1e-30))


def fits(q: Tensor, stored: Tensor) -> bool:
    """True when a basis is the one with this sketch."""
    return differs(q, stored) <= _TOLERANCE


def align(q: Tensor, stored: Tensor) -> Tensor:
    """The rotation of a rebuilt basis that has the stored sketch: ``Q O`` with ``O = argmin |O^T Q^T G - S|_F``.

    A QR decomposition is unique only where singular values are apart and leading columns independent; elsewhere
    another machine finds another basis of the same space. The orthogonal Procrustes problem has the solution
    ``O = V U^T`` of ``U Σ V^T = svd(S (Q^T G)^T)`` (Schönemann, 1966).

    Args:
        q: (out, rank), orthonormal columns. stored: (rank, rank), as `sketch` gave it.

    Returns:
        (out, rank) float32.

    Raises:
        AdapterError: even the best rotation leaves more than 1 % of the sketch: the spaces differ.
    """
    if q.ndim != 2 or stored.shape != (q.shape[1], q.shape[1]):
        raise AdapterError(f"expected a basis for a sketch {tuple(stored.shape)}, found one of {tuple(q.shape)}.")
    found = q.detach().cpu().double().T @ _gaussian(*q.shape)
    left, _, right = torch.linalg.svd(stored.double() @ found.T)
    aligned: Tensor = q.detach().cpu().double() @ (left @ right).T
    if not fits(aligned, stored):
        raise AdapterError(
            f"the basis of this model spans another space: its sketch differs by {differs(aligned, stored):.1%}, "
            f"at most {_TOLERANCE:.0%} is expected. The adapter was made for another base model; connect that one."
        )
    return aligned.float()


class BasisStore:
    """Bases in a folder, one file each: a cache, which may be deleted at any time.

    A basis is found by the digest of the q that it was first stored for (`Term.basis_id`), so adapters on one
    base model and rank share it. What was rebuilt and aligned is stored under the same name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, basis_id: str, stored: Tensor) -> Tensor | None:
        """The basis of this name if it is there, undamaged and has this sketch, else None."""
        try:
            with reading(self._path(basis_id, stored.shape[0])) as file:
                q, digest = file.get_tensor("q"), file.metadata().get(_DIGEST)
        except AdapterFileError:
            return None  # a damaged cache entry is one that is missing
        whole = q.is_floating_point() and _digest(q) == digest
        return q if whole and fits(q, stored) else None

    def put(self, basis_id: str, q: Tensor) -> None:
        """Store a basis, in its dtype.

        Raises:
            AdapterFileError: the folder cannot be written.
        """
        write(self._path(basis_id, q.shape[1]), {"q": plain(q)}, {_DIGEST: _digest(q)})

    def _path(self, basis_id: str, rank: int) -> Path:
        if not _BASIS_ID.fullmatch(basis_id):  # it comes from a file and becomes a path
            raise AdapterError(f"expected the name of a basis as 32 hexadecimal digits, found {basis_id[:50]!r}.")
        return self._folder / f"rank_{rank}" / f"{basis_id}{SUFFIX}"


def _digest(q: Tensor) -> str:
    return hashlib.blake2b(plain(q).flatten().view(torch.uint8).numpy().data, digest_size=16).hexdigest()
