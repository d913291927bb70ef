"""`QRLoRA_Rebase`: an adapter on another basis."""

from __future__ import annotations

from comfy_api.latest import io

from ..qrlora_core import QRLoRA
from .host.model.host_types import Patcher
from .host.model.rebase import rebase, reduce_rank
from .host.page.node_text import show_text
from .sockets import CATEGORY, QRLoRASocket


class Rebase(io.ComfyNode):
    """Moves an adapter onto the basis of a model, or to a smaller rank."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Rebase",
            display_name="QR-LoRA Rebase",
            category=CATEGORY,
            description="Moves an adapter onto the basis of another base model or rank, so that it shares it with the "
            "adapters there. Without a model: reduces an adapter, such as a merge over several bases, to one term of "
            "a rank. Says how much of it was kept, and refuses when that is too little.",
            inputs=[
                QRLoRASocket.Input("adapter", tooltip="The adapter; it stays as it is."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model whose basis to use. Leave free to find the best basis for the adapter itself. "
                    "DoRA, OFT and other kinds that change with the weights need it.",
                ),
                io.Int.Input(
                    "rank",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="The new rank; 0 keeps that of each layer. More keeps more of the adapter.",
                ),
                io.Float.Input(
                    "min_energy",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Refuse where less than this share of the adapter's energy is kept. 0 never refuses.",
                ),
            ],
            outputs=[
                QRLoRASocket.Output(id="rebased", display_name="adapter", tooltip="The adapter on its new basis."),
                io.String.Output(id="report", display_name="report", tooltip="How much was kept, and where least."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, adapter: QRLoRA, model: Patcher | None = None, rank: int = 0, min_energy: float = 0.5
    ) -> io.NodeOutput:
        """Rebase, and say what was kept."""
        if model is None:
            rebased, report = reduce_rank(adapter, rank, min_energy)
        else:
            rebased, report = rebase(model, adapter, rank, min_energy)
        show_text(cls, report)
        return io.NodeOutput(rebased, report)
