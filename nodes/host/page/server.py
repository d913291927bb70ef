"""The host's server, where one runs."""

from __future__ import annotations

from typing import Any

from server import PromptServer


def running_server() -> Any | None:
    """The server of this process; None where none runs."""
    return getattr(PromptServer, "instance", None)
