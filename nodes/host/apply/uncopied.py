"""Hooks of ours that a copy of a module does not take along: no patcher knows it, and nobody would ever remove them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Uncopied:
    """What does nothing in a deep copy of whatever holds it."""

    def __deepcopy__(self, _memo: object) -> Callable[..., None]:
        """See the class."""
        return _nothing


class UncopiedHook(Uncopied):
    """A function as such a hook."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """What PyTorch calls."""
        return self._function(*args)


def _nothing(*_: object) -> None:
    """A hook that leaves everything as it is."""
