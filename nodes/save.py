"""`QRLoRA_Save`: an adapter to a file."""

from __future__ import annotations

from comfy_api.latest import io

from ..qrlora_core import FORMATS, QRLoRA
from .host.files.folders import name_of, new_output_path
from .host.files.save import DTYPES, save
from .host.page.node_text import show_text
from .sockets import CATEGORY, QRLoRASocket


class Save(io.ComfyNode):
    """Saves an adapter under the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Save",
            display_name="Save QR-LoRA",
            category=CATEGORY,
            description="Saves a trained or merged adapter as safetensors under output/qr_loras, where Load QR-LoRA "
            "finds it. The name is shown on the node.",
            inputs=[
                QRLoRASocket.Input("adapter", tooltip="The adapter to save: from Train QR-LoRA or QR-LoRA Merge."),
                io.String.Input(
                    "filename_prefix",
                    default="adapter",
                    tooltip="Start of the file name under output/qr_loras; 'animals/cat' makes a subfolder. "
                    "A number is added, so nothing is overwritten.",
                ),
                io.Combo.Input(
                    "format",
                    options=[own.name for own in FORMATS],
                    default=FORMATS[0].name,
                    optional=True,
                    tooltip="full: all of it, of every kind. compact: about half the size of an ordinary LoRA; the "
                    "basis is kept once per base model in models/qr_lora_bases. lora: an ordinary LoRA for every other "
                    "tool. lycoris: LoKr, DoRA, OFT and others each as what it is, for ComfyUI's own loader and "
                    "LyCORIS.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default=next(iter(DTYPES)),
                    optional=True,
                    tooltip="Precision in the file. auto: as it is; for compact float16. In a full file the basis "
                    "keeps its own, so that adapters go on sharing it.",
                ),
            ],
            outputs=[
                io.String.Output(
                    id="adapter_name",
                    display_name="adapter_name",
                    tooltip="The name under which Load QR-LoRA lists the file.",
                )
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, adapter: QRLoRA, filename_prefix: str, format: str = FORMATS[0].name, dtype: str = "auto"
    ) -> io.NodeOutput:
        """Save, and show where."""
        path = save(adapter, new_output_path(filename_prefix), format, dtype)
        name = name_of(path)
        show_text(cls, f"saved as {name}")
        return io.NodeOutput(name, ui={"text": (name,)})
