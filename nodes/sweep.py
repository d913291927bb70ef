"""`QRLoRA_Sweep`: the same model at many scales."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..qrlora_core import QRLoRA, QRLoRAError, listed
from .host.apply.source import Source
from .host.merge.merge import APPLY_MODES, apply_adapters
from .host.model.host_types import Patcher
from .merge_inputs import combination, mode_inputs
from .sockets import CATEGORY, GridSocket, QRLoRASocket

_MOST_CELLS = 256


@dataclass(frozen=True)
class SweepGrid:
    """The scales of a sweep: one column per ``scales_x``, one row per ``scales_y`` (empty for a single row)."""

    name_x: str
    name_y: str
    scales_x: tuple[float, ...]
    scales_y: tuple[float, ...]


class Sweep(io.ComfyNode):
    """Models over a grid of scales."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Sweep",
            display_name="QR-LoRA Sweep",
            category=CATEGORY,
            description="A list of models over a grid of two adapters' scales, or of one. What follows runs once "
            "per cell; QR-LoRA Grid joins the images. A cell is exactly the single run with its scales.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the adapters were trained on."),
                QRLoRASocket.Input("adapter_x", tooltip="Its scale changes from column to column."),
                io.String.Input("scales_x", default="0, 0.5, 1", tooltip="The scales of the columns, with commas."),
                QRLoRASocket.Input(
                    "adapter_y", optional=True, tooltip="Its scale changes from row to row; leave free for one row."
                ),
                io.String.Input(
                    "scales_y",
                    default="0, 0.5, 1",
                    optional=True,
                    tooltip="The scales of the rows, with commas; not used without adapter_y.",
                ),
                io.Combo.Input(
                    "apply",
                    options=list(APPLY_MODES),
                    default=APPLY_MODES[0],
                    optional=True,
                    tooltip="As in QR-LoRA Merge. patch reloads the model for every cell.",
                ),
                *mode_inputs(2),
            ],
            outputs=[
                io.Model.Output(
                    id="models", display_name="models", is_output_list=True, tooltip="One model per cell, row by row."
                ),
                GridSocket.Output(id="grid", display_name="grid", tooltip="The scales, for QR-LoRA Grid."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Patcher,
        adapter_x: QRLoRA,
        scales_x: str,
        adapter_y: QRLoRA | None = None,
        scales_y: str = "",
        apply: str = APPLY_MODES[0],
        mode: str | None = None,
        **given: Any,
    ) -> io.NodeOutput:
        """One model per cell; a cell holds scales, not merged tensors, but with ties, whose result depends on them."""
        grid = SweepGrid(
            name_x=adapter_x.label("x"),
            name_y=adapter_y.label("y") if adapter_y is not None else "",
            scales_x=_scales("scales_x", scales_x),
            scales_y=_scales("scales_y", scales_y) if adapter_y is not None else (),
        )
        cells = len(grid.scales_x) * max(1, len(grid.scales_y))
        if cells > _MOST_CELLS:
            raise QRLoRAError(f"expected at most {_MOST_CELLS} cells, found {cells}.")
        how = combination(mode, given, [1] if adapter_y is None else [1, 2])
        models = [
            apply_adapters(model, _sources(adapter_x, x, adapter_y, y), apply, how=how).model
            for y in grid.scales_y or (None,)
            for x in grid.scales_x
        ]
        return io.NodeOutput(models, grid)


def _sources(adapter_x: QRLoRA, x: float, adapter_y: QRLoRA | None, y: float | None) -> list[Source]:
    columns = [Source(adapter_x.name, adapter_x, x)]
    return columns if adapter_y is None or y is None else [*columns, Source(adapter_y.name, adapter_y, y)]


def _scales(name: str, text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(part) for part in listed(text))
    except ValueError:
        raise QRLoRAError(f"{name}: expected numbers with commas such as 0, 0.5, 1, found {text!r}.") from None
    if not all(map(math.isfinite, scales)):
        raise QRLoRAError(f"{name}: expected finite numbers, found {text!r}.")
    if not scales:
        raise QRLoRAError(f"{name}: expected at least one number, found none.")
    return scales
