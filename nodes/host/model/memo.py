"""What is worked out once for an adapter on a model, or beside another adapter, for as long as both live."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from ....qrlora_core import QRLoRA

Made = TypeVar("Made")
_ATTRIBUTE = "_host_memo"


@dataclass(frozen=True)
class Note(Generic[Made]):
    """What is remembered under this name, and of which type it is.

    Args:
        of: tells several of one name apart.
    """

    name: str
    of: Hashable = None


def remembered(adapter: QRLoRA, owner: object, note: Note[Made], make: Callable[[], Made]) -> Made:
    """What was worked out before for an adapter and this model (or another adapter); made at the first call."""
    notes = _memo(adapter).setdefault(owner, {})
    if note not in notes:
        notes[note] = make()
    return notes[note]  # type: ignore[no-any-return]


def recalled(adapter: QRLoRA, owner: object, note: Note[Made]) -> Made | None:
    """The same, or None where it was never worked out."""
    return _memo(adapter).get(owner, {}).get(note)


def _memo(adapter: QRLoRA) -> WeakKeyDictionary[object, dict[Note[Any], Any]]:
    """Kept with the adapter itself, as a cached property is: what is remembered refers back to the adapter, so that a
    table elsewhere would keep both forever."""
    memo: WeakKeyDictionary[object, dict[Note[Any], Any]] = vars(adapter).setdefault(_ATTRIBUTE, WeakKeyDictionary())
    return memo
