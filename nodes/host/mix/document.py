"""A mix as JSON: what the input ``mix`` of `QRLoRA_Mixer` holds, for people, scripts and version control.

``{"version": 1, "rows": [{"file": "loras/cat.safetensors", "scale": 0.8}]}``

Only these three names are needed. A row also has

- ``on``: false switches it off; its file need not be there.
- ``solo``: where a row has it, those without are silent.
- ``clip_scale``: its scale in the text encoder, in place of ``scale``.
- ``blocks``: rules as in `QRLoRA_Blocks`.
- ``schedule``: a curve of `QRLoRA_Schedule` by name, or its points.
- ``size``, ``sha256``: of the file, to know it under another name.

A mix also has ``on``; false silences all rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ....qrlora_core import Schedule, ScheduleError, TargetError, make_curve, parse_points, parse_rules
from ....qrlora_core.functional.scale_blocks import Rule
from ..files.hashes import is_sha256
from .errors import MixError, named, shown

VERSION = 1
MOST_ROWS = 64
LARGEST_SCALE = 100.0  # as in the stock loaders
_LONGEST_MIX, _LONGEST_TEXT = 1_000_000, 4000  # characters
_LARGEST_FILE = 2**53  # bytes; what JSON's numbers hold


@dataclass(frozen=True)
class Row:
    """One adapter file of a mix.

    Args:
        file: name as the Load node lists it. on: whether it is heard.
        solo: whether rows without it are silent.
        scale: in the diffusion model. clip_scale: in the text encoder; None for the same.
        blocks: rules of `scale_blocks`. schedule: name of a curve, or points.
        size: bytes of the file; 0 unknown. sha256: of the whole file, hexadecimal; empty unknown.
    """

    file: str
    on: bool = True
    solo: bool = False
    scale: float = 1.0
    clip_scale: float | None = None
    blocks: str = ""
    schedule: str = ""
    size: int = 0
    sha256: str = ""

    @property
    def rules(self) -> list[Rule]:
        """Its block rules.

        Raises:
            TargetError: they do not read as such.
        """
        return parse_rules(self.blocks)

    @property
    def curve(self) -> Schedule | None:
        """Its schedule; None where it has none.

        Raises:
            ScheduleError: no such curve, or points that do not read as such.
        """
        if not self.schedule.strip():
            return None
        return make_curve(parse_points(self.schedule) if ":" in self.schedule else self.schedule.strip())


@dataclass(frozen=True)
class Mix:
    """Rows in their order, which are numbered from 1."""

    rows: tuple[Row, ...] = ()
    on: bool = True

    def heard(self) -> list[tuple[int, Row]]:
        """Number and row of those that count: on, and soloed where any row is."""
        has_solo = any(row.solo for row in self.rows)
        numbered = enumerate(self.rows, start=1)
        return [(number, row) for number, row in numbered if self.on and row.on and (row.solo or not has_solo)]


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Row)}
_FLAGS = ("on", "solo")
_NUMBERS = ("scale", "clip_scale")
_TEXTS = ("blocks", "schedule")


def parse_mix(text: str) -> Mix:
    """The mix that a text holds; an empty text is an empty mix.

    Raises:
        MixError: with the row and field, what was expected and what was found.
    """
    return read_mix(parse_json(text)) if text.strip() else Mix()


def parse_json(text: str) -> Any:
    """JSON of bearable length in which no name stands twice.

    Raises:
        MixError: it is none, with the place.
    """
    if len(text) > _LONGEST_MIX:
        raise MixError("mixer.error_long", most=_LONGEST_MIX, found=len(text))
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise MixError("mixer.error_json", line=error.lineno, column=error.colno, reason=error.msg) from error
    except (RecursionError, ValueError) as error:  # of numbers with thousands of digits, too
        raise MixError("mixer.error_json", line=1, column=1, reason="too deep, or a number too long") from error


def read_mix(told: Any) -> Mix:
    """The mix that parsed JSON holds.

    Raises:
        MixError: see `parse_mix`.
    """
    if not isinstance(told, dict):
        raise MixError("mixer.error_object", place="", found=shown(told))
    _require_known(told, ("version", "on", "rows"), "mixer.error_top")
    version, rows, on = told.get("version"), told.get("rows"), told.get("on", True)
    if type(version) is not int or version != VERSION:
        raise MixError("mixer.error_version", expected=VERSION, found=shown(version))
    if not isinstance(on, bool):
        raise MixError("mixer.error_flag", place="", field="on", found=shown(on))
    if not isinstance(rows, list) or len(rows) > MOST_ROWS:
        found = len(rows) if isinstance(rows, list) else shown(rows)
        raise MixError("mixer.error_rows", most=MOST_ROWS, found=found)
    return Mix(tuple(_read_row(number, row) for number, row in enumerate(rows, start=1)), on)


def as_json(mix: Mix) -> dict[str, Any]:
    """What `read_mix` reads; what equals its default is left out."""
    return {"version": VERSION, **({} if mix.on else {"on": False}), "rows": [_row_as_json(row) for row in mix.rows]}


def _row_as_json(row: Row) -> dict[str, Any]:
    told = {name: getattr(row, name) for name in _DEFAULTS}
    return {name: value for name, value in told.items() if value != _DEFAULTS[name]}


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise MixError("mixer.error_twice", field=shown(name))
        found[name] = value
    return found


def _require_known(told: Iterable[str], known: Sequence[str], key: str, **values: object) -> None:
    for name in told:
        if name not in known:
            raise MixError(key, field=shown(name), known=", ".join(known), **values)


def _read_row(number: int, told: Any) -> Row:
    if not isinstance(told, dict):
        raise MixError("mixer.error_object", place=f", row {number}", found=shown(told))
    _require_known(told, tuple(_DEFAULTS), "mixer.error_field", row=number)
    given: dict[str, Any] = {**_DEFAULTS, "file": "", **told}
    file = given["file"]
    if not isinstance(file, str) or not 0 < len(file) <= _LONGEST_TEXT:
        raise MixError("mixer.error_file", row=number, found=shown(file))
    for name in _FLAGS:
        if not isinstance(given[name], bool):
            raise MixError("mixer.error_flag", place=f", row {number}", field=name, found=shown(given[name]))
    scales = {name: _scale(number, name, given[name]) for name in _NUMBERS}
    for name in _TEXTS:
        _require_text(number, name, given[name])
    content: dict[str, Any] = {"size": _size(number, given["size"]), "sha256": _sha256(number, given["sha256"])}
    row = Row(**(given | scales | content))
    _require_readable(number, row)
    return row


def is_number(found: Any) -> bool:
    """Whether JSON holds a number here that a float can be: no flag, no infinity, no digits without end."""
    is_of_type = isinstance(found, (int, float)) and not isinstance(found, bool)
    return is_of_type and abs(found) <= sys.float_info.max  # NaN is on neither side


def _scale(number: int, field: str, found: Any) -> float | None:
    if found is None and field == "clip_scale":
        return None
    if not is_number(found) or abs(found) > LARGEST_SCALE:
        limits = {"least": f"{-LARGEST_SCALE:g}", "most": f"{LARGEST_SCALE:g}"}
        raise MixError("mixer.error_number", row=number, field=field, found=shown(found), **limits)
    return float(found)


def _require_text(number: int, field: str, found: Any) -> None:
    if not isinstance(found, str) or len(found) > _LONGEST_TEXT:
        raise MixError("mixer.error_text", row=number, field=field, most=_LONGEST_TEXT, found=shown(found))


def _size(number: int, found: Any) -> int:
    if type(found) is not int or not 0 <= found <= _LARGEST_FILE:
        raise MixError("mixer.error_size", row=number, found=shown(found))
    return found


def _sha256(number: int, found: Any) -> str:
    lower = found.lower() if isinstance(found, str) else found
    if lower != "" and not is_sha256(lower):
        raise MixError("mixer.error_sha256", row=number, found=shown(found))
    return str(lower)


def _require_readable(number: int, row: Row) -> None:
    try:
        row.rules, row.curve  # noqa: B018 (they raise)
    except (TargetError, ScheduleError) as error:
        raise MixError("mixer.error_row", row=number, file=named(row.file), reason=error) from error
