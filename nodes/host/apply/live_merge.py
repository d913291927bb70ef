"""The branches of one merge on the models that run it, and what became of them in a sampling."""

from __future__ import annotations

import logging
import math
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ....qrlora_core import QRLoRAError
from ....qrlora_core.functional.merge import Group, Member, group_by_basis
from ..model.host_types import Patcher
from ..model.key_map import Target
from .device_factors import Binding, Held, Place, own_place
from .live_layer import LiveLayer
from .live_patcher import WeightsAloneError
from .part import Part
from .sampling_progress import SamplingProgress
from .source import Source
from .took_part import lines_of_once, lines_of_unrun


@dataclass(eq=False)
class _Running:
    """The branches on one model: ``owner`` is the patcher that injected them."""

    owner: int
    layers: dict[str, LiveLayer]
    progress: SamplingProgress | None
    handles: list[RemovableHandle]

    def remove(self) -> None:
        for layer in self.layers.values():
            layer.remove()
        for handle in self.handles:
            handle.remove()

    def take_ran(self, within: str = "") -> set[str]:
        """The layers that ran since they were asked for the last time."""
        ran = {name for name, layer in self.layers.items() if layer.ran and name.startswith(within)}
        for name in ran:
            self.layers[name].ran = False
        return ran


class LiveMerge:
    """The branches of one merge, on whichever clone of the model is in use; each device's copy has its own.

    Clones share this object, copy the host's ``is_injected`` flag, and eject when they are dropped, also those
    that never ran. So the hooks on a model belong to the one patcher that injected last, and only its eject removes
    them.

    Args:
        patches: of the model that the merge is put on.
        tell: see `live.apply_live`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        bindings: Sequence[Binding],
        patches: Mapping[str, Sequence[tuple[Any, ...]]],
        tell: Callable[[list[str]], None],
    ) -> None:
        self._sources, self._bindings, self._tell = list(sources), list(bindings), tell
        self._patches = {key: len(members) for key, members in patches.items()}
        self._groups = group_by_basis([binding.match.adapter for binding in bindings])
        self._parts = self._collect_parts(own_place, {})
        self._models = self._used_models()
        self._running: weakref.WeakKeyDictionary[torch.nn.Module, _Running] = weakref.WeakKeyDictionary()
        self._start_counting()

    def _start_counting(self) -> None:
        for running in self._running.values():
            running.take_ran()
        self._steps = 0
        self._ran: set[str] = set()
        self._ran_before: set[str] = set()
        self._acted: set[int] = set()

    @property
    def models(self) -> list[Held]:
        """What the host must have on the device: all deltas, and the bases that some group uses."""
        return self._models

    @property
    def is_scheduled(self) -> bool:
        """Whether scales change while sampling."""
        return any(source.schedule for source in self._sources)

    def scales_at(self, model: torch.nn.Module, sigma: Tensor) -> list[float]:
        """The scale of each source at a noise level, for a model that is sampled."""
        running = self._running.get(model)
        return self._scales(running.progress.at(sigma) if running and running.progress else 0.0)

    def _used_models(self) -> list[Held]:
        leading = {group[0].source for groups in self._groups.values() for group in groups}
        used = [binding.basis for index, binding in enumerate(self._bindings) if index in leading]
        return list(dict.fromkeys([*used, *(binding.deltas for binding in self._bindings)]))

    def inject(self, patcher: Patcher) -> None:
        """Hook all layers for this patcher; hooks that another clone left on its model are replaced."""
        self._remove(patcher.model)
        if isinstance(sys.exc_info()[1], WeightsAloneError):
            return  # the host injects once more while it unwinds the load that we refused
        modules = dict(patcher.model.named_modules())
        _refuse_compiled(patcher, modules.values())
        admit = _admission(patcher)
        watched = {name for binding in self._bindings for name in binding.watched}
        self._running[patcher.model] = running = _Running(
            owner=id(patcher),
            layers={
                name: LiveLayer(modules[name], parts, admit, watched=name in watched)
                for name, parts in self._parts_for(patcher).items()
            },
            progress=SamplingProgress(patcher) if self.is_scheduled else None,
            handles=_guard_weights(patcher.model) + self._watch_encoders(patcher.model),
        )
        self._set_scales(running, 0.0)

    def _parts_for(self, patcher: Patcher) -> dict[str, list[Part]]:
        """The parts with the factors that the patcher has with it: copies, where it is one for another device."""
        beside = patcher.get_additional_models()
        there: dict[object, Any] = {getattr(one, "clone_base_uuid", one): one.model for one in beside}
        own = {one: there.get(getattr(one, "clone_base_uuid", one), one.model) for one in self._models}
        shares = self._shares_left(patcher.patches)
        if not shares and all(model is one.model for one, model in own.items()):
            return self._parts
        return self._collect_parts(own.__getitem__, shares)

    def _shares_left(self, patches: Mapping[str, Sequence[tuple[Any, ...]]]) -> dict[str, float]:
        """By weight, how much of it nodes behind the merge have left: what stands beside it is scaled along.

        Merging models does so to the first one. The third item of a patch is the strength of what was there before it.
        """
        later = {key: members[self._patches.get(key, 0) :] for key, members in patches.items()}
        shares = {key: math.prod(before for _, _, before, *_ in members) for key, members in later.items()}
        return {key: share for key, share in shares.items() if share != 1.0}

    def eject(self, patcher: Patcher) -> None:
        """Remove the hooks and free the sums, if it was this patcher that injected."""
        if self._runs_for(patcher):
            self._remove(patcher.model)

    def _runs_for(self, patcher: Patcher) -> bool:
        running = self._running.get(patcher.model)
        return running is not None and running.owner == id(patcher)

    def on_step(self, patcher: Patcher, timestep: Tensor, *_args: Any) -> None:
        """Before each denoising call: follow the schedules."""
        running = self._running.get(patcher.model)
        if running is not None:
            if self._steps == 0:
                self._ran_before = running.take_ran()
            scales = self._set_scales(running, running.progress.at(timestep) if running.progress else 0.0)
            self._acted |= {index for index, scale in enumerate(scales) if scale}
        self._steps += 1

    def on_sampled(self, patcher: Patcher) -> None:
        """After sampling: what took no part must not pass for what did.

        Raises:
            QRLoRAError: steps were taken, but no hooked layer was called.
        """
        if not self._runs_for(patcher) or self._steps == 0 or sys.exc_info()[0] is not None:
            return
        for running in self._running.values():
            self._ran |= running.take_ran()
        ran, once, acted = self._ran | self._ran_before, self._ran_before - self._ran, self._acted
        self._start_counting()
        if not ran:
            raise QRLoRAError(
                "live adapters had no effect: this model runs other layers than those it names (it is wrapped, "
                "compiled or replaced by another node). Set apply to patch."
            )
        lines = []
        for index, (source, binding) in enumerate(zip(self._sources, self._bindings, strict=True)):
            binding.note_unrun(ran)
            lines += lines_of_unrun(source.label, binding, acted=index in acted)
            lines += lines_of_once(source.label, binding, once if source.schedule else set())
        self._told(lines)

    def _told(self, lines: list[str]) -> None:
        for line in lines:
            logging.warning("QR-LoRA: %s", line)
        self._tell(lines)

    def _watch_encoders(self, model: torch.nn.Module) -> list[RemovableHandle]:
        """A text encoder is never sampled: what took part in it is asked for whenever one of its parts has run."""
        if hasattr(model, "diffusion_model"):
            return []
        running, encoders = weakref.ref(model), dict(model.named_children())
        names = {name.partition(".")[0] for name in self._parts} & encoders.keys()

        def watch(name: str) -> RemovableHandle:
            return encoders[name].register_forward_hook(lambda *_: self._on_encoded(running(), f"{name}."))

        return [watch(name) for name in names]

    def _on_encoded(self, model: torch.nn.Module | None, encoder: str) -> None:
        running = None if model is None else self._running.get(model)
        if running is None:
            return
        ran, lines = running.take_ran(encoder), list[str]()
        others = {name for name in running.layers if not name.startswith(encoder)}
        for source, binding in zip(self._sources, self._bindings, strict=True):
            binding.note_unrun(ran | (others - binding.unrun))
            lines += lines_of_unrun(source.label, binding, acted=True)
        self._told(lines)

    def _remove(self, model: torch.nn.Module) -> None:
        running = self._running.pop(model, None)
        if running is not None:
            # Layers are made anew whenever the host loads the model, in mid-sampling too.
            self._ran |= running.take_ran()
            running.remove()

    def _scales(self, progress: float) -> list[float]:
        return [s.scale * (s.schedule.at(progress) if s.schedule else 1.0) for s in self._sources]

    def _set_scales(self, running: _Running, progress: float) -> list[float]:
        scales = self._scales(progress)
        for layer in running.layers.values():
            layer.set_scales(scales)
        return scales

    def _collect_parts(self, place: Place, shares: Mapping[str, float]) -> dict[str, list[Part]]:
        """Host module to what is added there; several names may mean slices of one fused layer."""
        parts: dict[str, list[Part]] = {}
        for path, groups in self._groups.items():
            target = next((b.match.targets[path] for b in self._bindings if path in b.match.targets), None)
            if target is not None:
                share = shares.get(target.key, 1.0)
                parts.setdefault(target.module, []).extend(
                    self._part(path, target, group, place, share) for group in groups
                )
        return parts

    def _part(self, path: str, target: Target, group: Group, place: Place, share: float) -> Part:
        def factor(member: Member) -> Callable[[], Tensor]:
            return self._bindings[member.source].delta_r(path, member.term, place)

        first = group[0]
        return Part(
            rows=target.rows,
            q=self._bindings[first.source].q(path, first.term, place),
            deltas=tuple((member.source, share * member.term.scaling, factor(member)) for member in group),
            vector=target.vector,
        )


def _admission(patcher: Patcher) -> Callable[[], bool]:
    """Tells a layer whether the model runs for this patcher: a load that failed may leave our hooks behind."""
    model, owner = weakref.ref(patcher.model), id(patcher)

    def admit() -> bool:
        running = getattr(model(), "current_patcher", None)
        return running is None or id(running) == owner

    return admit


def _refuse_compiled(patcher: Patcher, modules: Iterable[torch.nn.Module]) -> None:
    compiled = torch._dynamo.eval_frame.OptimizedModule
    wrapped = any("compile" in str(key) for key in patcher.wrappers.get(WrappersMP.APPLY_MODEL, {}))
    patched = any(isinstance(patch, compiled) for patch in patcher.object_patches.values())
    inside = any(isinstance(module, compiled) for module in modules)
    if wrapped or patched or inside:
        raise QRLoRAError(
            "apply = live does not work on a model that torch.compile wraps: the compiled code would leave the "
            "adapters out. Set apply to patch in QR-LoRA Merge, or remove the compile node."
        )


def _guard_weights(model: torch.nn.Module) -> list[RemovableHandle]:
    """Refuse the state dict of the network by itself, which is what goes into a file, while branches are on it."""

    def refuse(_module: torch.nn.Module, prefix: str, _keep_vars: bool) -> None:
        # As a part of the whole model it is only measured, or asked for its names; a ControlLora takes it to sample.
        if not prefix and getattr(owner(), "current_patcher", None) is None:
            raise WeightsAloneError("saving")

    owner, network = weakref.ref(model), getattr(model, "diffusion_model", None)
    return [] if network is None else [network.register_state_dict_pre_hook(refuse)]
