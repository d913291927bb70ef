"""Kinds that are no product of two matrices added to a weight, by what their keys have behind the layer's name."""

from __future__ import annotations

import re

from .kind import Kind


def _refused(name: str, pattern: str) -> Kind:
    found = re.compile(pattern)

    def part(key: str) -> tuple[str, str] | None:
        match = found.search(key)
        return (key[: match.start()], "refused") if match and match.start() else None

    return Kind(name, part)


REFUSED = [
    _refused("DoRA", r"\.dora_scale$|\.lora_magnitude_vector(\.|$)|\.magnitude$"),
    _refused("LoHa", r"\.hada_"),
    _refused("LoKr", r"\.lokr_"),
    _refused("OFT", r"\.b?oft_"),
    _refused("GLoRA", r"\.[ab][12]\.weight$"),
    _refused("IA3", r"\.on_input$|\.ia3_"),
    _refused("LoRA that replaces or reshapes weights", r"\.set_weight$|\.reshape_weight$"),
]
