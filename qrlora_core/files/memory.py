"""Memory for tensors that are read from files: few large pieces, in half the time of many small ones."""

from __future__ import annotations

import threading

import numpy as np

_ALIGNED = 64  # bytes, as PyTorch's own tensors are: some of its code relies on that
_PIECE = 2**24


class Memory:
    """Gives bytes out of pieces that numpy has the system make of large pages, which it does from 4 MB on.

    A piece is freed with the last of what was taken from it.

    Args:
        piece: bytes of one, or what will be taken in all where that is known.
    """

    def __init__(self, piece: int = _PIECE) -> None:
        self._piece = piece
        self._lock = threading.Lock()
        self._free = np.empty(0, dtype=np.uint8)

    def take(self, size: int) -> np.ndarray:
        """So many bytes, whose content is not defined; the first one's address is a multiple of 64."""
        padded = room_for(size)
        with self._lock:
            if padded > self._free.size:
                whole = np.empty(max(self._piece, padded) + _ALIGNED, dtype=np.uint8)
                self._free = whole[-whole.ctypes.data % _ALIGNED :]
            taken, self._free = self._free[:size], self._free[padded:]
        return taken


def room_for(size: int) -> int:
    """What so many bytes take of a piece."""
    return -(-size // _ALIGNED) * _ALIGNED
