"""Whether the host's own adapter of a layer acts, or ends in an error: tried on a weight without content."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

import torch

Shape = tuple[int, ...]
_NARROW = 8  # of a weight of which only the rows are known


class _Errors(logging.Filter):
    """Notes the errors that this thread logs, and keeps them out of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        own = record.thread == self._thread and record.levelno >= logging.ERROR
        self.found = self.found or own
        return not own


def acts(adapter: Any, shapes: Mapping[str, Shape]) -> bool:
    """Whether the host changes a weight by it. Some errors it logs, and goes on without the layer; others stop it.

    Args:
        adapter: the host's, of tensors of these shapes by part: ``up`` and ``down``, or as their names end.
    """
    shape = _weight_of(shapes)
    errors = _Errors()
    logging.getLogger().addFilter(errors)
    try:
        adapter.calculate_weight(_empty(shape, shapes), "weight", 1.0, 1.0, None, lambda change: change)
    except Exception:  # it is the host's, and a file may hold anything
        return False
    finally:
        logging.getLogger().removeFilter(errors)
    return shape is None or not errors.found


def _empty(shape: Shape | None, shapes: Mapping[str, Shape]) -> torch.Tensor:
    """Of rotations the host asks for numbers, which nothing without content has."""
    rotates = any(part.startswith("oft_") for part in shapes)
    return torch.zeros(shape or (1, 1), device="cpu" if rotates else "meta")


def _weight_of(shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape of the weight that a layer of these tensors is for; None where they do not tell."""
    try:
        if any(part.startswith("lokr_") for part in shapes):
            first, second = _side(shapes, 1), _side(shapes, 2)
            return (first[0] * second[0], first[1] * second[1], *second[2:])
        if "hada_w1_a" in shapes:
            return _product(shapes, "hada_w1_a", "hada_w1_b", "hada_t1")
        if blocks := shapes.get("oft_blocks"):
            return (blocks[-3] * blocks[-1], _NARROW)
        if "b1.weight" in shapes:
            return _of_glora(shapes)
        return (shapes["up"][0], shapes["down"][1], *shapes.get("mid", shapes["down"])[2:])
    except (KeyError, IndexError):
        return None


def _of_glora(shapes: Mapping[str, Shape]) -> Shape:
    """Older files have their factors the other way around, which the host tells by the ranks."""
    a1, a2, b1, b2 = (shapes[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    is_old = b2[1] == b1[0] == a1[0] == a2[1]
    return (b2[0], b1[1]) if is_old else (b1[0], b2[1])


def _side(shapes: Mapping[str, Shape], number: int) -> Shape:
    whole = shapes.get(f"lokr_w{number}")
    return whole or _product(shapes, f"lokr_w{number}_a", f"lokr_w{number}_b", f"lokr_t{number}")


def _product(shapes: Mapping[str, Shape], first: str, second: str, core: str) -> Shape:
    if core in shapes:
        return (shapes[first][1], shapes[second][1], *shapes[core][2:])
    return (shapes[first][0], shapes[second][1])
