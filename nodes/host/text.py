"""Words and lists for messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def paths_as_text(paths: Iterable[str], limit: int = 3) -> str:
    """The first few module paths and how many more there are."""
    listed = list(paths)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def ranks_as_text(ranks: Sequence[int]) -> str:
    """``rank 16``, or ``ranks 8 to 64``."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}" if ranks else "no rank"
