"""Tensors that the host moves, counts and frees beside a model, like a model of their own."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import comfy.model_patcher
import torch

Module_ = TypeVar("Module_", bound="Copied")
Module_co = TypeVar("Module_co", bound="Copied", covariant=True)


class Copied(torch.nn.Module):
    """A module of frozen parameters that can be made again for another device."""

    def copied(self, device: torch.device) -> Copied:
        """One of the same parameters, in memory of its own."""
        raise NotImplementedError


class Held(Protocol, Generic[Module_co]):
    """One of the host's patchers, of such a module."""

    @property
    def model(self) -> Module_co:
        """The module."""


def hold(module: Module_, load_device: torch.device, offload_device: torch.device) -> Held[Module_]:
    """A patcher for the host to load with a model, see ``set_additional_models``."""
    made: Any = comfy.model_patcher.ModelPatcher(module, load_device, offload_device)
    if hasattr(made, "cached_patcher_init"):  # how the host makes a copy for another device
        made.cached_patcher_init = _hold_copy, (module, load_device, offload_device)
    return made  # type: ignore[no-any-return]


def _hold_copy(module: Copied, load_device: torch.device, offload_device: torch.device, **_: Any) -> Held[Copied]:
    with torch.inference_mode(False):
        return hold(module.copied(offload_device), load_device, offload_device)


def beside(held: Held[Module_], models: list[Any]) -> Module_:
    """The module where a model that is loaded with these has it: a copy, if that is one for another device."""
    own = getattr(held, "clone_base_uuid", held)
    return next((one.model for one in models if getattr(one, "clone_base_uuid", one) == own), held.model)
