"""Every model by name, and the host's classes that are none."""

from __future__ import annotations

from importlib import import_module

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


def lacking(name: str) -> str:
    """Why the host cannot build this model, as a reason to skip it; empty where it can."""
    architecture = ARCHITECTURES[name]
    asked = ("comfy.supported_models", architecture.config), architecture.needs
    missing = [kind for module, kind in filter(None, asked) if not hasattr(import_module(module), kind)]
    return f"this ComfyUI has no {missing[0]}" if missing else ""
