"""Which step of a training does best by what the user has picked: marked and kept, never taken in place of the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..samples import NO_MARK
from .scores import Scores

BY_LIKENESS, BY_FREEDOM, BY_BOTH = "likeness", "freedom", "both"
MARKS = (NO_MARK, BY_LIKENESS, BY_FREEDOM, BY_BOTH)
NEEDS_FREEDOM = (BY_FREEDOM, BY_BOTH)


@dataclass(frozen=True)
class Best:
    """The best step so far.

    Attributes:
        by: one of `MARKS`. judge: what compared the pictures. checkpoint: its name; None where there is none.
    """

    by: str
    judge: str
    step: int
    checkpoint: str | None = None
    likeness: float | None = None
    freedom: float | None = None

    @property
    def value(self) -> float | None:
        """What the best has most of: with both, their product."""
        if self.by == BY_BOTH:
            return None if self.likeness is None or self.freedom is None else self.likeness * self.freedom
        return self.likeness if self.by == BY_LIKENESS else self.freedom


def better(found: Mapping[str, Any] | None, by: str, judge: str, step: int, scores: Scores) -> Best | None:
    """This step where it does better than the best that was found; None where not. Of equals the earlier stays."""
    if by == NO_MARK:
        return None
    new = Best(by, judge, step, likeness=scores.likeness, freedom=scores.freedom)
    before = None if found is None else Best(**found).value
    return new if new.value is not None and (before is None or new.value > before) else None


def best_of_record(
    kept: Mapping[str, Any] | None, by: str, judge: str, is_there: Callable[[str], bool]
) -> dict[str, Any] | None:
    """The best that a checkpoint tells of, where it was found in the same way; a file that is gone is named no more."""
    if kept is None or by == NO_MARK or (kept.get("by"), kept.get("judge")) != (by, judge):
        return None
    found = Best(**kept)
    there = found.checkpoint is not None and is_there(found.checkpoint)
    return asdict(found) | ({} if there else {"checkpoint": None})


def describe_best(best: Mapping[str, Any], last: int) -> str:
    """Which step it is, and how to get at it."""
    found = Best(**best)
    numbers = {"likeness": found.likeness, "freedom": found.freedom}
    told = ", ".join(f"{name} {number:.3f}" for name, number in numbers.items() if number is not None)
    start = f"best by {found.by}: step {found.step} ({told}; judge: {found.judge})"
    if found.step == last:
        return f"{start}, the last one, which is handed on"
    where = f"in checkpoint {found.checkpoint}; Load QR-LoRA loads it" if found.checkpoint else "of no checkpoint"
    return f"{start}, {where}. Handed on is the last step, {last}"
