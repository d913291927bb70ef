"""What goes wrong on a page."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page


def faults(page: Page) -> list[str]:
    """What goes wrong in our own files from now on."""
    seen: list[str] = []
    page.on("pageerror", lambda error: seen.append(str(error)))

    def hear(message: Any) -> None:
        if message.type == "error" and "/extensions/" in message.location.get("url", ""):
            seen.append(message.text)

    page.on("console", hear)
    return seen
