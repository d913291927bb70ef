"""Show a short text on a node while and after it runs."""

from __future__ import annotations

import re
from collections.abc import Callable

from comfy_api.latest import io

from ....qrlora_core import UNREADABLE
from .server import running_server

_LONGEST = 20_000
_NO_TEXT = re.compile(rf"(?!\n){UNREADABLE.pattern}")
_BRACKETS = str.maketrans("<>", "‹›")
# What the renderers make a link, a picture or a character of, and a placeholder that one of them trips over.
_ACTIVE = re.compile(r"\[(?=\[)|\](?=[(:\[])|:(?=//)|www(?=\.)|@|&(?=[#\w])|_(?=_LNK\d)", re.IGNORECASE)
_LINE_END = "  \n"  # two spaces before: Markdown keeps no other
_JOINER = "\u2060"  # invisible, and no part of any markup


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Put text under the widgets of the node that runs; does nothing where no server does."""
    text_shower(node)(text)


def text_shower(node: type[io.ComfyNode]) -> Callable[[str], None]:
    """`show_text` for this node, as a function of the text alone."""
    server, own_id = running_server(), node_id(node)

    def show(text: str) -> None:
        if server is not None and own_id:
            server.send_progress_text(as_plain_text(text), own_id)

    return show


def as_plain_text(text: str) -> str:
    """Text that every renderer of the host shows as it is.

    What is shown holds file names, layer names and metadata, which anybody may have written. One renderer takes it
    for HTML and cleans nothing, the other for Markdown, which may hold HTML; escaped for one, it would look wrong in
    the other. So brackets become look-alikes, and what acts without them is broken by an invisible character.
    """
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "…"
    plain = _ACTIVE.sub(rf"\g<0>{_JOINER}", _NO_TEXT.sub("", text).translate(_BRACKETS))
    return plain.replace("\n", _LINE_END)


def node_id(node: type[io.ComfyNode]) -> str:
    """The id in the prompt of the node that runs; empty where none does."""
    return str(getattr(node.hidden, "unique_id", None) or "")
