"""Text that people type and that files hold."""

from __future__ import annotations

import re

# Characters that nobody can read: control characters, those that turn the direction of text or end lines unseen, and
# halves of characters, which no message can carry.
UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def listed(text: str) -> list[str]:
    """The parts of a list with commas or line ends, without those that are empty."""
    return [part.strip() for part in re.split(r"[,\n]", text) if part.strip()]
