"""All adapter kinds; a key belongs to the first one that knows it."""

from __future__ import annotations

from .difference import DIFFERENCE
from .glora import GLORA
from .ia3 import IA3
from .kind import Kind
from .loha import LOHA
from .lokr import LOKR
from .low_rank import LOW_RANK
from .oft import OFT
from .refused import REFUSED
from .replacement import REPLACEMENT

KINDS: list[Kind] = [LOW_RANK, DIFFERENCE, LOKR, LOHA, OFT, GLORA, IA3, REPLACEMENT, *REFUSED]


def part_of(key: str) -> tuple[Kind, str, str] | None:
    """(kind, layer's name, part) of a key; None where no kind knows it."""
    for kind in KINDS:
        if found := kind.part(key):
            return kind, *found
    return None
