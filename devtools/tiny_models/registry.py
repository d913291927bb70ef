"""Every model by name, and the host's classes that are none."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch

from .architecture import Architecture
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

# Classes of `comfy.supported_models` that have no row, and why.
UNSERVED: dict[str, str] = {}


@cache
def lacking(name: str) -> str:
    """Why the host cannot build this model, as a reason to skip it; empty where it can."""
    import comfy.supported_models

    architecture = ARCHITECTURES[name]
    kind = getattr(comfy.supported_models, architecture.config, None)
    if kind is None:
        return f"this ComfyUI has no {architecture.config}"
    unknown = _unknown_setting(kind(dict(architecture.unet)))
    return f"this ComfyUI has no {unknown} in {architecture.config}" if unknown else ""


_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")


def _unknown_setting(config: Any) -> str:
    """The first setting that this host's network does not know, as of a later form of a model that it has."""
    config.set_inference_dtype(torch.float32, None)
    try:
        config.get_model({}, "", device=torch.device("meta"))
    except TypeError as error:
        found = _UNKNOWN.search(str(error))
        return found[1] if found else ""
    return ""
