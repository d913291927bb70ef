"""The extension that ComfyUI loads: its list of nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .host.files import register_folders
from .load import Load
from .merge import Merge
from .save import Save
from .train import Train


class QRLoRAExtension(ComfyExtension):
    """Train, save, load and merge QR-LoRA adapters."""

    async def on_load(self) -> None:
        """Make ``models/qr_loras`` known to the host."""
        register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes, in the order of the menu."""
        return [Load, Merge, Train, Save]


async def comfy_entrypoint() -> QRLoRAExtension:
    """Called by the host once, when it loads the pack."""
    return QRLoRAExtension()
