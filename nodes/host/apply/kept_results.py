"""What a model, or a node before it, keeps of a step for the next ones: with other scales it belongs to another model.

Some models keep the keys and values of their prompt, some even from one picture to the next; nodes keep those of
reference images, or pass over whole steps. All are asked by what they have, so that what a host lacks costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ....qrlora_core import ScheduleError
from ..model.host_types import HostModel, Patcher
from ..model.kept import forget_network, keeps

# Gives the scales at a noise level, for a model that is sampled.
ScalesAt = Callable[[torch.nn.Module, Tensor], Sequence[float]]


def keep_nothing(patcher: Patcher, key: str, scales_at: ScalesAt | None = None) -> None:
    """Make a patcher's samplings begin and end with nothing kept by the model.

    Args:
        scales_at: of a schedule; whenever they change, all is forgotten that was kept since.
    """
    if keeps(patcher.model):
        for when in (CallbacksMP.ON_PRE_RUN, CallbacksMP.ON_CLEANUP):
            patcher.add_callback_with_key(when, key, lambda sampled: forget_network(sampled.model))
    if scales_at is not None:
        patcher.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, key, _Watch(scales_at))


class _Watch:
    """Around every denoising call, before the scales for it are set."""

    def __init__(self, scales_at: ScalesAt) -> None:
        self._scales_at = scales_at
        self._last: list[float] | None = None

    def __call__(
        self, executor: Any, model: HostModel, conds: Any, x: Tensor, timestep: Tensor, options: dict[str, Any]
    ) -> Any:
        given = options.get("transformer_options", {})
        _refuse_lazy_cache(given)
        scales = list(self._scales_at(model, timestep))
        if self._last not in (None, scales):
            copies = options.get("multigpu_clones", {}).values()  # each on its device, this one among them
            for one in [copy.model for copy in copies] or [model]:
                forget_network(one)
            forget_nodes(given)
        self._last = scales
        return executor(model, conds, x, timestep, options)


def forget_nodes(options: Mapping[str, Any]) -> None:
    """Drop what nodes and samplers keep between the steps of one sampling.

    Args:
        options: the ``transformer_options`` of the sampling.
    """
    steps: Any = options.get("easycache")
    if hasattr(steps, "cumulative_change_rate"):
        steps.cumulative_change_rate = math.inf  # its own reset would have it pass over all steps that are left
    for kept in options.values():
        if hasattr(kept, "slots") and hasattr(kept, "free"):
            kept.free()
    for kept in options.get("ar_state", {}).get("crossattn_caches", ()):  # what was made of the frames before stays
        kept["is_init"] = False
    for patches in options.get("patches", {}).values():
        for patch in patches:
            if isinstance(getattr(patch, "cache", None), dict) and hasattr(patch, "cleanup"):
                patch.cleanup()


def _refuse_lazy_cache(options: Mapping[str, Any]) -> None:
    """It decides to pass over a step before anyone is asked what the scales are there."""
    if getattr(options.get("easycache"), "name", "") == "LazyCache":
        raise ScheduleError(
            "LazyCache passes over steps without asking what a schedule does there. Replace it by EasyCache, or "
            "disconnect the schedule from QR-LoRA Merge."
        )
