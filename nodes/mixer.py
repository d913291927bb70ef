"""`QRLoRA_Mixer`: a whole mix of adapter files in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..qrlora_core import QRLoRAError
from .host.merge.merge import APPLY_MODES
from .host.merge.report import as_text
from .host.mix.document import MOST_ROWS, parse_mix
from .host.mix.loaded import Loaded
from .host.mix.sources import half_lines, heard_rows, load_sources, stamps, trigger_words
from .host.mix.stack import as_stack, describe_rest, rows_of_stack
from .host.model.host_types import Clip, Patcher
from .host.model.weights import base_name
from .host.page.node_text import node_id, text_shower
from .merge_inputs import apply_input, clip_input, combination, mode_inputs
from .shown_merge import apply_and_show
from .sockets import CATEGORY, LoRAStackSocket, QRLoRASocket

_OF_THE_MODEL = range(3)  # outputs that there are with a model alone


class Mixer(io.ComfyNode):
    """Applies a mix of adapter files to a model."""

    LOADED = Loaded()

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Mixer",
            display_name="QR-LoRA Mixer",
            category=CATEGORY,
            description=f"Applies up to {MOST_ROWS} adapter files to a model: a row each, with its scale, blocks and "
            "schedule. The given model stays as it is; the output model carries the mix.",
            inputs=[
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that the adapters were trained on. Without one, only lora_stack and "
                    "trigger_words are given.",
                ),
                clip_input(),
                LoRAStackSocket.Input(
                    "lora_stack",
                    optional=True,
                    tooltip="LoRAs from a stack node of another pack; they count beside the rows.",
                ),
                io.String.Input(
                    "mix",
                    default="",
                    optional=True,
                    tooltip="The rows as JSON; the page writes it. See the help of this node for how to write it "
                    "yourself.",
                ),
                apply_input(),
                *mode_inputs(MOST_ROWS),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the mix applied."),
                io.Clip.Output(id="clip_out", display_name="clip", tooltip="The text encoder with the mix applied."),
                QRLoRASocket.Output(
                    id="merged", display_name="merged", tooltip="The mix as one adapter, for Save QR-LoRA."
                ),
                io.String.Output(
                    id="report",
                    display_name="report",
                    tooltip="Which layers of each adapter were applied, and how.",
                ),
                io.String.Output(
                    id="trigger_words",
                    display_name="trigger_words",
                    tooltip="What the files of the rows that are on tell of their trigger words.",
                ),
                LoRAStackSocket.Output(
                    id="stack",
                    display_name="lora_stack",
                    tooltip="The rows that are on as (name, strength, strength), for stack nodes of other packs.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def validate_inputs(cls, mix: str = "") -> bool | str:
        """A mix that cannot be read, or rows without a file, before anything runs."""
        try:
            heard_rows(parse_mix(mix or ""))
        except QRLoRAError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, mix: str = "", **_others: Any) -> str:
        """Changes when a file does that is heard, so that it is loaded again."""
        try:
            return stamps(heard_rows(parse_mix(mix or "")))
        except (QRLoRAError, OSError) as error:  # which the node says when it runs
            return str(error)

    @classmethod
    def execute(
        cls,
        model: Patcher | None = None,
        clip: Clip | None = None,
        lora_stack: Any = None,
        mix: str = "",
        apply: str = APPLY_MODES[0],
        mode: str | None = None,
        **given: Any,
    ) -> io.NodeOutput:
        """Load what is heard, merge and apply it; ``given`` has what the mode asks for."""
        parsed = parse_mix(mix)
        rows = heard_rows(parsed, rows_of_stack(lora_stack))
        stack, others = as_stack(own.row for own in rows)
        lines = [*half_lines(rows), *describe_rest([own.row for own in rows], others)]
        if model is None:
            cls._require_nothing_of_the_model()
            told = as_text(["no model connected: the rows are handed on as lora_stack alone", *lines])
            text_shower(cls)(told)
            return io.NodeOutput(None, None, None, told, trigger_words(rows), stack)
        how = combination(mode, given, [own.number for own in rows if own.is_in_mix])
        sources = load_sources(rows, parsed, model, node_id(cls), cls.LOADED)
        applied, report = apply_and_show(cls, model, sources, apply, how, clip, more=lines)
        slots = [own.number if own.is_in_mix else own.place for own in rows]
        shown = {"slots": slots, "family": base_name(model), **applied.overview}
        outputs = (applied.model, applied.clip, applied.merged, report, trigger_words(rows), stack)
        return io.NodeOutput(*outputs, ui={"qr_lora_merge": [shown]})

    @classmethod
    def _require_nothing_of_the_model(cls) -> None:
        own, prompt = node_id(cls), getattr(cls.hidden, "prompt", None) or {}
        inputs = [value for node in prompt.values() for value in node.get("inputs", {}).values()]
        links = [value for value in inputs if isinstance(value, list) and len(value) == 2]
        if any(str(source) == own and output in _OF_THE_MODEL for source, output in links):
            raise QRLoRAError(
                "model: nothing is connected to it, and another node takes model, clip or merged of QR-LoRA Mixer. "
                "Connect a model."
            )
