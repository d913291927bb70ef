"""`QRLoRA_Compare`: two adapters, layer by layer."""

from __future__ import annotations

from comfy_api.latest import io

from ..qrlora_core import QRLoRA, as_table
from ..qrlora_core.functional.compare import as_json
from .host.merge.compare import compare_on
from .host.model.host_types import Patcher
from .host.page.node_text import show_text
from .pictures import comparison_plot
from .sockets import CATEGORY, QRLoRASocket


class Compare(io.ComfyNode):
    """Says how alike two adapters are and where they meet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Compare",
            display_name="QR-LoRA Compare",
            category=CATEGORY,
            description="Compares two adapters, also ordinary LoRAs, LoKr and LoHa: how alike Q, dR and R are, how far "
            "their column and row spaces overlap, where their energy lies, and what a merge gains or loses.",
            inputs=[
                QRLoRASocket.Input("adapter_1", tooltip="The first adapter."),
                QRLoRASocket.Input("adapter_2", tooltip="The second adapter."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Connect the model when the two call their layers differently, as files of different "
                    "trainers do; else layers are matched by their names in the files.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    id="plot", display_name="plot", tooltip="Energy and interference by block, cosines by layer."
                ),
                io.String.Output(id="table", display_name="table", tooltip="Totals, and the layers that matter most."),
                io.String.Output(id="json", display_name="json", tooltip="All numbers, for other tools."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, adapter_1: QRLoRA, adapter_2: QRLoRA, model: Patcher | None = None) -> io.NodeOutput:
        """Compare, draw, and show the totals."""
        comparison, not_compared = compare_on(model, adapter_1, adapter_2)
        show_text(cls, "\n".join([as_table(comparison, rows=0), *not_compared]))
        table = "\n".join([as_table(comparison), *not_compared])
        return io.NodeOutput(comparison_plot(comparison), table, as_json(comparison))
