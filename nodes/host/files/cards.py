"""What all adapter files say of themselves, in short, and what lies beside those that leave something out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ....qrlora_core import AdapterFileError
from .header import could_be_in_short, could_be_told, in_short
from .remembered import Remembered, remembered_folder
from .sidecars import sidecars_of_all, told_in_short_by

_VERSION = 2  # another where other facts are read from the same files

Card = dict[str, str]


def remembered_file() -> Path:
    """``user/__qr_lora/library.json``; what lies beside the files is remembered in ``library_beside.json``."""
    return remembered_folder() / "library.json"


class Cards:
    """The cards of many files, see `in_short`; base and triggers that a file lacks come from its sidecars."""

    def __init__(self, kept: Path) -> None:
        self._cards = Remembered[Card | None](kept, _VERSION, _card, _could_be_card)
        beside = kept.with_name(f"{kept.stem}_beside{kept.suffix}")
        self._beside = Remembered[Card](beside, _VERSION, lambda path: (told_in_short_by(path), True), could_be_told)

    def of(self, files: Mapping[str, Path]) -> dict[str, Card | None]:
        """Name to card; None for a file that is no adapter or cannot be read."""
        cards = self._cards.of(files)
        lacking = [files[name] for name, card in cards.items() if card and not all(card.values())]
        sidecars = sidecars_of_all(lacking)
        told = self._beside.of({str(path): path for paths in sidecars.values() for path in paths})
        return {
            name: card and _completed(card, [told.get(str(path), {}) for path in sidecars.get(files[name], [])])
            for name, card in cards.items()
        }


def _completed(card: Card, beside: Iterable[Card]) -> Card:
    for told in beside:
        card = {name: text or told.get(name, "") for name, text in card.items()}
    return card


def _card(path: Path) -> tuple[Card | None, bool]:
    try:
        return in_short(path), True
    except AdapterFileError as error:
        # What the disk refused now it may give later; what the file says it says again.
        return None, not isinstance(error.__cause__, OSError)


def _could_be_card(told: object) -> bool:
    return told is None or could_be_in_short(told)
