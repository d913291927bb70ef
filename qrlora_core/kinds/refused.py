"""Kinds that are not served, by what their keys have behind the layer's name."""

from __future__ import annotations

import re

from .kind import Kind


def _refused(name: str, pattern: str, *, is_vital: bool = False) -> Kind:
    found = re.compile(pattern)

    def part(key: str) -> tuple[str, str] | None:
        match = found.search(key)
        return (key[: match.start()], "refused") if match and match.start() else None

    return Kind(name, part, is_vital=is_vital)


REFUSED = [
    _refused("DoRA in a layout that no common trainer writes", r"\.magnitude$"),
    _refused("OFT of PEFT", r"\.b?oft_"),
    _refused("IA3 of PEFT", r"\.ia3_"),
    _refused("VeRA", r"\.vera_"),
    # FLUX's canny and depth: the first layer gets room for a picture, without which they control nothing.
    _refused("LoRA that reshapes weights", r"\.reshape_weight$", is_vital=True),
]
