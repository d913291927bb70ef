"""Every model by name, and the host's classes that are none."""

from __future__ import annotations

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
UNSERVED: dict[str, str] = {
    "WAN21_FlowRVS": "makes the mask of a video from the video itself, with no noise: trained on pairs of both",
}


def lacking(name: str) -> str:
    """Why the host cannot build this model, as a reason to skip it; empty where it can."""
    import comfy.supported_models

    config = ARCHITECTURES[name].config
    return "" if hasattr(comfy.supported_models, config) else f"this ComfyUI has no {config}"
