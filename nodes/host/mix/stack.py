"""``LORA_STACK``: how other packs hand on LoRA files between nodes.

A list of ``(name, strength_model, strength_clip)``, names as the host lists them below ``models/loras``: so Efficiency
Nodes, Easy-Use, Comfyroll and Lora-Manager make and take it. Some have ``"None"`` for a row without a file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

from ....qrlora_core import QRLoRAError
from .document import MOST_ROWS, Row
from .errors import shown

StackEntry = tuple[str, float, float]
_FOLDER = "loras/"
_NO_FILE = ("", "None")


def rows_of_stack(stack: Any) -> list[Row]:
    """The entries of a stack as rows, without those that have no file.

    Raises:
        QRLoRAError: no list of name and two numbers; names the entry.
    """
    if stack is None:
        return []
    if not isinstance(stack, (list, tuple)):
        raise QRLoRAError(f"lora_stack: expected a list of (name, strength, strength), found {shown(stack)}.")
    rows = [_row(number, entry) for number, entry in enumerate(stack, start=1)]
    found = [row for row in rows if row is not None]
    if len(found) > MOST_ROWS:
        raise QRLoRAError(f"lora_stack: expected at most {MOST_ROWS} entries, found {len(found)}.")
    return found


def as_stack(rows: Iterable[Row]) -> tuple[list[StackEntry], list[str]]:
    """Rows as a stack, and the files that no stack can name: they lie in other folders than the host's for LoRAs."""
    stack, others = list[StackEntry](), list[str]()
    for row in rows:
        if row.file.startswith(_FOLDER):
            name = row.file.removeprefix(_FOLDER).replace("/", os.sep)
            stack.append((name, row.scale, row.scale if row.clip_scale is None else row.clip_scale))
        else:
            others.append(row.file)
    return stack, others


def _row(number: int, entry: Any) -> Row | None:
    if not isinstance(entry, (list, tuple)) or len(entry) < 3:  # some packs add fields of their own
        raise QRLoRAError(f"lora_stack, entry {number}: expected (name, strength, strength), found {shown(entry)}.")
    name, *strengths = entry[:3]
    if name is None or name in _NO_FILE:
        return None
    if not isinstance(name, str):
        raise QRLoRAError(f"lora_stack, entry {number}: expected the name of a LoRA file, found {shown(name)}.")
    model, clip = (_strength(number, strength) for strength in strengths)
    return Row(_FOLDER + name.replace("\\", "/"), scale=model, clip_scale=clip)


def _strength(number: int, found: Any) -> float:
    try:
        strength = float(found)
    except (TypeError, ValueError, OverflowError):
        strength = math.nan
    if not math.isfinite(strength):
        raise QRLoRAError(f"lora_stack, entry {number}: expected a finite strength, found {shown(found)}.")
    return strength


def describe_rest(rows: Sequence[Row], others: Sequence[str]) -> list[str]:
    """What a stack cannot carry, as lines of a report."""
    lines = []
    if others:
        lines.append(f"note: lora_stack: only files in models/loras can be in it; not in it: {', '.join(others)}")
    if any(row.blocks.strip() or row.schedule.strip() for row in rows):
        lines.append("note: lora_stack: has strengths alone, without the block rules and schedules of rows")
    return lines
