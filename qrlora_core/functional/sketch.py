"""Sketches of a basis: small, and enough to tell it from others and to find a rotation of it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..errors import AdapterError, Reason

# Of the sketch's norm. Another machine, thread count or precision of the decomposition gives 1e-5 to 1e-3 after
# alignment; a basis of another weight has at least one direction elsewhere.
_TOLERANCE = 1e-2
_SURE = 3e-3  # of a basis that has one direction elsewhere, probes show 1e-1 but for chance
_PROBES = 2
_KEPT_SHAPES = 64  # a model has few
_SEED = 0
_KEPT_NUMBERS = 2**21  # 17 MB; a longer stream takes their place
# A sketch in float16 would lose 3e-4 of a basis that is rebuilt; above this rank it would outgrow what it saves.
_FULL_SKETCH_RANK = 64


def sketch(q: Tensor) -> Tensor:
    """``Q^T G`` (rank, rank): enough of a basis to tell it from others and to find a rotation of it.

    ``G`` (out, rank) is standard normal from a fixed seed, so the error of a sketch is, up to chance, that of the
    basis (Johnson and Lindenstrauss). float32, or float16 above rank 64.
    """
    found = q.detach().cpu().double().T @ _gaussian(*q.shape)
    return found.to(torch.float32 if q.shape[1] <= _FULL_SKETCH_RANK else torch.float16)


def _gaussian(rows: int, columns: int) -> Tensor:
    """G (rows, columns) float64: of every shape the beginning of one stream of numbers."""
    count = rows * columns
    return _stream(max(_KEPT_NUMBERS, count))[:count].view(rows, columns)


def _gaussian32(rows: int, columns: int) -> Tensor:
    return _stream32(rows, columns)[: rows * columns].view(rows, columns)


def _stream32(rows: int, columns: int) -> Tensor:
    return _rounded_stream(max(_KEPT_NUMBERS, rows * columns))


@lru_cache(maxsize=1)
def _rounded_stream(count: int) -> Tensor:
    return _stream(count).float()


@lru_cache(maxsize=1)
def _stream(count: int) -> Tensor:
    # This generator's stream is frozen for all versions of numpy, which torch promises for none of its own.
    return torch.from_numpy(np.random.RandomState(_SEED).standard_normal(count))


def differs(q: Tensor, stored: Tensor) -> float:
    """``|Q^T G - S|_F / |S|_F``: how far a basis is from the one with sketch S; infinity where shapes differ."""
    if q.ndim != 2 or stored.shape != (q.shape[1], q.shape[1]):
        return float("inf")
    # float32 does for a tolerance of this size, in a tenth of the time.
    found, expected = q.detach().cpu().float().T @ _gaussian32(*q.shape), stored.float()
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected).clamp_min(1e-30))


def fits(q: Tensor, stored: Tensor) -> bool:
    """True when a basis is the one with this sketch.

    ``|Q^T (G v) - S v| / |S v|`` for two random v tells at once (Freivalds, 1977), in a tenth of the time of the
    product, since ``G v`` is kept; only where it is not far below the tolerance, all of the sketch is compared.
    """
    if q.ndim != 2 or stored.shape != (q.shape[1], q.shape[1]):
        return False
    columns, expected = q.detach().cpu().float(), stored.float()
    return all(_agrees(columns, expected, *probe) for probe in _probes(*q.shape)) or differs(q, stored) <= _TOLERANCE


@lru_cache(maxsize=_KEPT_SHAPES)
def _probes(rows: int, columns: int) -> list[tuple[Tensor, Tensor]]:
    """(v, G v)."""
    drawn = _stream32(rows, columns)[-_PROBES * columns :].split(columns)
    return [(probe.clone(), _gaussian32(rows, columns).mv(probe)) for probe in drawn]


def _agrees(q: Tensor, stored: Tensor, probe: Tensor, product: Tensor) -> bool:
    found, expected = q.T.mv(product), stored.mv(probe)
    return float(torch.linalg.vector_norm(found - expected)) <= _SURE * float(torch.linalg.vector_norm(expected))


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
            f"at most {_TOLERANCE:.0%} is expected. The adapter was made for another base model.",
            Reason.OTHER_BASE,
        )
    return aligned.float()
