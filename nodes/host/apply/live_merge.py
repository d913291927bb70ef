"""One merge on the models that run it: from its scales to what lies ready for their hooks."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..model.host_types import Patcher
from ..model.memo import Note, recalled, remember, remembered_of_all
from ..model.weights import compute_dtype
from .branches import Branches
from .buffers import Buffers
from .device_factors import Binding
from .held import Held, beside, hold
from .layout import Layout, Plan, lay_out
from .live_patcher import WeightsAloneError, carries
from .sampling_progress import SamplingProgress
from .source import Groups, Source
from .took_part import TookPart, log_casts
from .uncopied import UncopiedHook

_LAYOUT: Note[tuple[Layout, Plan]] = Note("layout")


@dataclass(eq=False)
class _Running:
    """The merge on one model: ``owner`` is the patcher that injected it, ``buffers`` are on its device."""

    owner: int
    layout: Layout
    buffers: Buffers
    progress: SamplingProgress | None
    handles: list[RemovableHandle]

    def take_ran(self, within: str = "") -> set[str]:
        """The layers that ran since they were asked for the last time."""
        ran = set[str]()
        for name, addends in self.buffers.addends.items():
            if name.startswith(within) and any(addend.ran or addend.is_recorded for addend in addends):
                ran.add(name)
                for addend in addends:
                    addend.ran = False
        return ran


class LiveMerge:
    """The branches of one merge, on whichever clone of the model is in use; each device's copy has its own.

    Args:
        patcher: what the merge is put on.
        row: how many others are on it; they act at once, so that each place in the row has buffers of its own.
        groups: of the adapters of ``bindings``, see `group_by_basis`.
        tell: see `live.apply_live`.
    """

    def __init__(
        self,
        patcher: Patcher,
        row: int,
        sources: Sequence[Source],
        bindings: Sequence[Binding],
        groups: Groups,
        tell: Callable[[list[str]], None],
    ) -> None:
        self._sources, self._bindings, self._groups = list(sources), list(bindings), groups
        self._patches = {key: len(members) for key, members in patcher.patches.items()}
        adapters = [binding.match.adapter for binding in bindings]
        self._layout, plan = remembered_of_all(adapters, patcher.model, _LAYOUT, lambda: self._lay_out(patcher.model))
        self._held = self._find_buffers(patcher, row, plan)
        self._running: weakref.WeakKeyDictionary[torch.nn.Module, _Running] = weakref.WeakKeyDictionary()
        self._took_part = TookPart(self._sources, self._bindings, tell)

    def _lay_out(self, model: torch.nn.Module) -> tuple[Layout, Plan]:
        layout = lay_out(self._groups, self._bindings, [binding.deltas.model for binding in self._bindings], {})
        return layout, layout.plan(model)

    def _find_buffers(self, patcher: Patcher, row: int, plan: Plan) -> Held[Buffers]:
        """Those of the merge before, if they are of the same shapes; else new ones."""
        first, note = self._bindings[0].match.adapter, Note[Held[Buffers]]("buffers", row)
        known, dtype = recalled(first, patcher.model, note), compute_dtype(patcher)
        if known is not None and known.model.plan is plan and known.model.dtype is dtype:
            return known

        def make() -> Held[Buffers]:
            with torch.inference_mode(False):  # normal tensors also serve a trainer that runs on a live model
                return hold(Buffers(plan, dtype, patcher.offload_device), patcher.load_device, patcher.offload_device)

        found = Branches.of(patcher.model).buffers((row, dtype, *plan.items()), make)
        # The next merge comes when this one is gone already: an adapter that both have keeps them in between.
        remember(first, patcher.model, note, found)
        return found

    @property
    def models(self) -> list[Held[Any]]:
        """What the host must have on the device: the buffers, and the deltas where they are summed anew in passing.

        An adapter alone that keeps its scale is read once from where it was loaded to.
        """
        deltas = dict.fromkeys(binding.deltas for binding in self._bindings if binding.match.targets)
        return [self._held, *(deltas if len(deltas) > 1 or self.is_scheduled else ())]

    @property
    def is_scheduled(self) -> bool:
        """Whether scales change while sampling."""
        return any(source.schedule for source in self._sources)

    def scales_at(self, model: torch.nn.Module, sigma: Tensor) -> list[float]:
        """The scale of each source at a noise level, for a model that is sampled."""
        running = self._running.get(model)
        return self._scales(running.progress.at(sigma) if running and running.progress else 0.0)

    def inject(self, patcher: Patcher) -> None:
        """Switch the branches on for this patcher, with what they add at the start of a sampling."""
        if _load_failed(patcher):
            self._forget(patcher.model)  # the host injects while it unwinds
        else:
            self._switch_on(patcher)

    def _switch_on(self, patcher: Patcher) -> None:
        self._forget(patcher.model)
        beside_it = list(patcher.get_additional_models())
        running = _Running(
            owner=id(patcher),
            layout=self._layout_for(patcher, beside_it),
            buffers=beside(self._held, beside_it),
            progress=SamplingProgress(patcher) if self.is_scheduled else None,
            handles=_guard_weights(patcher.model) + self._watch_encoders(patcher.model),
        )
        self._running[patcher.model] = running
        watched = {name for binding in self._bindings for name in binding.watched}
        Branches.of(patcher.model).put(patcher, self, running.buffers.addends, watched)
        running.buffers.fill(running.layout, self._scales(0.0))

    def _layout_for(self, patcher: Patcher, beside_it: list[Any]) -> Layout:
        """With the deltas that the patcher has with it: copies, where it is one for another device."""
        shares = self._shares_left(patcher.patches)
        deltas = [beside(binding.deltas, beside_it) for binding in self._bindings]
        if not shares and all(own is b.deltas.model for own, b in zip(deltas, self._bindings, strict=True)):
            return self._layout
        return lay_out(self._groups, self._bindings, deltas, shares)

    def _shares_left(self, patches: Mapping[str, Sequence[tuple[Any, ...]]]) -> dict[str, float]:
        """By weight, how much of it nodes behind the merge have left: what stands beside it is scaled along.

        Merging models does so to the first one. The third item of a patch is the strength of what was there before it.
        """
        later = {key: members[self._patches.get(key, 0) :] for key, members in patches.items()}
        shares = {key: math.prod(before for _, _, before, *_ in members) for key, members in later.items()}
        return {key: share for key, share in shares.items() if share != 1.0}

    def eject(self, patcher: Patcher) -> None:
        """Switch the branches off, if it was this patcher that injected."""
        running = self._running.get(patcher.model)
        if running is None or running.owner != id(patcher):
            return
        branches = Branches.of(patcher.model)
        branches.drop(patcher, self)
        if running.buffers.is_recorded:
            running.buffers.clear()
            branches.keep(self._held)
        self._forget(patcher.model)

    def _forget(self, model: torch.nn.Module) -> None:
        running = self._running.pop(model, None)
        if running is not None:
            self._took_part.note(running.take_ran())  # the host loads models anew in mid-sampling, too
            for handle in running.handles:
                handle.remove()

    def _runs_for(self, patcher: Patcher) -> bool:
        return patcher.model in self._running and Branches.of(patcher.model).belong_to(patcher)

    def on_start(self, patcher: Patcher) -> None:
        """Before a sampling: another merge may have had the buffers, or another patcher the hooks."""
        if not carries(patcher, self.inject):
            return
        if not self._runs_for(patcher):
            self._switch_on(patcher)
        running = self._running[patcher.model]
        running.buffers.fill(running.layout, self._scales(0.0))
        running.take_ran()
        self._took_part.start()

    def on_step(self, patcher: Patcher, timestep: Tensor, *_args: Any) -> None:
        """Before each denoising call: follow the schedules."""
        running = self._running.get(patcher.model)
        if running is None:
            return
        self._took_part.note_before_first(running.take_ran)
        scales = self._scales(running.progress.at(timestep) if running.progress else 0.0)
        running.buffers.fill(running.layout, scales)
        self._took_part.note_step(scales)

    def on_sampled(self, patcher: Patcher) -> None:
        """After sampling: what took no part must not pass for what did.

        Raises:
            QRLoRAError: steps were taken, but no hooked layer was called.
        """
        if self._runs_for(patcher) and sys.exc_info()[0] is None:
            for running in self._running.values():
                self._took_part.note(running.take_ran())
                log_casts(running.buffers.take_casts(), running.buffers.dtype)
            self._took_part.tell_of_sampling()

    def _watch_encoders(self, model: torch.nn.Module) -> list[RemovableHandle]:
        """A text encoder is never sampled: what took part in it is asked for whenever one of its parts has run."""
        if hasattr(model, "diffusion_model"):
            return []
        running, encoders = weakref.ref(model), dict(model.named_children())
        names = {name.partition(".")[0] for name in self._layout.layers} & encoders.keys()

        def watch(name: str) -> RemovableHandle:
            hook = UncopiedHook(lambda *_: self._on_encoded(running(), f"{name}."))
            return encoders[name].register_forward_hook(hook)

        return [watch(name) for name in names]

    def _on_encoded(self, model: torch.nn.Module | None, encoder: str) -> None:
        running = None if model is None else self._running.get(model)
        if running is not None:
            others = {name for name in running.layout.layers if not name.startswith(encoder)}
            self._took_part.tell_of_encoding(running.take_ran(encoder), others)

    def _scales(self, progress: float) -> list[float]:
        return [s.scale * (s.schedule.at(progress) if s.schedule else 1.0) for s in self._sources]


def _load_failed(patcher: Patcher) -> bool:
    """Whether the host injects because a load has failed: an error has come as far as a method of this patcher.

    It may be of another pack's class. Other errors may be in hand elsewhere, where somebody tries again after one.
    """
    error = sys.exc_info()[1]
    at = error.__traceback__ if error is not None else None
    return at is not None and at.tb_frame.f_locals.get("self") is patcher


def _guard_weights(model: torch.nn.Module) -> list[RemovableHandle]:
    """Refuse the state dict of the network by itself, which is what goes into a file, while branches are on it."""

    def refuse(_module: torch.nn.Module, prefix: str, _keep_vars: bool) -> None:
        # As a part of the whole model it is only measured, or asked for its names; a ControlLora takes it to sample.
        if not prefix and getattr(owner(), "current_patcher", None) is None:
            raise WeightsAloneError("saving")

    owner, network = weakref.ref(model), getattr(model, "diffusion_model", None)
    return [] if network is None else [network.register_state_dict_pre_hook(UncopiedHook(refuse))]
