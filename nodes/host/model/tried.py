"""Which kinds of models this pack was tried with. All others are served by the same general rules."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from .host_types import Patcher
from .weights import base_name

_RECORD = Path(__file__).with_suffix(".json")


def untried(patcher: Patcher) -> list[str]:
    """A line for the user where no test of this pack had a model of this kind; else nothing."""
    name = base_name(patcher)
    if name in _tried():
        return []
    return [
        f"note: this pack was never tried with a model of the kind {name}. Its layers are found by ComfyUI's own "
        "rules; compare a picture with ComfyUI's own LoRA loader before you rely on it."
    ]


@cache
def _tried() -> frozenset[str]:
    """The host's classes of the models in the record that `generators.support` keeps."""
    record = json.loads(_RECORD.read_text(encoding="utf-8"))
    return frozenset(answers["class"] for models in record.values() for answers in models.values())
