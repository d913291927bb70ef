"""Apply a merge of adapters to a host model and its text encoder, and report what was applied."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from ....qrlora_core import (
    Layer,
    QRLoRA,
    QRLoRAError,
    ScheduleError,
    TargetError,
    group_by_basis,
    is_of_text_encoder,
    merge,
)
from ....qrlora_core.functional.inner_product import inner_product
from ..apply.device_factors import patched_layers, unrun_layers
from ..apply.live import apply_live
from ..apply.patch import apply_patch, patched_by_others
from ..apply.source import Groups, Source
from ..model.base_check import other_base
from ..model.host_types import Clip, Patcher
from ..model.matching import Names, match, require_some
from ..model.memo import Note, remembered, remembered_of_all
from ..model.tried import untried
from .combine import Combination, combine
from .report import Neighbours, SourceReport, overview, report_merge, unrun_lines
from .rest import merge_of_rest

APPLY_MODES = ("live", "patch")
_ADD = Combination()
_PRODUCT: Note[float] = Note("inner product")
_GROUPS: Note[Groups] = Note("groups")
_MODE_KEY, _CLIP_SCALE_KEY = "qr_lora.merge_mode", "qr_lora.merge_clip_scale"
_OWN_CLIP_SCALES_KEY = "qr_lora.merge_own_clip_scales"


@dataclass(frozen=True)
class Applied:
    """A model, and a text encoder if one was given, with a merge on them; the merge as one adapter.

    Attributes:
        lines: what was applied. last: what did not run when the adapters were last live on this model.
        overview: the same for a page, see `report.overview`.
    """

    model: Patcher
    merged: QRLoRA
    lines: list[str]
    last: list[str]
    overview: dict[str, Any]
    clip: Clip | None = None


def apply_adapters(
    patcher: Patcher,
    sources: Sequence[Source],
    mode: str,
    *,
    how: Combination = _ADD,
    clip: Clip | None = None,
    clip_scale: float = 1.0,
    tell: Callable[[list[str]], None] = lambda lines: None,
) -> Applied:
    """Merge the sources and apply the result to clones of the model and of the text encoder.

    Args:
        mode: one of `APPLY_MODES`.
        how: the merge mode.
        clip: the host's CLIP, for adapters with layers of a text encoder. There each counts with
            `Source.in_text_encoder` and without its schedule.

    Raises:
        TargetError: an adapter of which nothing, or hardly anything, fits; what was given stays as it is.
        ScheduleError: a schedule with ``patch``, whose weights cannot change while sampling.
        QRLoRAError: an unknown mode, or a layer that the mode cannot serve.
    """
    if mode not in APPLY_MODES:
        raise QRLoRAError(f"apply: expected one of {', '.join(APPLY_MODES)}, found {mode!r}.")
    _require_steady(sources, mode)
    on_model = _Merge(patcher, sources, how)
    on_clip = _Merge(clip.patcher, _for_text_encoder(sources, clip_scale), how) if clip is not None else None
    found = [_report(index, source, on_model, on_clip, mode) for index, source in enumerate(sources)]
    for report in found:
        _require_some(patcher, report)
    neighbours, told = on_model.neighbours(), _together(tell)
    return Applied(
        on_model.apply(mode, told("model")),
        _whole_merge(found, on_model, on_clip, how, clip_scale),
        [*report_merge(found, neighbours, on_model.merged, how, clip_scale), *(untried(patcher) if found else [])],
        unrun_lines(found),
        overview(found, neighbours, on_model.merged),
        _with_patcher(clip, on_clip.apply(mode, told("clip"))) if clip is not None and on_clip is not None else None,
    )


def _require_some(patcher: Patcher, report: SourceReport) -> None:
    adapter = report.source.adapter
    if report.text_encoder is None and adapter.layers and _is_text_alone(report):
        raise TargetError(
            f"{adapter.name}: all of its {len(adapter.layers)} layers are for a text encoder. Connect the input clip "
            "of this node, and its output clip to the prompts."
        )
    in_text = sum(map(len, report.text_encoder.own_names.values())) if report.text_encoder else 0
    require_some(patcher, adapter, report.model, in_text)


def _is_text_alone(report: SourceReport) -> bool:
    layers = report.source.adapter.layers
    return len(report.left_out) == len(layers) and all(map(is_of_text_encoder, layers))


def _together(tell: Callable[[list[str]], None]) -> Callable[[str], Callable[[list[str]], None]]:
    """What takes the lines of one part, and tells the last ones of all parts."""
    latest: dict[str, list[str]] = {}

    def part(name: str) -> Callable[[list[str]], None]:
        def told(lines: list[str]) -> None:
            latest[name] = lines
            tell([line for lines in latest.values() for line in lines])

        return told

    return part


class _Merge:
    """The sources on one host model, the diffusion model or the text encoders: matched, combined and summed."""

    def __init__(self, patcher: Patcher, sources: Sequence[Source], how: Combination) -> None:
        self.patcher, self._names = patcher, Names(patcher)
        self.matches = [match(patcher, source.adapter, self._names) for source in sources]
        fitted = [replace(source, adapter=m.adapter) for source, m in zip(sources, self.matches, strict=True)]
        self._sources = combine(patcher, fitted, how, self._names)
        self._active = [source for source in self._sources if source.scale != 0]
        self._groups = self._group([source.adapter for source in self._active])
        self.merged = merge([(source.adapter, source.scale) for source in self._active], self._groups)

    def _group(self, adapters: list[QRLoRA]) -> Groups:
        if not adapters:
            return {}
        return remembered_of_all(adapters, self.patcher.model, _GROUPS, lambda: group_by_basis(adapters))

    def neighbours(self) -> list[Neighbours]:
        """How each two adapters that follow each other act on the same directions, worked out once for the two."""
        pairs = pairwise(matched.adapter for matched in self.matches)
        return [Neighbours(_product(a, b), _product(a, a), _product(b, b)) for a, b in pairs]

    def is_on(self, index: int) -> bool:
        """Whether an adapter counts here."""
        return self._sources[index].scale != 0

    def is_idle(self, index: int) -> bool:
        """Whether nothing is left of an adapter that is on: it was zero before, or is in this mode."""
        return self.is_on(index) and self._sources[index].adapter.is_zero

    def unrun(self, index: int) -> list[str]:
        """The names of an adapter's layers that did not run when this was last live on the model."""
        return unrun_layers(self.patcher, self._sources[index].adapter)

    def patched(self, index: int) -> list[str]:
        """The names of an adapter's layers that no hook can serve."""
        return patched_layers(self.patcher, self.matches[index])

    def containing_patches(self, index: int, mode: str) -> list[str]:
        """The names of layers that contain the weight, where other nodes have patched that."""
        matched = self.matches[index]
        return [
            name
            for path, target in matched.targets.items()
            if matched.adapter.layers[path].contains_base and _is_patched(self.patcher, target.key, mode)
            for name in matched.own_names[path]
        ]

    def apply(self, mode: str, tell: Callable[[list[str]], None]) -> Patcher:
        """A clone of the model with the merge on it."""
        if mode == "live":
            return apply_live(self.patcher, self._active, self._groups, self._names, tell)
        matches = [(match(self.patcher, own.adapter, self._names), own.scale) for own in self._active]
        return apply_patch(self.patcher, matches)


def _is_patched(patcher: Patcher, key: str, mode: str) -> bool:
    return key in patcher.patches if mode == "live" else patched_by_others(patcher, key)


def _product(first: QRLoRA, second: QRLoRA) -> float:
    """NaN where it is another one on every base weight."""
    if first.contains_base or second.contains_base:
        return math.nan
    return remembered(first, second, _PRODUCT, lambda: inner_product(first, second))


def _require_steady(sources: Sequence[Source], mode: str) -> None:
    scheduled = [source.label for source in sources if source.schedule is not None]
    if mode == "patch" and scheduled:
        raise ScheduleError(
            f"{', '.join(scheduled)}: a schedule needs apply = live: patched weights cannot change while sampling. "
            "Set apply to live, or disconnect the schedule."
        )


def _for_text_encoder(sources: Sequence[Source], clip_scale: float) -> list[Source]:
    return [replace(source, scale=source.in_text_encoder(clip_scale), schedule=None) for source in sources]


def _report(index: int, source: Source, on_model: _Merge, on_clip: _Merge | None, mode: str) -> SourceReport:
    matched = on_model.matches[index]
    live = [part for part in (on_model, on_clip) if part is not None and mode == "live"]
    return SourceReport(
        source,
        matched,
        on_clip.matches[index] if on_clip else None,
        other_base(on_model.patcher, source.adapter, matched),
        idle=on_model.is_idle(index) and (on_clip is None or on_clip.is_idle(index)),
        unrun=tuple(name for part in live for name in part.unrun(index)),
        patched=tuple(name for part in live if part.is_on(index) for name in part.patched(index)),
        containing=tuple(
            name
            for part in (on_model, on_clip)
            if part is not None and part.is_on(index)
            for name in part.containing_patches(index, mode)
        ),
    )


def _whole_merge(
    reports: Sequence[SourceReport], on_model: _Merge, on_clip: _Merge | None, how: Combination, clip_scale: float
) -> QRLoRA:
    """All layers of the merge as one adapter, with those that neither model has."""
    on_models = [part for part in (on_model, on_clip) if part is not None]
    rest = merge_of_rest([_left_out(report) for report in reports], how, clip_scale)
    merged = [part.merged.layers for part in on_models]
    layers: ChainMap[str, Layer] = ChainMap(*merged, rest)  # type: ignore[arg-type]
    told = {**on_model.merged.metadata, _MODE_KEY: _mode_text(reports, how)}
    if clip_scale != 1:
        told[_CLIP_SCALE_KEY] = f"{clip_scale:g}"
    if own := _own_clip_scales([report.source for report in reports]):
        told[_OWN_CLIP_SCALES_KEY] = own
    return replace(on_model.merged, layers=MappingProxyType(layers), metadata=told)


def _own_clip_scales(sources: Sequence[Source]) -> str:
    """``cat.safetensors 0.5, ink.safetensors 0``, of those that have one."""
    return ", ".join(f"{own.label} {own.clip_scale:g}" for own in sources if own.clip_scale is not None)


def _mode_text(reports: Sequence[SourceReport], how: Combination) -> str:
    return how.told([found.source.label for found in reports]) or how.mode.name


def _left_out(report: SourceReport) -> Source:
    """A source with the layers alone that no connected model has."""
    adapter = report.source.adapter
    layers = {path: adapter.layers[path] for path in report.left_out}
    return replace(report.source, adapter=replace(adapter, layers=layers))


def _with_patcher(clip: Clip, patcher: Patcher) -> Clip:
    clone = clip.clone()
    clone.patcher = patcher
    return clone
