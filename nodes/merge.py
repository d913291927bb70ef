"""`QRLoRA_Merge`: up to eight adapters, a scale each, on a model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.apply.source import Source
from .host.merge.merge import APPLY_MODES
from .host.model.host_types import Clip, Patcher
from .merge_inputs import apply_input, clip_input, combination, mode_inputs
from .shown_merge import apply_and_show
from .sockets import CATEGORY, QRLoRASocket, ScheduleSocket

SLOTS = range(1, 9)


class Merge(io.ComfyNode):
    """Merges adapters and applies them to a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Merge",
            display_name="QR-LoRA Merge",
            category=CATEGORY,
            description="Applies up to eight adapters to a model, each with its own scale. The given model stays "
            "as it is; the output model carries the merge.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the adapters were trained on."),
                *(
                    QRLoRASocket.Input(
                        f"adapter_{slot}", optional=True, tooltip=f"Adapter {slot}; leave free if not needed."
                    )
                    for slot in SLOTS
                ),
                *(
                    io.Float.Input(
                        f"scale_{slot}",
                        default=1.0,
                        min=-10.0,
                        max=10.0,
                        step=0.05,
                        optional=True,
                        tooltip=f"How strongly adapter {slot} acts: 0 is off, 1 as trained, below 0 the opposite.",
                    )
                    for slot in SLOTS
                ),
                apply_input(),
                *(
                    ScheduleSocket.Input(
                        f"schedule_{slot}",
                        optional=True,
                        tooltip=f"How scale {slot} changes while sampling, from QR-LoRA Schedule; needs apply = live.",
                    )
                    for slot in SLOTS
                ),
                clip_input(),
                io.Float.Input(
                    "clip_scale",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    optional=True,
                    tooltip="Times each scale, for the layers of the text encoder: 0 leaves it as it is.",
                ),
                *mode_inputs(len(SLOTS)),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the adapters applied."),
                QRLoRASocket.Output(
                    id="merged",
                    display_name="merged",
                    tooltip="The merge at these scales as one adapter, for Save QR-LoRA.",
                ),
                io.String.Output(
                    id="report",
                    display_name="report",
                    tooltip="Which layers of each adapter were applied, and how.",
                ),
                io.Clip.Output(
                    id="clip_out", display_name="clip", tooltip="The text encoder with the adapters applied."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Patcher,
        apply: str = APPLY_MODES[0],
        clip: Clip | None = None,
        clip_scale: float = 1.0,
        mode: str | None = None,
        **given: Any,
    ) -> io.NodeOutput:
        """Merge the connected adapters and apply the result; ``given`` has the slots, and what the mode asks for."""
        connected = [slot for slot in SLOTS if given.get(f"adapter_{slot}") is not None]
        how = combination(mode, given, connected)
        sources = [_source(slot, given) for slot in connected]
        applied, report = apply_and_show(cls, model, sources, apply, how, clip, clip_scale)
        told = {"slots": connected, **applied.overview}
        return io.NodeOutput(applied.model, applied.merged, report, applied.clip, ui={"qr_lora_merge": [told]})


def _source(slot: int, given: dict[str, Any]) -> Source:
    adapter = given[f"adapter_{slot}"]
    return Source(adapter.label(slot), adapter, given.get(f"scale_{slot}", 1.0), given.get(f"schedule_{slot}"))
