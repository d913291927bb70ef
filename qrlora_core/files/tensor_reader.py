"""The tensors of an open file, read in the background while those that are there are looked through."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import RawIOBase
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from .memory import Memory, room_for

CHUNK = 2**22  # bytes that are read in one go
# Of a tensor: its first byte in the file, its shape and its dtype.
Place = tuple[int, list[int], torch.dtype]


class TensorReader:
    """Copies of tensors in memory, each read once.

    Args:
        raw: the file, unbuffered.
        places: where its tensors lie, in the order of the file.
        memory: where they are to lie; by default in a piece of their own.
        expected: what will be read: with the first tensor begins the reading of these in the background.
    """

    def __init__(
        self, raw: RawIOBase, places: Mapping[str, Place], memory: Memory | None, expected: Iterable[str]
    ) -> None:
        self._raw, self._places, self._lock = raw, places, threading.Lock()
        self._memory = memory or Memory(sum(room_for(_size(place)) for place in places.values() if _in_pieces(place)))
        wanted = set(expected)
        self._expected = [key for key, place in places.items() if key in wanted and _in_pieces(place)]
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[str, Future[dict[str, np.ndarray]]] = {}

    def read(self, key: str) -> Tensor:
        """A tensor.

        Raises:
            ValueError: the file was cut short. OSError: it cannot be read.
        """
        place = self._places[key]
        _, shape, dtype = place
        if not _in_pieces(place):
            # Bytes that mean something to PyTorch, as a generator's state, it reads from where their storage begins.
            tensor = torch.empty(shape, dtype=dtype)
            self._fill(tensor.flatten().view(torch.uint8).numpy(), place[0])
            return tensor
        if self._expected:
            self._start()
        coming = self._coming.pop(key, None)
        raw = (self._taken([key]) if coming is None else coming.result())[key]
        return torch.from_numpy(raw).view(dtype).view(shape)

    def close(self) -> None:
        """Read no more."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _start(self) -> None:
        chunks = list(self._chunks())
        self._expected = []
        if len(chunks) == 1:
            return
        self._pool = ThreadPoolExecutor(1, "QR-LoRA reads a file")
        for chunk in chunks:
            self._coming.update(dict.fromkeys(chunk, self._pool.submit(self._taken, chunk)))

    def _chunks(self) -> Iterator[list[str]]:
        """The tensors that are expected, those that lie behind each other in the file and in memory together."""
        chunk, size, end = [], 0, 0  # type: list[str], int, int
        for key in self._expected:
            own = _size(self._places[key])
            if chunk and (size >= CHUNK or size != room_for(size) or self._places[key][0] != end):
                yield chunk
                chunk, size = [], 0
            chunk, size, end = [*chunk, key], size + own, self._places[key][0] + own
        yield chunk

    def _taken(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """The bytes of tensors that lie behind each other, read in one go."""
        sizes = [_size(self._places[key]) for key in keys]
        raw = self._memory.take(sum(sizes))
        self._fill(raw, self._places[keys[0]][0])
        starts = accumulate(sizes, initial=0)
        return {key: raw[start : start + size] for key, start, size in zip(keys, starts, sizes, strict=False)}

    def _fill(self, raw: np.ndarray, start: int) -> None:
        rest = raw.data
        with self._lock:
            self._raw.seek(start)
            while rest:
                count = self._raw.readinto(rest)
                if not count:
                    raise ValueError("it was cut short while it was read")
                rest = rest[count:]


def _size(place: Place) -> int:
    return math.prod(place[1]) * place[2].itemsize


def _in_pieces(place: Place) -> bool:
    return place[2].is_floating_point and _size(place) > 0
