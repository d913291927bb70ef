"""How the keys of a kind end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable


def endings(names: Iterable[str], suffix: str = "") -> Callable[[str], tuple[str, str] | None]:
    """A kind's `part`: of ``{layer}.{name}{suffix}``, with ``name`` for the part."""
    pattern = re.compile(rf"^(?P<layer>.+)\.(?P<part>{'|'.join(names)}){re.escape(suffix)}$")

    def part(key: str) -> tuple[str, str] | None:
        match = pattern.match(key)
        return (match["layer"], match["part"]) if match else None

    return part
