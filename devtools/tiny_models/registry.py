"""Every model by name, and the host's classes that are none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module

import torch

from .architecture import Architecture, Released
from .families import (
    cascade,
    cosmos,
    ernie,
    flux,
    hidream,
    hunyuan,
    ideogram,
    kandinsky,
    krea,
    ltx,
    lumina,
    pixart,
    pixeldit,
    qwen,
    stable_diffusion,
    video,
    wan,
)

# In the order in which artists ask for them.
_FAMILIES = (
    krea, cosmos, qwen, flux, lumina, stable_diffusion, wan, ltx, ideogram, ernie, hidream, hunyuan, kandinsky, video,
    pixart, pixeldit, cascade,
)  # fmt: skip
ARCHITECTURES: dict[str, Architecture] = {
    name: architecture for family in _FAMILIES for name, architecture in family.ARCHITECTURES.items()
}
NAMES: tuple[str, ...] = tuple(ARCHITECTURES)
TITLES = {name: architecture.title for name, architecture in ARCHITECTURES.items()}

_SOUND, _SHAPES = "make sound, and no picture", "make shapes in space, and no picture"
_FINDERS = "find things in pictures, and make none"
# Classes of `comfy.supported_models` that have no row, and why.
UNSERVED: dict[str, str] = {
    **dict.fromkeys(("StableAudio", "StableAudio3", "ACEStep", "ACEStep15", "MiniMaxMusic3"), _SOUND),
    **dict.fromkeys(("Hunyuan3Dv2", "Hunyuan3Dv2mini", "Hunyuan3Dv2_1", "TripoSplat", "Trellis2"), _SHAPES),
    **dict.fromkeys(("RT_DETR_v4", "SAM3", "SAM31", "DepthAnything3"), _FINDERS),
    "WAN21_FlowRVS": "makes the mask of a video from the video itself, with no noise: it is trained on pairs of both",
}


@cache
def lacking(name: str) -> str:
    """Why the host cannot build this model, as a reason to skip it; empty where it can."""
    architecture = ARCHITECTURES[name]
    asked = ("comfy.supported_models", architecture.config), architecture.needs
    missing = [kind for module, kind in filter(None, asked) if not hasattr(import_module(module), kind)]
    if missing:
        return f"this ComfyUI has no {missing[0]}"
    unknown = _unknown_setting(architecture)
    return f"this ComfyUI has no {unknown} in {architecture.config}" if unknown else ""


_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")


def _unknown_setting(architecture: Architecture) -> str:
    """The first setting that this host's network does not know, as of a later form of a model that it has."""
    import comfy.supported_models

    config = getattr(comfy.supported_models, architecture.config)(dict(architecture.unet))
    config.set_inference_dtype(torch.float32, None)
    try:
        with torch.no_grad():
            config.get_model(architecture.beside(), "", device=torch.device("meta"))
    except TypeError as error:
        found = _UNKNOWN.search(str(error))
        return found[1] if found else ""
    return ""


def config_of(name: str) -> str:
    """The host's class of a model, in `comfy.supported_models`."""
    return ARCHITECTURES[name].config


def edits(name: str) -> bool:
    """Whether a model edits by a picture beside the text."""
    return bool(ARCHITECTURES[name].reference)


def limits_of(name: str) -> Mapping[str, str]:
    """Aspect to the reason why it does not work with a model on some host."""
    return ARCHITECTURES[name].limits


def published(name: str) -> tuple[Released, ...]:
    """The published networks of a model."""
    return ARCHITECTURES[name].released


def variant_of(name: str) -> str:
    """The model whose network this one is but for its settings; empty for a network of its own."""
    return ARCHITECTURES[name].variant_of
