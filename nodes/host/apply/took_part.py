"""What is told of layers and adapters that took no part in a picture, or only at its start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Set

import torch

from ....qrlora_core import QRLoRAError
from ..text import paths_as_text
from .device_factors import Binding
from .source import Source


class TookPart:
    """Which host modules ran in a sampling, and which adapters had a scale that was not zero.

    Args:
        bindings: of the sources.
        tell: gets a line for each adapter of which not all took part.
    """

    def __init__(
        self, sources: Sequence[Source], bindings: Sequence[Binding], tell: Callable[[list[str]], None]
    ) -> None:
        self._sources, self._bindings, self._tell = sources, bindings, tell
        self.start()

    def start(self) -> None:
        """Of a sampling."""
        self._steps = 0
        self._ran: set[str] = set()
        self._ran_before: set[str] = set()
        self._acted: set[int] = set()

    def note(self, ran: Set[str]) -> None:
        """Modules that ran."""
        self._ran |= ran

    def note_before_first(self, take_ran: Callable[[], set[str]]) -> None:
        """Before a step; what ran before the first one is kept apart."""
        if self._steps == 0:
            self._ran_before = take_ran()

    def note_step(self, scales: Sequence[float]) -> None:
        """The scale of each source in a step that begins."""
        self._steps += 1
        self._acted |= {index for index, scale in enumerate(scales) if scale}

    def tell_of_sampling(self) -> None:
        """At the end of one.

        Raises:
            QRLoRAError: steps were taken, but nothing ran.
        """
        ran, once, acted, steps = self._ran | self._ran_before, self._ran_before - self._ran, self._acted, self._steps
        self.start()
        if not steps:
            return
        if not ran and not any(binding.patched.targets for binding in self._bindings):
            raise QRLoRAError(
                "live adapters had no effect: this model runs other layers than those it names (it is wrapped or "
                "replaced by another node). Set apply to patch."
            )
        lines = []
        for index, (source, binding) in enumerate(zip(self._sources, self._bindings, strict=True)):
            if not binding.match.targets:
                continue
            binding.note_unrun(ran)
            lines += lines_of_unrun(source.label, binding, acted=index in acted)
            lines += lines_of_once(source.label, binding, once if source.schedule else set())
        self._told(lines)

    def tell_of_encoding(self, ran: Set[str], others: Set[str]) -> None:
        """When a text encoder has run.

        Args:
            others: modules of other encoders, of which nothing is known now.
        """
        lines = list[str]()
        for source, binding in zip(self._sources, self._bindings, strict=True):
            binding.note_unrun(ran | (others - binding.unrun))
            lines += lines_of_unrun(source.label, binding, acted=True)
        self._told(lines)

    def _told(self, lines: list[str]) -> None:
        for line in lines:
            logging.warning("QR-LoRA: %s", line)
        self._tell(lines)


def log_casts(layers: Mapping[str, torch.dtype], dtype: torch.dtype) -> None:
    """Name the layers that got another dtype than the model computes in: their factors were rounded to the latter."""
    for other in dict.fromkeys(layers.values()):
        names = [name for name, own in layers.items() if own is other]
        logging.info(
            "QR-LoRA: %d layer(s) get %s where the model computes in %s, in which their factors are: %s",
            len(names), other, dtype, paths_as_text(names),
        )  # fmt: skip


def lines_of_unrun(label: str, binding: Binding, *, acted: bool) -> list[str]:
    """A sentence on an adapter that did nothing in a sampling, or on its layers that did not run."""
    if not acted:
        return [f"{label} did nothing: its schedule was at 0 in every step. Move its start or its end."]
    names = binding.unrun_names()
    return [describe_unrun(label, names, binding.count)] if names else []


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
