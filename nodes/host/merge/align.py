"""Adapters that cut the weights of a model differently, on one set of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from ....qrlora_core import Layer, QRLoRA, Term
from ....qrlora_core.change import term_in_rows
from ..model.host_types import Patcher
from ..model.key_map import Target
from ..model.matching import Names, match
from ..model.memo import Note, remembered


def on_same_layers(patcher: Patcher, adapters: Sequence[QRLoRA], names: Names) -> list[QRLoRA]:
    """The adapters with one name for one set of rows: where they cut a weight differently, as the whole weight."""
    targets = [match(patcher, adapter, names).targets for adapter in adapters]
    torn = _torn_keys([target for own in targets for target in own.values()])
    if not torn:
        return list(adapters)
    note: Note[QRLoRA] = Note("whole", torn)
    return [
        remembered(adapter, patcher.model, note, partial(_whole, adapter, own, torn, names))
        for adapter, own in zip(adapters, targets, strict=True)
    ]


def _torn_keys(targets: Sequence[Target]) -> frozenset[str]:
    """Weights of which two targets share rows without being one."""
    by_key: dict[str, set[Target]] = {}
    for target in targets:
        by_key.setdefault(target.key, set()).add(target)
    return frozenset(key for key, parts in by_key.items() if any(_overlap(a, b) for a in parts for b in parts))


def _overlap(first: Target, second: Target) -> bool:
    if first == second:
        return False
    if first.rows is None or second.rows is None:
        return True
    (a, rows_a), (b, rows_b) = first.rows, second.rows
    return a < b + rows_b and b < a + rows_a


def _whole(adapter: QRLoRA, targets: Mapping[str, Target], torn: frozenset[str], names: Names) -> QRLoRA:
    layers: dict[str, Layer] = {}
    for path, layer in adapter.layers.items():
        target = targets[path]
        if target.key in torn:
            out = names.key_map.shape_of(target.key)[0]
            before = layers[target.module].terms if target.module in layers else ()
            terms = (_among_all_rows(term, target, out) for term in layer.as_terms().terms)
            layers[target.module] = layer.with_terms((*before, *terms))
        else:
            layers[path] = layer
    return replace(adapter, layers=layers)


def _among_all_rows(term: Term, target: Target, out: int) -> Term:
    """With rows of zeros where the target is not, in the order of the host's rows."""
    q = term.q if target.reorder is None else target.reorder(term.q)
    start = target.rows[0] if target.rows else 0
    return term_in_rows(replace(term, q=q, base_r=None), (start, len(q), out))
