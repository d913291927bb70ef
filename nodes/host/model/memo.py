"""What is worked out once for an adapter on a model, or beside another adapter, for as long as both live."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

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


def remembered_of_all(adapters: Sequence[QRLoRA], owner: object, note: Note[Made], make: Callable[[], Made]) -> Made:
    """What was worked out last for several adapters, in this order, on one model; gone when one of them is.

    What is made must not hold an adapter itself, only of what is in it.
    """
    notes: dict[Note[Any], Any] = _memo(adapters[0]).setdefault(owner, {})
    known, made = notes.get(note, ((), None))
    if len(known) != len(adapters) or any(one() is not adapter for one, adapter in zip(known, adapters, strict=True)):
        made = make()
        notes[note] = tuple(ref(adapter, lambda _: notes.pop(note, None)) for adapter in adapters), made
    return made  # type: ignore[no-any-return]


def remember(adapter: QRLoRA, owner: object, note: Note[Made], made: Made) -> None:
    """Keep something made elsewhere, in place of what was kept before."""
    _memo(adapter).setdefault(owner, {})[note] = made


def recalled(adapter: QRLoRA, owner: object, note: Note[Made]) -> Made | None:
    """The same, or None where it was never worked out."""
    return _memo(adapter).get(owner, {}).get(note)


def _memo(adapter: QRLoRA) -> WeakKeyDictionary[object, dict[Note[Any], Any]]:
    """Kept with the adapter itself, as a cached property is: what is remembered refers back to the adapter, so that a
    table elsewhere would keep both forever."""
    memo: WeakKeyDictionary[object, dict[Note[Any], Any]] = vars(adapter).setdefault(_ATTRIBUTE, WeakKeyDictionary())
    return memo
