"""``apply = live``: low-rank branches at run time; base weights and ``patches_uuid`` stay untouched."""

from __future__ import annotations

import logging
import sys
import uuid
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrappersMP
from torch import Tensor

from ...qrlora_core import QRLoRA, QRLoRAError, Schedule
from ...qrlora_core.merge import Group, group_by_basis
from .binding import Binding, bind
from .key_map import Target
from .live_layer import LiveLayer, Part
from .matching import Names
from .progress import SamplingProgress


@dataclass(frozen=True)
class Source:
    """One adapter of a merge. ``label`` is what the report calls it."""

    label: str
    adapter: QRLoRA
    scale: float = 1.0
    schedule: Schedule | None = None


def apply_live(patcher: Any, sources: Sequence[Source], names: Names) -> Any:
    """A clone of the model whose layers gain ``Q (sum_i scale_i scaling_i delta_r_i) x`` while it runs.

    A scale of zero is dropped: with none left, the clone computes what the given model does, bit for bit.

    Raises:
        AdapterError, QRLoRAError: an adapter that does not fit or a layer that cannot be hooked.
    """
    clone = patcher.clone()
    active = [source for source in sources if source.scale != 0 and source.adapter.layers]
    if not active:
        return clone
    bindings = [bind(patcher, source.adapter, names) for source in active]
    merge = _LiveMerge(active, bindings)
    key = f"qr_lora {uuid.uuid4()}"
    clone.set_injections(key, [PatcherInjection(merge.inject, merge.eject)])
    clone.set_additional_models(key, merge.models())
    clone.add_callback_with_key(CallbacksMP.ON_PREPARE_STATE, key, merge.on_step)
    clone.add_callback_with_key(CallbacksMP.ON_CLEANUP, key, merge.on_sampled)
    clone.add_callback_with_key(CallbacksMP.ON_LOAD, key, _refuse_baking)
    return clone


class _LiveMerge:
    """The branches of one merge, on whichever clone of the model is in use.

    Clones share this object, copy the host's ``is_injected`` flag, and eject when they are dropped, also those
    that never ran. So the hooks belong to the one patcher that injected last, and only its eject removes them.
    """

    def __init__(self, sources: Sequence[Source], bindings: Sequence[Binding]) -> None:
        self._sources, self._bindings = list(sources), list(bindings)
        self._groups = group_by_basis([binding.match.adapter for binding in bindings])
        self._parts = self._collect_parts()
        self._layers: list[LiveLayer] = []
        self._owner: int | None = None
        self._progress: SamplingProgress | None = None
        self._steps = 0
        self._ran: set[str] = set()

    def models(self) -> list[Any]:
        """What the host must have on the device: all deltas, and the bases that some group uses."""
        leading = {group[0].source for groups in self._groups.values() for group in groups}
        used = [binding.basis for index, binding in enumerate(self._bindings) if index in leading]
        return list(dict.fromkeys([*used, *(binding.deltas for binding in self._bindings)]))

    def inject(self, patcher: Any) -> None:
        """Hook all layers for this patcher; hooks that another clone left are replaced."""
        self._remove()
        if isinstance(sys.exc_info()[1], _BakingRefusedError):
            return  # the host injects once more while it unwinds the load that we refused
        modules = dict(patcher.model.named_modules())
        _refuse_compiled(patcher, modules.values())
        self._layers = [
            LiveLayer(modules[name], parts, self._admission(patcher, name)) for name, parts in self._parts.items()
        ]
        self._owner = id(patcher)
        self._progress = SamplingProgress(patcher) if any(source.schedule for source in self._sources) else None
        self._set_scales(0.0)

    def eject(self, patcher: Any) -> None:
        """Remove the hooks and free the sums, if it was this patcher that injected."""
        if self._owner == id(patcher):
            self._remove()

    def on_step(self, patcher: Any, timestep: Tensor, *_args: Any) -> None:
        """Before each denoising call: follow the schedules."""
        self._steps += 1
        if self._progress is not None:
            self._set_scales(self._progress.at(timestep))

    def on_sampled(self, patcher: Any) -> None:
        """After sampling: a merge none of whose layers ran must not pass for one that did.

        Raises:
            QRLoRAError: steps were taken, but no hooked layer was called.
        """
        if self._owner != id(patcher) or self._steps == 0 or sys.exc_info()[0] is not None:
            return
        ran, self._ran, self._steps = len(self._ran), set(), 0
        if ran == 0:
            raise QRLoRAError(
                "live adapters had no effect: this model runs other layers than those it names (it is wrapped, "
                "compiled or replaced by another node). Set apply to patch."
            )
        if ran < len(self._parts):
            logging.info("QR-LoRA live: %d of %d layers were called by this model", ran, len(self._parts))

    def _admission(self, patcher: Any, name: str) -> Callable[[], bool]:
        """Tells a layer whether the model runs for this patcher: a load that failed may leave our hooks behind."""
        model, owner = weakref.ref(patcher.model), id(patcher)

        def admit() -> bool:
            running = getattr(model(), "current_patcher", None)
            if running is not None and id(running) != owner:
                return False
            self._ran.add(name)
            return True

        return admit

    def _remove(self) -> None:
        for layer in self._layers:
            layer.remove()
        self._layers, self._owner = [], None

    def _set_scales(self, progress: float) -> None:
        scales = [s.scale * (s.schedule.at(progress) if s.schedule else 1.0) for s in self._sources]
        for layer in self._layers:
            layer.set_scales(scales)

    def _collect_parts(self) -> dict[str, list[Part]]:
        """Host module to what is added there; several names may mean slices of one fused layer."""
        parts: dict[str, list[Part]] = {}
        for path, groups in self._groups.items():
            target = next((b.match.targets[path] for b in self._bindings if path in b.match.targets), None)
            if target is not None:
                parts.setdefault(target.module, []).extend(self._part(path, target, group) for group in groups)
        return parts

    def _part(self, path: str, target: Target, group: Group) -> Part:
        def factor(member: Any) -> Callable[[], Tensor]:
            return lambda: self._bindings[member.source].delta_r(path, member.term)

        first = group[0]
        return Part(
            rows=target.rows,
            q=lambda: self._bindings[first.source].q(path, first.term),
            deltas=tuple((member.source, member.term.scaling, factor(member)) for member in group),
            vector=target.vector,
        )


def _refuse_compiled(patcher: Any, modules: Iterable[torch.nn.Module]) -> None:
    compiled = torch._dynamo.eval_frame.OptimizedModule
    wrapped = any("compile" in str(key) for key in patcher.wrappers.get(WrappersMP.APPLY_MODEL, {}))
    patched = any(isinstance(patch, compiled) for patch in patcher.object_patches.values())
    inside = any(isinstance(module, compiled) for module in modules)
    if wrapped or patched or inside:
        raise QRLoRAError(
            "apply = live does not work on a model that torch.compile wraps: the compiled code would leave the "
            "adapters out. Set apply to patch in QR-LoRA Merge, or remove the compile node."
        )


class _BakingRefusedError(QRLoRAError):
    """A checkpoint was to be saved from a live model."""


def _refuse_baking(_patcher: Any, _device: Any, _memory: Any, force_patch_weights: bool, *_args: Any) -> None:
    if force_patch_weights:
        raise _BakingRefusedError(
            "a model with live adapters cannot be saved as a checkpoint: live branches are not in its weights. "
            "Set apply to patch in QR-LoRA Merge, then save."
        )
