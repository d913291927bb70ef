"""What every report of evidence has: the methods' names, tables, and what may be said of a difference."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.evidence.statistics import Interval

NAMES = {
    "qr_full": "QR-LoRA `full`",
    "qr_triu": "QR-LoRA `triu` (published)",
    "qr": "QR-LoRA `qr`",
    "lora": "LoRA, equal rank",
    "lora_half": "LoRA, equal numbers",
    "olora": "OLoRA",
    "q_random": "random Q",
    "q_bottom": "bottom Q",
    "q_mirrored": "mirrored Q, `triu`",
    "q_disjoint": "disjoint Q",
}


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as Markdown has it; a word where nothing of it was run."""
    if not rows:
        return "*Not run yet.*"
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)


def verdict(found: Sequence[Interval]) -> str:
    """The rule of the plan: a difference is one where both judges' intervals lie on one side of zero."""
    if all(one.low > 0 for one in found):
        return "better"
    return "worse" if all(one.high < 0 for one in found) else "no difference shown"
