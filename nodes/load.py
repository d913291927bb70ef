"""`QRLoRA_Load`: an adapter from a file."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..qrlora_core import AdapterFileError
from .host.files.describe import describe_adapter
from .host.files.folders import adapter_names, adapter_path
from .host.files.load import FILE_KINDS, load
from .host.files.pairs import half_of
from .host.model.host_types import Patcher
from .host.page.node_text import show_text
from .sockets import CATEGORY, QRLoRASocket


class Load(io.ComfyNode):
    """Loads an adapter file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Load",
            display_name="Load QR-LoRA",
            category=CATEGORY,
            description="Loads an adapter from models/qr_loras, models/loras or output/qr_loras: a QR-LoRA, an "
            "ordinary LoRA, or another kind such as LoKr, LoHa, DoRA or OFT. Connect it to QR-LoRA Merge.",
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=adapter_names(),
                    tooltip="The adapter file; the first part of the name is its folder. "
                    "Files saved while ComfyUI runs appear after pressing R.",
                ),
                io.Combo.Input(
                    "file_kind",
                    options=list(FILE_KINDS),
                    default=FILE_KINDS[0],
                    optional=True,
                    tooltip="auto: whatever the file says it is. published qr: a file of the authors' variant qr, "
                    "whose lora.up and lora.down replace a part of the base weights; needs model.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The base model. Only for file_kind published qr, and for compact files whose basis is not "
                    "on this machine yet.",
                ),
            ],
            outputs=[QRLoRASocket.Output(display_name="adapter", tooltip="The adapter, for QR-LoRA Merge.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, adapter_name: str) -> bool | str:
        """Our own message in place of the host's "value not in list"."""
        try:
            adapter_path(adapter_name)
        except AdapterFileError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str, **_others: Any) -> str:
        """Changes when the file does, so that it is loaded again."""
        status = adapter_path(adapter_name).stat()
        return f"{adapter_name} {status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, adapter_name: str, file_kind: str = FILE_KINDS[0], model: Patcher | None = None) -> io.NodeOutput:
        """Load the file and show what it is."""
        adapter = load(adapter_path(adapter_name), file_kind, model)
        half = half_of(adapter_name)
        described = "\n".join([describe_adapter(adapter), *([half.describe()] if half else [])])
        show_text(cls, described)
        return io.NodeOutput(adapter, ui={"text": (described,)})
