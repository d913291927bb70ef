"""Show a short text on a node while and after it runs."""

from __future__ import annotations

from collections.abc import Callable

from comfy_api.latest import io
from server import PromptServer


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Put text under the widgets of the node that runs; does nothing where no server does."""
    text_shower(node)(text)


def text_shower(node: type[io.ComfyNode]) -> Callable[[str], None]:
    """`show_text` for this node, as a function of the text alone."""
    server, own_id = getattr(PromptServer, "instance", None), node_id(node)

    def show(text: str) -> None:
        if server is not None and own_id:
            server.send_progress_text(text, own_id)

    return show


def node_id(node: type[io.ComfyNode]) -> str:
    """The id in the prompt of the node that runs; empty where none does."""
    return str(getattr(node.hidden, "unique_id", None) or "")
