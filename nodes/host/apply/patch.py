"""``apply = patch``: adapter deltas as weight patches on the host's own path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from comfy.weight_adapter import LoRAAdapter, WeightAdapterBase
from torch import Tensor

from ....qrlora_core import QRLoRA, QRLoRAError, Term
from ..model.host_types import Entry, Patcher
from ..model.key_map import Target
from ..model.matching import Match
from ..model.weights import input_scale
from .changes_patch import ChangesPatch, RowsChange
from .kept_results import keep_nothing


def apply_patch(patcher: Patcher, matches: Sequence[tuple[Match, float]]) -> Patcher:
    """A clone of the model with adapters' layers as weight patches; the given model stays as it is.

    Each adapter is a patch of its own with its scale as the host's strength, in their order: of ordinary LoRAs just
    what the host's own loaders in a row make, to the last bit.

    Args:
        matches: adapters with their targets in this model, and their scales.

    Raises:
        QRLoRAError: the host did not take every patch.
    """
    clone = patcher.clone()
    for matched, scale in matches:
        add_layers(clone, matched, scale)
    keep_nothing(clone, "qr_lora")
    return clone


def add_layers(clone: Patcher, match: Match, scale: float = 1.0) -> None:
    """Add an adapter's layers to a model as weight patches.

    Changes come first, while the weight that they contain is still that of the model as it was given, also where one
    merge follows another. ``scaling * q @ delta_r`` is a LoRA with up = q, down = delta_r and the same alpha, so the
    host's `LoRAAdapter` applies it exactly, also to offloaded weights. Of a layer that scales its input (`input_scale`)
    the stored weight is another one, and so is the patch: ``delta_r / s``.

    Raises:
        QRLoRAError: the host did not take every patch.
    """
    changes = dict(_changes(clone, match))
    pending = [
        (target.patch_key, _as_lora(term, _input_scale(clone, target)))
        for path, target in match.targets.items()
        for term in match.adapter.layers[path].terms
    ]
    while pending:  # a round takes one patch per key; terms of one layer, and names for one weight, need several
        patches: dict[Entry, LoRAAdapter] = {}
        pending = [(key, lora) for key, lora in pending if patches.setdefault(key, lora) is not lora]
        _add_all(clone, match.adapter, patches, scale)
    if changes:
        _add_all(clone, match.adapter, changes, scale)
    for key in clone.patches.keys() & {target.key for target in match.targets.values()}:
        clone.patches[key] = _changes_first(clone.patches[key])


def _changes_first(entries: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The patches of one weight, with all changes that follow each other with terms of ours as one, before these."""
    count = next((at for at, entry in enumerate(reversed(entries)) if not _is_ours(entry)), len(entries))
    before, ours = list(entries[: len(entries) - count]), list(entries[len(entries) - count :])
    changes = [(strength, patch) for strength, patch, *_ in ours if isinstance(patch, ChangesPatch)]
    if not changes:
        return list(entries)
    terms = [entry for entry in ours if not isinstance(entry[1], ChangesPatch)]
    own = [(rows, change.scaled(strength)) for strength, patch in changes for rows, change in patch.weights[0]]
    joined = ChangesPatch(set(), (own, changes[0][1].weights[1]))
    return [*before, (1.0, joined, 1.0, None, None), *terms]


def _is_ours(entry: tuple[Any, ...]) -> bool:
    """Whether a patch is one of ours, and leaves what was there before at its strength."""
    return isinstance(entry[1], (ChangesPatch, _TermPatch)) and entry[2] == 1.0


def patched_by_others(patcher: Patcher, key: str) -> bool:
    """Whether a weight has patches of other nodes, which are a part of what a change contains."""
    return not all(map(_is_ours, patcher.patches.get(key, ())))


class _TermPatch(LoRAAdapter):
    """The host's own, known by its class."""


def _changes(clone: Patcher, match: Match) -> Iterator[tuple[str, ChangesPatch]]:
    """By weight: one of its rows must not see what another has added, and the whole of it nothing of either."""
    changes: dict[str, list[RowsChange]] = {}
    for path, target in match.targets.items():
        changes.setdefault(target.key, []).extend((target.rows, own) for own in match.adapter.layers[path].changes)
    targets = {target.key: target for target in match.targets.values()}
    for key, own in changes.items():
        if own:
            yield key, ChangesPatch(set(), (own, _input_scale(clone, targets[key])))


def _input_scale(patcher: Patcher, target: Target) -> Tensor | None:
    """Of the weight alone: a bias beside it is what it is."""
    if target.vector or not target.key.endswith(".weight"):
        return None
    return input_scale(patcher.model.get_submodule(target.module))


def _add_all(clone: Patcher, adapter: QRLoRA, patches: Mapping[Any, WeightAdapterBase], scale: float) -> None:
    taken = clone.add_patches(patches, scale)
    if len(taken) != len(patches):
        refused = [str(key) for key in patches if key not in taken]
        raise QRLoRAError(f"{adapter.name}: the host refused {len(refused)} of {len(patches)} patches: {refused[:3]}.")


def _as_lora(term: Term, scale_of_input: Tensor | None) -> LoRAAdapter:
    mid = dora_scale = reshape = None
    down = term.delta_r
    if scale_of_input is not None:  # the layer's input is multiplied by it, and the adapter acts on the bare one
        down = (down.float() / scale_of_input.to(down.device, torch.float32)).to(down.dtype)
    return _TermPatch(set(), (term.q, down, term.alpha, mid, dora_scale, reshape))
