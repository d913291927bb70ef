"""Show a short text on a node while and after it runs."""

from __future__ import annotations

from comfy_api.latest import io
from server import PromptServer


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Put text under the widgets of the node that runs; does nothing where no server does."""
    server = getattr(PromptServer, "instance", None)
    node_id = getattr(node.hidden, "unique_id", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)
