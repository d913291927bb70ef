"""The extension that ComfyUI loads: its list of nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .blocks import Blocks
from .compare import Compare
from .grid import Grid
from .host.files.folders import register_folders
from .host.page.library import register_library
from .host.page.mixes import register_mixes
from .host.page.training import register_routes
from .load import Load
from .merge import Merge
from .mixer import Mixer
from .objective import Objective
from .optimizer import Optimizer
from .rebase import Rebase
from .role import Role
from .save import Save
from .schedule import Schedule
from .sweep import Sweep
from .train import Train
from .training_data import TrainingData


class QRLoRAExtension(ComfyExtension):
    """Train, save, load, merge and compare QR-LoRA adapters."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes, in the order of the menu."""
        return [
            *(Load, Merge, Mixer, Train, Save),
            *(Objective, Optimizer, TrainingData, Role),
            *(Schedule, Blocks, Sweep, Grid),
            *(Rebase, Compare),
        ]


async def comfy_entrypoint() -> QRLoRAExtension:
    """Called by the host once, when it loads the pack."""
    register_folders()  # here, since not every supported host calls an extension's on_load
    register_routes()
    register_library()
    register_mixes()
    return QRLoRAExtension()
