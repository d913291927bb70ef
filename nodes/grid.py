"""`QRLoRA_Grid`: the images of a sweep as one labelled picture."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .pictures import labelled_grid
from .sockets import CATEGORY, GridSocket
from .sweep import SweepGrid


class Grid(io.ComfyNode):
    """Joins the images of a sweep."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Grid",
            display_name="QR-LoRA Grid",
            category=CATEGORY,
            description="Joins the images of QR-LoRA Sweep into one picture, with the scales at its edges.",
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images", tooltip="The decoded images, one per cell of the sweep; of a batch, the first."
                ),
                GridSocket.Input("grid", tooltip="From QR-LoRA Sweep."),
            ],
            outputs=[io.Image.Output(id="image", display_name="image", tooltip="The labelled picture.")],
        )

    @classmethod
    def execute(cls, images: list[Any], grid: list[SweepGrid]) -> io.NodeOutput:
        """Lay the first image of every cell out row by row."""
        asked = grid[0]
        return io.NodeOutput(
            labelled_grid(
                [batch[0] for batch in images],
                columns=[f"{scale:g}" for scale in asked.scales_x],
                rows=[f"{scale:g}" for scale in asked.scales_y],
                column_title=asked.name_x,
                row_title=asked.name_y,
            )
        )
