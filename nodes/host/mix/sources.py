"""The rows of a mix as sources of a merge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ....qrlora_core import AdapterFileError, QRLoRAError
from ..advice import advised
from ..apply.source import Source
from ..files.folders import adapter_path
from ..files.pairs import half_of
from ..files.sidecars import triggers_of
from ..model.host_types import Patcher
from .document import Mix, Row
from .errors import MixError, named
from .loaded import Loaded, OneMix


@dataclass(frozen=True)
class NumberedRow:
    """A row that is heard, with its file.

    Args:
        number: from 1, in the mix or in a stack.
    """

    number: int
    row: Row
    path: Path
    is_in_mix: bool

    @property
    def place(self) -> str:
        """``3`` in the mix, ``stack 3`` in a stack."""
        return _place(self.number, self.is_in_mix)


def heard_rows(mix: Mix, stack: Sequence[Row] = ()) -> list[NumberedRow]:
    """The rows that count, with their files: those of the mix, and then those of a stack.

    Raises:
        MixError: files that are not there; it names all of them.
    """
    found, missing = list[NumberedRow](), list[str]()
    own = ((number, row, True) for number, row in mix.heard())
    others = ((number, row, False) for number, row in enumerate(stack, start=1))
    for number, row, is_in_mix in chain(own, others):
        try:
            found.append(NumberedRow(number, row, adapter_path(row.file), is_in_mix))
        except AdapterFileError:
            missing.append(f"{_place(number, is_in_mix)} ({named(row.file)})")
    if missing:
        raise MixError("mixer.error_missing", rows=", ".join(missing))
    return found


def _place(number: int, is_in_mix: bool) -> str:
    return str(number) if is_in_mix else f"stack {number}"


def load_sources(rows: Sequence[NumberedRow], mix: Mix, patcher: Patcher, node_id: str, loaded: Loaded) -> list[Source]:
    """The adapters of rows, each with its scale and schedule, for a merge on this model.

    Raises:
        MixError: a row that cannot be loaded; it names all of them.
    """
    one_mix = loaded.of(patcher, node_id, list(_silent(mix, rows)))
    sources, refused = list[Source](), list[MixError]()
    for own in rows:
        try:
            sources.append(_source(own, one_mix))
        except MixError as error:
            refused.append(error)
    if len(refused) > 1:
        raise MixError("mixer.error_several", reasons="\n".join(map(str, refused)))
    if refused:
        raise refused[0]
    return sources


def _silent(mix: Mix, rows: Sequence[NumberedRow]) -> Iterator[tuple[Path, str]]:
    heard = {own.row for own in rows}
    for row in mix.rows:
        if row not in heard:
            try:
                yield adapter_path(row.file), row.blocks
            except AdapterFileError:  # a row that is off needs no file
                continue


def _source(own: NumberedRow, one_mix: OneMix) -> Source:
    row = own.row
    try:
        with advised():
            adapter = one_mix.load(own.path, row.blocks)
    except QRLoRAError as error:
        raise MixError("mixer.error_row", row=own.place, file=named(row.file), reason=error) from error
    return Source(adapter.label(own.place), adapter, row.scale, row.curve, row.clip_scale)


def trigger_words(rows: Sequence[NumberedRow]) -> str:
    """The trigger words of the files of rows, each once, with commas between."""
    told = [triggers_of(own.path) for own in rows]
    return ", ".join(dict.fromkeys(filter(None, (words.strip(" ,") for words in told))))


def half_lines(rows: Sequence[NumberedRow]) -> list[str]:
    """Of files that are one half of a pair, which the other is."""
    halves = ((own.row.file, half_of(own.row.file)) for own in rows)
    return [f"note: {file}: {half.describe()}" for file, half in halves if half is not None]


def stamps(rows: Sequence[NumberedRow]) -> str:
    """Another text where a file is another, or was written again."""
    found = ((own.row.file, own.path.stat()) for own in rows)
    return "\n".join(f"{name} {status.st_mtime_ns} {status.st_size}" for name, status in found)
