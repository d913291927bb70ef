"""Is this the base model that an adapter was trained on? If not, how far from it?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ....qrlora_core import BASE_FINGERPRINT, QRLoRA, QRLoRAError, Term, json_object
from .host_types import Patcher
from .matching import Match
from .memo import Note, remembered
from .weights import base_weight, fingerprint

_MEASURED_LAYERS = 8
# What another precision of the computation makes of the same weights.
_NO_CHANGE = 1e-3
_OTHER_BASE: Note[str] = Note("other base")


def other_base(patcher: Patcher, adapter: QRLoRA, matched: Match) -> str:
    """One sentence on how the model differs from the adapter's base; empty where it does not, or nothing tells.

    The fingerprint in the file says which layers have other weights, and ``scaling * R = Q^T W`` of the old base says
    by how much what the adapter stands on has moved: ``|Q^T W - scaling R|_F / |scaling R|_F``.
    """
    return remembered(adapter, patcher.model, _OTHER_BASE, lambda: _told(patcher, adapter, matched))


def _told(patcher: Patcher, adapter: QRLoRA, matched: Match) -> str:
    try:
        return _other_base(patcher, adapter, matched)
    except (QRLoRAError, RuntimeError, TypeError, ValueError) as error:  # stored in a way that only its pack can read
        return f"whether this is its base model cannot be told, as the weights cannot be read here ({error})"


def _other_base(patcher: Patcher, adapter: QRLoRA, matched: Match) -> str:
    told = json_object(adapter.metadata, BASE_FINGERPRINT)
    known = {own: matched.targets[name] for name, owns in matched.own_names.items() for own in owns if own in told}
    found = fingerprint(patcher, known)
    different = [path for path in known if found[path] != told[path]]
    if told and not different:
        return ""
    changes = list(_changes(patcher, matched))
    if not told and (not changes or max(changes) < _NO_CHANGE):
        return ""
    share = f"{len(different)} of {len(known)} layers have other weights than those it was trained on"
    moved = f"Q^T W has moved by {sum(changes) / len(changes):.1%} (measured in {len(changes)})" if changes else ""
    return "another base model: " + "; ".join(filter(None, [share if told else "", moved]))


def _changes(patcher: Patcher, matched: Match) -> Iterator[float]:
    """By how much Q^T W has moved, in a few layers at even distance."""
    with_r = [
        (name, layer.terms[0])
        for name, layer in matched.adapter.layers.items()
        if layer.terms and layer.terms[0].base_r is not None and bool(layer.terms[0].base_r.any())
    ]
    for name, term in with_r[:: max(1, len(with_r) // _MEASURED_LAYERS)][:_MEASURED_LAYERS]:
        yield _change(base_weight(patcher, matched.targets[name]), term)


def _change(weight: torch.Tensor, term: Term) -> float:
    assert term.base_r is not None
    then = term.scaling * term.base_r.to(weight).flatten(1)
    now = term.q.to(weight).T @ weight.flatten(1)
    return float((now - then).norm() / then.norm())
