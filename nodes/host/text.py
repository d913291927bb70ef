"""Words and lists for messages."""

from __future__ import annotations

from collections.abc import Iterable


def paths_as_text(paths: Iterable[str], limit: int = 3) -> str:
    """The first few module paths and how many more there are."""
    listed = list(paths)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
