"""What a user reads about a merge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ....qrlora_core import QRLoRA, is_of_text_encoder
from ....qrlora_core.adapter import MergeRecord
from ....qrlora_core.functional.compare import interference
from ..apply.took_part import describe_unrun
from ..text import paths_as_text, ranks_as_text

if TYPE_CHECKING:
    from ..apply.source import Source
    from ..model.matching import Match
    from .combine import Combination

_SHOWN_REASONS = 3
# What the host does otherwise at a strength that is not 1: it squares it, takes it stage by stage, or ignores it.
_OTHERWISE_SCALED = {"OFT", "BOFT", "replaced weight"}


@dataclass(frozen=True)
class SourceReport:
    """What became of one adapter of a merge.

    Attributes:
        other_base: a sentence, empty where the base is its own.
        idle: whether it is on and changes nothing.
        unrun: names of its layers that did not run when it was last live on this model.
        patched: names of its layers that were patched in, though the others are live.
        containing: names of its layers that contain the weight, where nodes before have patched that.
    """

    source: Source
    model: Match
    text_encoder: Match | None
    other_base: str
    idle: bool = False
    unrun: tuple[str, ...] = ()
    patched: tuple[str, ...] = ()
    containing: tuple[str, ...] = ()

    @property
    def unfit(self) -> dict[str, str]:
        """Names of layers that cannot be applied to what they are for, and why."""
        fixed = dict.fromkeys(self.model.fixed, "ComfyUI's LoRAs do not change such parameters")
        return {**self.model.unfit, **fixed, **(self.text_encoder.unfit if self.text_encoder else {})}

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of layers that neither the model nor the connected text encoder has."""
        if self.text_encoder is None:
            return self.model.missing
        lacking = set(self.text_encoder.missing)
        return tuple(path for path in self.model.missing if path in lacking)

    @property
    def applied(self) -> int:
        """How many of its layers were applied."""
        matches = [self.model, *([self.text_encoder] if self.text_encoder else [])]
        return sum(len(own) for matched in matches for own in matched.own_names.values())


def report_merge(
    reports: Sequence[SourceReport],
    neighbours: Sequence[Neighbours],
    merged: QRLoRA,
    how: Combination,
    clip_scale: float,
) -> list[str]:
    """One line per adapter, one for two that follow each other, and one for what needs attention.

    ``content.safetensors: 48 of 48 layers, rank 16, scale 0.90; shared basis``
    """
    record = merged.merge_record or MergeRecord()
    lines = [_line(found, record, clip_scale) for found in reports]
    told = how.told([found.source.label for found in reports])
    lines += [told] if told and reports else []
    pairs = zip(pairwise(reports), neighbours, strict=True)
    lines += [_line_of_two(a, b, pair) for (a, b), pair in pairs if a.source.scale and b.source.scale]
    for found in reports:
        lines += _warnings(found)
    lines += _unlike_stock([found.source for found in reports if not found.source.is_off])
    if record.concatenated:
        lines.append(
            f"different bases in {len(record.concatenated)} layers: their deltas were added side by side, exactly. "
            "They are ordinary LoRAs or of other kinds, or were trained on other base models or machines, at another "
            "rank, or with the variant qr."
        )
    return lines


def _unlike_stock(active: Sequence[Source]) -> list[str]:
    """Once, where the host's own loaders in a row would give something else with the same files and strengths."""
    containing = [own for own in active if own.adapter.contains_base]
    scaled = [own for own in containing if own.scale != 1 and _OTHERWISE_SCALED.intersection(own.adapter.kinds)]
    concerned = containing if len(active) > 1 else scaled
    if not concerned:
        return []
    names = ", ".join(f"{own.label} ({', '.join(own.adapter.kinds)})" for own in concerned)
    return [
        f"note: {names}: each counts as what it makes of the base weights alone, times its scale. ComfyUI's own "
        "loaders give something else for these: see the help of this node"
    ]


def as_text(lines: Sequence[str]) -> str:
    """The report of a merge as one text."""
    return "\n".join(lines) or "no adapter is on: the model is unchanged"


def unrun_lines(reports: Sequence[SourceReport]) -> list[str]:
    """One line per adapter of which layers did not run when it was last live on this model."""
    return [f"last time, {line}" for found in reports for line in _unrun_lines(found)]


def _unrun_lines(found: SourceReport) -> list[str]:
    return [describe_unrun(found.source.label, found.unrun, found.applied)] if found.unrun else []


@dataclass(frozen=True)
class Neighbours:
    """Two adapters that follow each other in a merge: ``<D_a, D_b>``, ``|D_a|^2`` and ``|D_b|^2`` at scale 1."""

    product: float
    energy_first: float
    energy_second: float

    def interference(self, first: float, second: float) -> float:
        """See `compare.interference`, at these scales."""
        return interference(self.product, self.energy_first, self.energy_second, first, second)


def overview(reports: Sequence[SourceReport], neighbours: Sequence[Neighbours], merged: QRLoRA) -> dict[str, Any]:
    """What the page shows of a merge, as JSON: of each adapter, and of each two that follow each other."""
    record = merged.merge_record or MergeRecord()
    return {
        "adapters": [
            {
                "name": found.source.label,
                "layers": len(found.source.adapter.layers),
                "applied": found.applied,
                "rank": _kind_and_rank(found.source.adapter),
                "basis": _state(found, record),
                "other_base": found.other_base,
                "warnings": [*_warnings(found), *(f"last time, {line}" for line in _unrun_lines(found))],
            }
            for found in reports
        ],
        "neighbours": [
            {name: value if math.isfinite(value) else None for name, value in asdict(pair).items()}  # for JSON
            for pair in neighbours
        ],
    }


def _line(found: SourceReport, record: MergeRecord, clip_scale: float) -> str:
    source, total = found.source, len(found.source.adapter.layers)
    in_clip = len(found.text_encoder.own_names) if found.text_encoder else 0
    text = f" ({in_clip} in the text encoder at {source.in_text_encoder(clip_scale):.2f})" if in_clip else ""
    layers = f"{found.applied} of {total} layers{text}, {_kind_and_rank(source.adapter)}"
    scheduled = ", scheduled (a saved merge has the scale alone)" if source.schedule is not None else ""
    return f"{source.label}: {layers}, scale {source.scale:.2f}{scheduled}; {_state(found, record)}"


def _kind_and_rank(adapter: QRLoRA) -> str:
    """``rank 16``, ``LoKr, rank 16`` or ``OFT``, which has none."""
    ranks = [ranks_as_text(adapter.ranks)] if adapter.ranks or not adapter.kinds else []
    return ", ".join([*adapter.kinds, *ranks])


def _line_of_two(first: SourceReport, second: SourceReport, pair: Neighbours) -> str:
    share = pair.interference(first.source.scale, second.source.scale)
    kind = first.source.adapter.contains_base or second.source.adapter.contains_base
    told = f"not known, as {kind} changes with the weights it is on" if math.isnan(share) else f"{share:+.1%}"
    return f"interference of {first.source.label} and {second.source.label}: {told}"


def _state(found: SourceReport, record: MergeRecord) -> str:
    return "off" if found.source.is_off else _basis(found.model, record)


def _basis(matched: Match, record: MergeRecord) -> str:
    shared, different = (len({*paths} & matched.targets.keys()) for paths in (record.shared, record.concatenated))
    if not shared and not different:
        return "alone on its layers"
    if not different:
        return "shared basis"
    if any(layer.changes for layer in matched.adapter.layers.values()):
        return "beside the others"
    return f"shared basis in {shared} layers, own basis in {different}" if shared else "own basis"


def _warnings(found: SourceReport) -> list[str]:
    """One sentence on each thing that its user must know."""
    label, total = found.source.label, len(found.source.adapter.layers)
    told = [f"note: {label}: not loaded from its file: {found.source.adapter.origin.not_loaded}"]
    warnings = told if found.source.adapter.origin.not_loaded else []
    warnings += _left_out_lines(found, total)
    if found.patched:
        constant = "; a schedule does not change them" if found.source.schedule is not None else ""
        warnings.append(
            f"note: {label}: {len(found.patched)} of its layers cannot be changed while the model runs and were "
            f"patched into its weights{constant}: {paths_as_text(found.patched)}"
        )
    if found.containing:
        warnings.append(
            f"note: {label}: {len(found.containing)} of its layers act on weights as nodes before have patched them, "
            f"and so not as on the base alone: {paths_as_text(found.containing)}"
        )
    warnings += [f"note: {label}: {note}" for note in found.source.adapter.origin.notes]
    if found.other_base:
        warnings.append(f"warning: {label}: {found.other_base}")
    if found.idle:
        warnings.append(f"warning: {label} changes nothing: all that is left of its layers is zero")
    return warnings


def _left_out_lines(found: SourceReport, total: int) -> list[str]:
    label, lines = found.source.label, []
    text = [path for path in found.left_out if found.text_encoder is None and is_of_text_encoder(path)]
    other = [path for path in found.left_out if path not in set(text)]
    if text:
        lines.append(
            f"note: {label}: {len(text)} of its layers are for the text encoder and were left out; connect the "
            "input clip of this node, and its output clip to the prompts"
        )
    if other:
        where = "this model" if found.text_encoder is None else "this model and its text encoder"
        lines.append(
            f"warning: {label}: {len(other)} of its layers do not exist in {where} and were left out: "
            f"{paths_as_text(other)}"
        )
    by_why: dict[str, list[str]] = {}
    for path, why in found.unfit.items():
        by_why.setdefault(why, []).append(path)
    for why, paths in list(by_why.items())[:_SHOWN_REASONS]:
        lines.append(f"warning: {label}: {len(paths)} of {total} layers were left out ({why}): {paths_as_text(paths)}")
    if len(by_why) > _SHOWN_REASONS:
        rest = [path for paths in list(by_why.values())[_SHOWN_REASONS:] for path in paths]
        lines.append(f"warning: {label}: {len(rest)} more were left out for such reasons: {paths_as_text(rest)}")
    return lines
