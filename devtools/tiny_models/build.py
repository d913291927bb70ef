"""Build a model of the registry from the host's own classes, small or, on no memory, as it is published."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from .architecture import Architecture
from .registry import ARCHITECTURES
from .weights import fill

if TYPE_CHECKING:
    from comfyui_qr_lora.nodes.host.model.host_types import HostModel, Patcher


def build(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    compute_dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
) -> Patcher:
    """A tiny model with seeded random weights, as the host's loaders would return it.

    Args:
        name: one of `NAMES`.
        dtype: storage of the weights; float8 is computed by the host's manual cast.
        compute_dtype: what a manual cast computes in, None for `dtype` itself (float32 where that is float8).
        device: where the host runs it; by default what QRLORA_TEST_DEVICE names, else the CPU.
        seed: of all weights.

    Raises:
        KeyError: an unknown name.
    """
    return _patcher(ARCHITECTURES[name], dtype, compute_dtype, device, seed)


def real_width_flux(
    *,
    hidden: int = 3072,
    depth: int = 1,
    depth_single: int = 1,
    dtype: torch.dtype = torch.float32,
    compute_dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
) -> Patcher:
    """FLUX.1-dev with its true widths and few blocks, for benchmarks: 545 million parameters at the defaults.

    Args:
        hidden: width, a multiple of 128.
        depth: double blocks, 19 in the real model.
        depth_single: single blocks, 38 in the real model.
        dtype, compute_dtype, device, seed: as for `build`.
    """
    widths = {"hidden_size": hidden, "num_heads": hidden // 128, "axes_dim": [16, 56, 56], "context_in_dim": 4096}
    flux = ARCHITECTURES["flux"]
    depths = {"depth": depth, "depth_single_blocks": depth_single}
    return _patcher(replace(flux, unet={**flux.unet, **widths, **depths}), dtype, compute_dtype, device, seed)


def released(name: str, title: str) -> HostModel:
    """A published network with its true widths and depths, on the meta device: names and shapes, no numbers.

    Args:
        name: one of `NAMES`.
        title: of one of its `Released`.
    """
    architecture = ARCHITECTURES[name]
    unet = next(network.unet for network in architecture.released if network.title == title)
    return _on_no_memory(architecture, _completed(architecture, unet))


def _patcher(
    architecture: Architecture,
    dtype: torch.dtype,
    compute_dtype: torch.dtype | None,
    device: str | torch.device | None,
    seed: int,
) -> Patcher:
    if dtype.itemsize == 1 and compute_dtype is None:
        compute_dtype = torch.float32

    def make() -> HostModel:
        config = configuration(architecture)
        config.set_inference_dtype(dtype, compute_dtype)
        model = model_of(architecture, config)
        fill(model.diffusion_model, torch.Generator().manual_seed(seed))
        return model

    return patcher_of(make, device)


def configuration(architecture: Architecture) -> Any:
    """The host's configuration with all settings that this host asks for, and none that it does not know."""
    settings = _completed(architecture, architecture.unet)
    made = _kind(architecture)(dict(settings))
    made.unet_config.update(settings)  # a class may fix what all published networks have in common, Ideogram's widths
    return made


def _kind(architecture: Architecture) -> Any:
    """The host's class."""
    import comfy.supported_models

    return getattr(comfy.supported_models, architecture.config)


_ASKED = re.compile(r"missing \d+ required .*argument")


def _completed(architecture: Architecture, unet: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings, with those that a newer host demands as its own detection finds them in a checkpoint of the model."""
    import comfy.model_detection

    try:
        _on_no_memory(architecture, unet)
    except TypeError as error:
        if not _ASKED.search(str(error)):
            raise
        names = re.findall(r"'(\w+)'", str(error))
        state = _on_no_memory(architecture, {**unet, **dict.fromkeys(names)}).diffusion_model.state_dict()
        found = comfy.model_detection.detect_unet_config(state, "") or {}
        return {**unet, **{name: found.get(name) for name in names}}
    return unet


def _on_no_memory(architecture: Architecture, unet: Mapping[str, Any]) -> HostModel:
    config = _kind(architecture)(dict(unet))
    config.set_inference_dtype(torch.float32, None)
    return _made(architecture, config, device=torch.device("meta"))


def model_of(architecture: Architecture, config: Any) -> HostModel:
    """The small model of a configuration, its weights allocated but not filled."""
    with _allocating():
        model = _made(architecture, config)
        architecture.narrow(model.diffusion_model)
    return model


@torch.no_grad()  # as the host loads: some classes copy what a checkpoint holds into parameters
def _made(architecture: Architecture, config: Any, **options: Any) -> HostModel:
    with _allocating():
        model: HostModel = config.get_model(architecture.beside(), "", **options)
    return model


@contextmanager
def _allocating() -> Iterator[None]:
    """Where the host streams weights in, its layers have none until a checkpoint is loaded: here they have at once."""
    import comfy

    memory: Any = getattr(comfy, "memory_management", None)
    streams = getattr(memory, "aimdo_enabled", False)
    if streams:
        memory.aimdo_enabled = False
    try:
        yield
    finally:
        if streams:
            memory.aimdo_enabled = True


def patcher_of(make: Callable[[], HostModel], device: str | torch.device | None) -> Patcher:
    """A model as the host's loaders return it."""
    import comfy.model_patcher

    wanted = device or os.environ.get("QRLORA_TEST_DEVICE", "cpu")
    load_device = torch.empty(0, device=wanted).device  # "cuda" with its index, as the host compares devices
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    patcher = kind(make(), load_device, torch.device("cpu"))
    # As loaders leave it on newer hosts: how to have the model a second time.
    patcher.cached_patcher_init = (lambda *, disable_dynamic=False: patcher_of(make, device), ())
    made: Patcher = patcher
    return made
