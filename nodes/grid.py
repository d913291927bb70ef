"""`QRLoRA_Grid`: the images of a sweep as one labelled picture."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from .pictures import LabelledGrid, labelled_grid, shrunk
from .sockets import CATEGORY, GridSocket
from .sweep import SweepGrid

_LONGEST_SIDE_SHOWN = 2048


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
        made = labelled_grid(
            [batch[0] for batch in images],
            columns=[f"{scale:g}" for scale in asked.scales_x],
            rows=[f"{scale:g}" for scale in asked.scales_y],
            column_title=asked.name_x,
            row_title=asked.name_y,
        )
        return io.NodeOutput(made.picture, ui={"qr_lora_grid": [_for_page(made, asked)]})


def _for_page(made: LabelledGrid, asked: SweepGrid) -> dict[str, Any]:
    """The picture as a file, and where which scales are on it: a click on a cell puts them into QR-LoRA Merge."""
    (file,) = ui.PreviewImage(shrunk(made.picture, _LONGEST_SIDE_SHOWN)).as_dict()["images"]
    height, width = made.picture.shape[1:3]
    scales = [(x, y) for y in asked.scales_y or (None,) for x in asked.scales_x]
    cells = [{"at": at, "scale_x": x, "scale_y": y} for at, (x, y) in zip(made.cells, scales, strict=True)]
    return {**file, "width": width, "height": height, "cells": cells, "name_x": asked.name_x, "name_y": asked.name_y}
