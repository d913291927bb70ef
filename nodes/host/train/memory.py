"""What to lower where memory does not suffice, and how much the tensors of a computation take."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import comfy.model_management
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ....qrlora_core import TrainingError
from .dataset import TrainingSet
from .settings import TrainingSettings

OUT_OF_MEMORY = getattr(comfy.model_management, "OOM_EXCEPTION", torch.OutOfMemoryError)


class MemoryShortageError(TrainingError):
    """A training that does not fit."""


def what_to_lower(settings: TrainingSettings) -> tuple[str, ...]:
    """What is still open, in the order in which it helps."""
    possible = {
        "switch gradient_checkpointing on": not settings.gradient_checkpointing,
        f"set batch_size (now {settings.batch_size}) to 1": settings.batch_size > 1,
        "encode a smaller picture": True,
        f"lower rank (now {settings.rank})": settings.rank > 1,
        "set targets to attention": settings.targets != "attention",
    }
    return tuple(what for what, is_open in possible.items() if is_open)


def shortage(data: TrainingSet, lower: Sequence[str]) -> MemoryShortageError:
    """The error of a training that ran out of memory.

    Args:
        lower: see `what_to_lower`.
    """
    size = " x ".join(map(str, data.examples[0].shapes[0][-2:]))
    return MemoryShortageError(f"out of memory while training (latents of {size}): {', or '.join(lower)}.")


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all tensors that are made within the context, as long as they live.

    What was there before, and what is a view of it, does not count; nor does what an operation needs within itself.
    To leave the context early would break the inference mode around it, so the count is stopped instead.

    Attributes:
        live: bytes now. peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.peak = 0, 0
        self._counted: set[int] = set()
        self._is_stopped = False

    def stop(self) -> None:
        """Count nothing that is made from now on, which takes time."""
        self._is_stopped = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._is_stopped:
            return func(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in given | self._counted:
                self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._counted.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.live -= size


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    """Of plain tensors; what wraps others has none of its own."""
    for value in tree_leaves(values):
        if isinstance(value, torch.UntypedStorage):
            yield value
        elif isinstance(value, torch.TypedStorage):
            yield value._untyped_storage
        elif type(value) in (Tensor, torch.nn.Parameter):
            yield value.untyped_storage()
