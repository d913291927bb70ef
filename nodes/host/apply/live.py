"""``apply = live``: low-rank branches at run time; base weights and ``patches_uuid`` stay untouched."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_patcher
from comfy.patcher_extension import CallbacksMP

from ..model.host_types import Patcher
from ..model.matching import Names
from .device_factors import bind
from .kept_results import keep_nothing
from .live_merge import LiveMerge
from .live_patcher import LiveInjection, WeightsAloneError, live_merges_on, refuse_weights_alone
from .patch import add_layers
from .source import Groups, Source


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
    for source, binding in zip(sources, bindings, strict=True):
        if binding.patched.targets:
            add_layers(clone, binding.patched, source.scale)
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


def _refuse_baking(patcher: Patcher, _device: Any, _memory: Any, force_patch_weights: bool, *_args: Any) -> None:
    """Older hosts load a model so when its weights go into a file; a patcher that always does (GGUF) says nothing."""
    if force_patch_weights and type(patcher).load is comfy.model_patcher.ModelPatcher.load:
        raise WeightsAloneError("saving")
