"""``apply = live``: low-rank branches at run time; base weights and ``patches_uuid`` stay untouched."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import comfy.model_patcher
from comfy.patcher_extension import CallbacksMP

from ....qrlora_core import group_by_basis, merge
from ..model.host_types import Patcher
from ..model.matching import Names
from ..model.memo import Note, remembered_of_all
from .device_factors import Binding, bind
from .kept_results import keep_nothing
from .live_merge import LiveMerge
from .live_patcher import LiveInjection, WeightsAloneError, live_merges_on, refuse_weights_alone
from .patch import add_layers
from .source import Groups, Source

_GROUPS: Note[Groups] = Note("groups on this base")


def apply_live(
    patcher: Patcher,
    sources: Sequence[Source],
    groups: Groups,
    names: Names,
    tell: Callable[[list[str]], None] = lambda lines: None,
) -> Patcher:
    """A clone of the model whose layers gain ``Q (sum_i scale_i scaling_i delta_r_i) x`` while it runs.

    Without a source it computes what the given model does, bit for bit. What no hook can serve, such as an embedding
    or a parameter of a model's own, is patched by the host, at the scale of its source.

    Args:
        sources: those whose scale is not zero.
        groups: of their adapters, see `group_by_basis`.
        tell: gets, after every sampling, a line for each adapter of which not all took part.

    Raises:
        QRLoRAError: the host did not take a patch.
    """
    clone = patcher.clone()
    if not groups:
        return clone
    bindings = [bind(patcher, source.adapter, names) for source in sources]
    groups = _on_this_base(patcher, sources, bindings, groups)
    _patch_rest(clone, sources, bindings)
    if not any(binding.match.targets for binding in bindings):
        keep_nothing(clone, "qr_lora")
        return clone
    row = live_merges_on(patcher)
    merge = LiveMerge(patcher, row, sources, bindings, groups, tell)
    key = f"qr_lora {uuid.uuid4()}"
    clone.set_injections(key, [LiveInjection(merge.inject, merge.eject)])
    clone.set_additional_models(key, merge.models)
    # Compilers see these names among a model's options, and compile anew for new ones.
    name = f"qr_lora {row}"
    clone.add_callback_with_key(CallbacksMP.ON_PRE_RUN, name, merge.on_start)
    clone.add_callback_with_key(CallbacksMP.ON_PREPARE_STATE, name, merge.on_step)
    clone.add_callback_with_key(CallbacksMP.ON_CLEANUP, name, merge.on_sampled)
    clone.add_callback_with_key(CallbacksMP.ON_LOAD, name, _refuse_baking)
    keep_nothing(clone, name, merge.scales_at if merge.is_scheduled else None)
    refuse_weights_alone(clone)
    return clone


def _on_this_base(patcher: Patcher, sources: Sequence[Source], bindings: Sequence[Binding], groups: Groups) -> Groups:
    """The groups of what the adapters are on this base weight, where norms of it made other terms of them."""
    adapters = [binding.match.adapter for binding in bindings]
    if all(own is source.adapter for own, source in zip(adapters, sources, strict=True)):
        return groups
    return remembered_of_all(adapters, patcher.model, _GROUPS, lambda: group_by_basis(adapters))


def _patch_rest(clone: Patcher, sources: Sequence[Source], bindings: Sequence[Binding]) -> None:
    """What no hook can serve, of all sources at once: changes of one must not see what another one adds."""
    rest = [binding.patched for binding in bindings]
    adapters = [replace(own.adapter, layers={name: own.adapter.layers[name] for name in own.targets}) for own in rest]
    targets = {name: target for own in rest for name, target in own.targets.items()}
    if targets:
        merged = merge(zip(adapters, (source.scale for source in sources), strict=True))
        add_layers(clone, replace(rest[0], adapter=merged, targets=targets))


def _refuse_baking(patcher: Patcher, _device: Any, _memory: Any, force_patch_weights: bool, *_args: Any) -> None:
    """Older hosts load a model so when its weights go into a file; a patcher that always does (GGUF) says nothing."""
    if force_patch_weights and type(patcher).load is comfy.model_patcher.ModelPatcher.load:
        raise WeightsAloneError("saving")
