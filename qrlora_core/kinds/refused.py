"""Kinds that are no product of two matrices added to a weight, by what their keys have."""

from __future__ import annotations

import re

from .kind import Kind


def _refused(name: str, pattern: str) -> Kind:
    found = re.compile(pattern)
    return Kind(name, lambda key: (key, "refused") if found.search(key) else None)


REFUSED = [
    _refused("DoRA", r"\.dora_scale$|\.lora_magnitude_vector(\.|$)|\.magnitude$"),
    _refused("LoHa", r"\.hada_"),
    _refused("LoKr", r"\.lokr_"),
    _refused("OFT", r"\.b?oft_"),
    _refused("GLoRA", r"\.[ab][12]\.weight$"),
    _refused("IA3", r"\.on_input$|\.ia3_"),
    _refused(
        "LoRA that replaces or reshapes weights",
        r"\.set_weight$|\.reshape_weight$|\.lora_B(\.[^.]+)?\.bias$|\.lora_up\.bias$",
    ),
]
