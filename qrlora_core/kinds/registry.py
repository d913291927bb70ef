"""All adapter kinds; a key belongs to the first one that knows it."""

from __future__ import annotations

from .difference import DIFFERENCE
from .kind import Kind
from .low_rank import LOW_RANK
from .refused import REFUSED

KINDS: list[Kind] = [LOW_RANK, DIFFERENCE, *REFUSED]


def part_of(key: str) -> tuple[Kind, str, str] | None:
    """(kind, layer's name, part) of a key; None where no kind knows it."""
    for kind in KINDS:
        if found := kind.part(key):
            return kind, *found
    return None
