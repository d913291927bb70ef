"""What other programs write beside an adapter file: trigger words, base model, notes, the strength that suits it.

What the file's own header says counts first; these files fill what it leaves out. Each is one JSON object, here as
the sources of the programs have it, in the order in which they are asked: what a person wrote before what was fetched.

``<stem>.json``, AUTOMATIC1111's web UI and Forge, by hand in its editor of a LoRA: ``activation text``, ``sd version``
(SD1, SD2, SDXL, SD3, Unknown), ``preferred weight`` (0 where none is set), ``notes`` and ``description``, both plain.

``<stem>.metadata.json``, ComfyUI-Lora-Manager: ``notes`` and, as JSON in a string, ``usage_tips`` (``strength``,
``strength_min``, ``strength_max``) by hand; ``base_model`` (Unknown where it is), ``trainedWords``, HTML in
``modelDescription``, and in ``civitai`` what the site answered. Its ``preview_url`` and ``file_path`` are paths of some
machine.

``<file>.rgthree-info.json``, rgthree-comfy, with the suffix of the adapter before it: ``userNote``, ``strengthMin``,
``strengthMax`` by hand; ``baseModel``, ``description``, and ``trainedWords``: objects with ``word``, of which those
marked neither ``user`` nor ``civitai`` are tags of the training's captions; ``triggerWords`` in older ones.

``<stem>.civitai.info``, Civitai Helper and others: the site's answer about a version: ``trainedWords``, ``baseModel``,
``description`` (HTML); an empty object where the site does not know the file.

A path or an address within is never followed: pictures are those that `pictures_beside` lists, which all of these
programs put there under the adapter's own stem.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ....qrlora_core import UNREADABLE
from .folders import is_file_beside
from .header import LONGEST, LONGEST_PROSE, cut, in_short

_LARGEST = 4 * 2**20  # bytes of one file
_MOST_WORDS = 100
_MOST_STRENGTH = 10.0  # as the nodes' own scales
_LONGEST_NUMBER = 32
_LONGEST_HTML = 20 * LONGEST_PROSE
_TAG = re.compile(r"<[^<>]*>")
_NO_BASE = {"unknown", "other", "none"}

_Object = Mapping[str, Any]
# `triggers`, `base`, `notes`, `strength` and `strength_range`; what is empty or None is not told.
Told = dict[str, Any]
NOTHING: Told = {"triggers": "", "base": "", "notes": "", "strength": None, "strength_range": []}


def told_by(sidecar: Path) -> Told:
    """What one of these files says; `NOTHING` of whatever is gone, too large, elsewhere, or no JSON object."""
    ending = next((ending for ending in _SAID if sidecar.name.endswith(ending)), None)
    if ending is None or not is_file_beside(sidecar, _LARGEST):
        return NOTHING
    try:
        with sidecar.open("rb") as file:
            text = file.read(_LARGEST)
    except OSError:
        return NOTHING
    return _SAID[ending](_object_in(text))


def told_in_short_by(sidecar: Path) -> dict[str, str]:
    """``base`` and ``triggers`` of `told_by`."""
    told = told_by(sidecar)
    return {name: told[name] for name in ("base", "triggers")}


def with_sidecars(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about an adapter file, with what lies beside it where they say nothing.

    ``beside`` has the name of the file that told it, for each that was told by one.
    """
    told, beside = {**NOTHING, **facts}, dict[str, str]()
    for sidecar in sidecars_of_all([path]).get(path, []):
        for name, value in told_by(sidecar).items():
            if value and not told[name]:
                told[name], beside[name] = value, sidecar.name
    return {**told, "beside": beside}


def triggers_of(path: Path) -> str:
    """The trigger words of an adapter file, for a prompt: its own, or those told beside it; empty where none are.

    Raises:
        AdapterFileError: it cannot be read, or is no adapter.
    """
    triggers: str = (in_short(path) or {}).get("triggers", "") or with_sidecars(path, {})["triggers"]
    return UNREADABLE.sub("", triggers)


def sidecars_of_all(adapters: Iterable[Path]) -> dict[Path, list[Path]]:
    """Adapter file to those that lie beside it, in the order in which they are asked. No file is read."""
    listed: dict[Path, set[str]] = {}
    found: dict[Path, list[Path]] = {}
    for adapter in adapters:
        folder = adapter.parent
        if folder not in listed:
            listed[folder] = _listed(folder)
        if names := [name for name in _names(adapter.name) if name in listed[folder]]:
            found[adapter] = [folder / name for name in names]
    return found


def _names(file: str) -> list[str]:
    stem = os.path.splitext(file)[0]  # noqa: PTH122 (of thousands)
    return [f"{file if ending == _RGTHREE else stem}{ending}" for ending in _ORDER]


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 (the names alone, of thousands)
    except OSError:
        return set()


# Each format


def _web_ui(told: _Object) -> Told:
    return {
        "triggers": _words(told.get("activation text")), "base": _base(told.get("sd version")),
        "notes": _plain(told.get("notes")) or _plain(told.get("description")),
        "strength": _strength(told.get("preferred weight")), "strength_range": [],
    }  # fmt: skip


def _lora_manager(told: _Object) -> Told:
    site, tips = _object(told.get("civitai")), _object_in(told.get("usage_tips"))
    return {
        "triggers": _words(site.get("trainedWords")) or _words(told.get("trainedWords")),
        "base": _base(told.get("base_model")) or _base(site.get("baseModel")),
        "notes": _plain(told.get("notes"))
        or _of_html(told.get("modelDescription"))
        or _of_html(site.get("description")),
        "strength": _strength(tips.get("strength")),
        "strength_range": _range(tips.get("strength_min"), tips.get("strength_max")),
    }  # fmt: skip


def _rgthree(told: _Object) -> Told:
    words = [_object(word) for word in _list(told.get("trainedWords"))]
    own = [word.get("word") for word in words if word.get("user") or word.get("civitai")]
    return {
        "triggers": _words(own or told.get("triggerWords")), "base": _base(told.get("baseModel")),
        "notes": _plain(told.get("userNote")) or _of_html(told.get("description")),
        "strength": None, "strength_range": _range(told.get("strengthMin"), told.get("strengthMax")),
    }  # fmt: skip


def _civitai(told: _Object) -> Told:
    return {
        "triggers": _words(told.get("trainedWords")), "base": _base(told.get("baseModel")),
        "notes": _of_html(told.get("description")), "strength": None, "strength_range": [],
    }  # fmt: skip


_RGTHREE = ".rgthree-info.json"
# What the names end in; an ending that ends in another stands before it.
_SAID: dict[str, Callable[[_Object], Told]] = {
    ".metadata.json": _lora_manager, _RGTHREE: _rgthree, ".civitai.info": _civitai, ".json": _web_ui,
}  # fmt: skip
_ORDER = (".json", ".metadata.json", _RGTHREE, ".civitai.info")


# Values, which may be anything that JSON can say


def _object_in(text: object) -> _Object:
    if not isinstance(text, (str, bytes)):
        return {}
    try:
        return _object(json.loads(text))
    except (ValueError, RecursionError):
        return {}


def _object(told: object) -> _Object:
    return told if isinstance(told, dict) else {}


def _list(told: object) -> list[object]:
    return told[:_MOST_WORDS] if isinstance(told, list) else []


def _plain(told: object, longest: int = LONGEST_PROSE) -> str:
    """On one line, without what cannot be shown: whatever comes from here may end in a prompt."""
    return cut(UNREADABLE.sub(" ", told[: longest + 1]), longest) if isinstance(told, str) else ""


def _of_html(told: object) -> str:
    """The text alone; it is shown as text."""
    return _plain(html.unescape(_TAG.sub(" ", told[:_LONGEST_HTML]))) if isinstance(told, str) else ""


def _words(told: object) -> str:
    """A list of words or of whole prompts, or one text; each once, parted by commas."""
    words = [told] if isinstance(told, str) else _list(told)
    plain = [_plain(word).strip(" ,") for word in words]
    return cut(", ".join(dict.fromkeys(filter(None, plain))), LONGEST_PROSE)


def _base(told: object) -> str:
    base = _plain(told, LONGEST)
    return "" if base.lower() in _NO_BASE else base


def _strength(told: object) -> float | None:
    return _number(told) or None


def _range(low: object, high: object) -> list[float]:
    first, last = _number(low), _number(high)
    return [] if first is None or last is None or first > last else [first, last]


def _number(told: object) -> float | None:
    """A finite number of bearable size, which some of these programs write as text."""
    if isinstance(told, bool) or not isinstance(told, (int, float, str)):
        return None
    try:
        number = float(told[:_LONGEST_NUMBER] if isinstance(told, str) else told)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= _MOST_STRENGTH else None
