"""`QRLoRA_Load`: an adapter from a file."""

from __future__ import annotations

from comfy_api.latest import io

from ..qrlora_core import AdapterFileError, load_adapter
from .host.display import show_text
from .host.files import adapter_names, adapter_path
from .host.report import describe_adapter
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
            description="Loads a QR-LoRA adapter from models/qr_loras, models/loras or output/qr_loras. "
            "Connect it to QR-LoRA Merge.",
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=adapter_names(),
                    tooltip="The adapter file; the first part of the name is its folder. "
                    "Files saved while ComfyUI runs appear after pressing R.",
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
    def fingerprint_inputs(cls, adapter_name: str) -> str:
        """Changes when the file does, so that it is loaded again."""
        status = adapter_path(adapter_name).stat()
        return f"{adapter_name} {status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, adapter_name: str) -> io.NodeOutput:
        """Load the file and show what it is."""
        adapter = load_adapter(adapter_path(adapter_name))
        show_text(cls, describe_adapter(adapter))
        return io.NodeOutput(adapter)
