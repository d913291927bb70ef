"""`QRLoRA_Blocks`: scale an adapter block by block."""

from __future__ import annotations

from comfy_api.latest import io

from ..qrlora_core import QRLoRA, parse_rules, scale_blocks
from .host.model.host_types import Patcher
from .host.model.key_map import host_names
from .sockets import CATEGORY, QRLoRASocket


class Blocks(io.ComfyNode):
    """Scales chosen blocks of an adapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Blocks",
            display_name="QR-LoRA Blocks",
            category=CATEGORY,
            description="Gives blocks of an adapter a factor of their own, by layer name. Put it between Load or "
            "Train and QR-LoRA Merge.",
            inputs=[
                QRLoRASocket.Input("adapter", tooltip="The adapter; it stays as it is."),
                io.String.Input(
                    "rules",
                    default="",
                    multiline=True,
                    tooltip="pattern: factor, one per line, such as double_blocks.*: 1.0 or single_blocks.1?: 0.3. "
                    "The last rule that names a layer counts; other layers keep 1; 0 switches a layer off.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Connect the model to use its own layer names too; else those of the adapter file count.",
                ),
            ],
            outputs=[QRLoRASocket.Output(id="scaled", display_name="adapter", tooltip="The scaled adapter.")],
        )

    @classmethod
    def execute(cls, adapter: QRLoRA, rules: str, model: Patcher | None = None) -> io.NodeOutput:
        """Apply the rules."""
        aliases = host_names(model, adapter) if model is not None else None
        return io.NodeOutput(scale_blocks(adapter, parse_rules(rules), aliases))
