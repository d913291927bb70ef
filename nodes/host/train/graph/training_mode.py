"""The host's own switches for training: with them its models take paths that have gradients, or fewer roundings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import comfy.model_management

# The last one would quantize the gradients in the host's own layers; a training of the host's leaves it as it was.
_SWITCHES = {"in_training": True, "training_fp8_bwd": False}


@contextlib.contextmanager
def training_mode() -> Iterator[Inference]:
    """Within the context, the host is training, as far as it knows the word; yields the way back for a while."""
    before = {name: getattr(comfy.model_management, name) for name in _SWITCHES if _is_known(name)}
    with _set({name: _SWITCHES[name] for name in before}):
        yield Inference(before)


class Inference:
    """The switches as they were before the training."""

    def __init__(self, before: dict[str, bool]) -> None:
        self._before = before

    @property
    def differs(self) -> bool:
        """Whether the host knows of training at all."""
        return bool(self._before)

    @contextlib.contextmanager
    def resumed(self) -> Iterator[None]:
        """Within the context, the host computes as before: for sample pictures."""
        with _set(self._before):
            yield


def _is_known(name: str) -> bool:
    return hasattr(comfy.model_management, name)


@contextlib.contextmanager
def _set(values: dict[str, bool]) -> Iterator[None]:
    before = {name: getattr(comfy.model_management, name) for name in values}
    try:
        for name, value in values.items():
            setattr(comfy.model_management, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(comfy.model_management, name, value)
