"""`QRLoRA_Schedule`: how a scale changes while sampling."""

from __future__ import annotations

from comfy_api.latest import io

from ..qrlora_core import make_curve, parse_points
from ..qrlora_core.schedule import CURVES
from .sockets import CATEGORY, ScheduleSocket

_CUSTOM = "custom"


class Schedule(io.ComfyNode):
    """A curve over the sampling."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Schedule",
            display_name="QR-LoRA Schedule",
            category=CATEGORY,
            description="A curve that multiplies an adapter's scale while sampling. Connect it to a schedule input of "
            "QR-LoRA Merge; try 'early' for the content and 'late' for the style.",
            inputs=[
                io.Combo.Input(
                    "curve",
                    options=[*CURVES, _CUSTOM],
                    default="early",
                    tooltip="early: full, then off from the middle. late: off, then full from the middle. "
                    "ramp up and ramp down: evenly from 0 to 1 or back. constant: full inside the window, off "
                    "outside. custom: the points below.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the curve starts: 0 is the first step.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the curve ends: 1 is the last step.",
                ),
                io.String.Input(
                    "points",
                    default="0:1, 0.5:0.5, 1:0",
                    optional=True,
                    tooltip="Only with curve = custom: progress:factor pairs, progress from 0 to 1 inside the window.",
                ),
            ],
            outputs=[ScheduleSocket.Output(id="schedule", display_name="schedule", tooltip="For QR-LoRA Merge.")],
        )

    @classmethod
    def execute(cls, curve: str, start_percent: float, end_percent: float, points: str = "") -> io.NodeOutput:
        """Lay the curve into its window."""
        shape = parse_points(points) if curve == _CUSTOM else curve
        return io.NodeOutput(make_curve(shape, start_percent, end_percent))
