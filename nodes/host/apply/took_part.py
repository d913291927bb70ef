"""What is told of layers and adapters that took no part in a picture, or only at its start."""

from __future__ import annotations

from collections.abc import Sequence, Set

from ..text import paths_as_text
from .device_factors import Binding


def lines_of_unrun(label: str, binding: Binding, *, acted: bool) -> list[str]:
    """A sentence on an adapter that did nothing in a sampling, or on its layers that did not run."""
    if not acted:
        return [f"{label} did nothing: its schedule was at 0 in every step. Move its start or its end."]
    names = binding.unrun_names()
    return [describe_unrun(label, names, sum(map(len, binding.match.own_names.values())))] if names else []


def lines_of_once(label: str, binding: Binding, once: Set[str]) -> list[str]:
    """A sentence on layers that a model runs before the first step alone, for what it makes of the prompt."""
    names = binding.names_of({target.module for target in binding.match.targets.values()} & once)
    return [describe_once(label, names)] if names else []


def describe_unrun(label: str, names: Sequence[str], total: int) -> str:
    """``content.safetensors: 3 of 304 layers did not run: a, b, c``"""
    if len(names) == total:
        return f"{label} did nothing: this model runs none of its {total} layers as such. Set apply to patch."
    return f"{label}: {len(names)} of {total} layers did not run: {paths_as_text(names)}"


def describe_once(label: str, names: Sequence[str]) -> str:
    """``content.safetensors: 12 layers run once, before the first step, at the scale of its schedule there: a, b``"""
    layers = paths_as_text(names)
    return f"{label}: {len(names)} layers run once, before the first step, at the scale of its schedule there: {layers}"
