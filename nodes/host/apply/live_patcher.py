"""What a model with live adapters must not be used for in silence: whatever takes its weights alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from comfy.patcher_extension import PatcherInjection

from ....qrlora_core import QRLoRAError
from ..model.host_types import Patcher


class LiveInjection(PatcherInjection):
    """An injection of live adapters, known by its class."""


def live_merges_on(patcher: Patcher) -> int:
    """How many merges in a row a patcher carries."""
    return len(_live_injections(patcher))


def carries(patcher: Patcher, inject: Callable[[Patcher], None]) -> bool:
    """Whether a patcher still has the injection with this function: another node may have taken it away."""
    return any(one.inject == inject for one in _live_injections(patcher))


def _live_injections(patcher: Patcher) -> list[LiveInjection]:
    return [one for members in patcher.injections.values() for one in members if isinstance(one, LiveInjection)]


class WeightsAloneError(QRLoRAError):
    """The weights of a model were asked for, in which its live adapters are not."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: this model has live adapters, which are not in its weights and would be lost. "
            "Set apply to patch in QR-LoRA Merge, then run this again."
        )


def refuse_weights_alone(patcher: Patcher) -> None:
    """Make a patcher, and every clone of it, refuse to give weights without the live adapters that it carries.

    Stock nodes ask the patcher itself: to save a checkpoint, to extract a LoRA, and for the second model of a merge.
    """
    patcher.__class__ = _live_kind(type(patcher))


@functools.lru_cache(maxsize=32)
def _live_kind(kind: type) -> type:
    return kind if issubclass(kind, _Live) else type(f"Live{kind.__name__}", (_Live, kind), {})


class _Live:
    """Beside one of the host's patchers, and of another pack's; its clones are of its class."""

    _hooking = False

    def _refuse(self, what: str) -> None:
        if live_merges_on(self):  # type: ignore[arg-type]
            raise WeightsAloneError(what)

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        """As the patcher would: a pack (GGUF) may give its clones a class that it names."""
        made = super().clone(*args, **kwargs)  # type: ignore[misc]
        refuse_weights_alone(made)
        return made

    def model_state_dict_for_saving(self, *args: Any, **kwargs: Any) -> Any:
        """Of a checkpoint."""
        self._refuse("saving")
        return super().model_state_dict_for_saving(*args, **kwargs)  # type: ignore[misc]

    def model_state_dict(self, filter_prefix: str | None = None) -> Any:
        """Of a part of the weights, which is asked for to extract a LoRA; all of them, for their names mostly."""
        if filter_prefix is not None and not self._hooking:
            self._refuse("extracting a LoRA")
        return super().model_state_dict(filter_prefix)  # type: ignore[misc]

    def get_key_patches(self, *args: Any, **kwargs: Any) -> Any:
        """Of the weights with their patches, for another model."""
        if not self._hooking:
            self._refuse("merging models")
        return super().get_key_patches(*args, **kwargs)  # type: ignore[misc]

    def patch_hooks(self, *args: Any, **kwargs: Any) -> Any:
        """Of LoRA hooks: the patcher asks itself for its weights, and keeps them."""
        self._hooking = True
        try:
            return super().patch_hooks(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._hooking = False
