"""What an adapter file says of itself, from its header alone. A file may say anything: whatever it says is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ....qrlora_core import FORMATS, AdapterFileError, Reason, json_object
from ....qrlora_core.files.formats import Contents, Format, format_of, read_contents
from ....qrlora_core.files.safetensors_io import SafetensorsFile, reading
from ....qrlora_core.metadata import METADATA_PREFIX
from .stock_loader import advised_of

_BASE = (f"{METADATA_PREFIX}base_model", "modelspec.architecture", "ss_base_model_version", "ss_sd_model_name")
_TRIGGERS = (f"{METADATA_PREFIX}triggers", "modelspec.trigger_phrase")
_ABOUT = ("title", "author", "license", "date", "description", "usage_hint")
# Settings first, in the order in which one reads them; the rest of what our own files tell follows.
_SETTINGS = ("rank", "alpha", "variant", "steps_done", "images", "learning_rate", "optimizer", "schedule")
_KOHYA = {
    "ss_network_dim": "rank", "ss_network_alpha": "alpha", "ss_steps": "steps_done", "ss_num_train_images": "images",
    "ss_learning_rate": "learning_rate", "ss_unet_lr": "unet_learning_rate", "ss_optimizer": "optimizer",
    "ss_lr_scheduler": "schedule", "ss_num_epochs": "epochs", "ss_resolution": "resolution",
    "ss_sd_model_name": "trained_on",
}  # fmt: skip
_LONGEST_NAME, LONGEST, LONGEST_PROSE = 60, 200, 1000
_MOST_SETTINGS, _MOST_TAGS, _MOST_KINDS = 60, 12, 3
# What one looks for among many files: where metadata have it, and how much of it is told.
_IN_SHORT = {"base": (_BASE, LONGEST), "triggers": (_TRIGGERS, LONGEST_PROSE)}


def cut(told: object, longest: int = LONGEST) -> str:
    """What a file says, on one line and of bearable length."""
    text = str(told)
    return " ".join(text[:longest].split()) + ("…" if len(text) > longest else "")


def facts_of(path: Path) -> dict[str, Any]:
    """The facts about a file, ready for JSON.

    ``tags`` are what its pictures were captioned with most often, as kohya's trainer records it: hints, no triggers.

    Raises:
        AdapterFileError: it cannot be read, or is no adapter.
    """
    with advised_of(path), reading(path) as file:
        keys, metadata = file.keys(), file.metadata()
        own = _format(path, keys)
        ranks = _ranks(file, keys, own)
        if not ranks:
            read_contents(Contents(path, keys, file.get_tensor, file.stand_in, metadata))  # which says what is wrong
    ranked = [rank for rank in ranks.values() if rank]
    return {
        "file": path.name, "bytes": path.stat().st_size, "kind": own.name, "layers": len(ranks),
        "kinds": [cut(kind, _LONGEST_NAME) for kind in own.kinds(keys, metadata)][:_MOST_KINDS],
        "ranks": [min(ranked), max(ranked)] if ranked else [], **_told_in_short(metadata), "tags": _tags(metadata),
        "about": _about(metadata), "training": _training(metadata),
    }  # fmt: skip


def in_short(path: Path) -> dict[str, str] | None:
    """``kind``, ``base`` and ``triggers`` of `facts_of`, in a part of its time; None where no layer is in the file.

    Raises:
        AdapterFileError: it cannot be read, or is no adapter.
    """
    with reading(path) as file:
        keys, metadata = file.keys(), file.metadata()
        own = _format(path, keys)
        if not any(map(own.header, keys)):
            return None
    return {"kind": own.name, **_told_in_short(metadata)}


def could_be_in_short(told: object) -> bool:
    """Whether `in_short` could have said this: for what lay in a file, where anybody may have changed it."""
    if not isinstance(told, dict) or told.get("kind") not in [own.name for own in FORMATS]:
        return False
    return could_be_told({name: text for name, text in told.items() if name != "kind"})


def could_be_told(told: object) -> bool:
    """Whether this is what some file could say for ``base`` and ``triggers``, and nothing else."""
    if not isinstance(told, dict) or told.keys() != _IN_SHORT.keys():
        return False
    return all(
        isinstance(told[name], str) and len(told[name]) <= longest + 1 and cut(told[name], longest) == told[name]
        for name, (_, longest) in _IN_SHORT.items()
    )


def _format(path: Path, keys: Sequence[str]) -> Format:
    own = format_of(keys)
    if refusal := own.refusal(path, keys):
        raise AdapterFileError(refusal, Reason.OTHER_KIND)
    return own


def _told_in_short(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: _first_told(metadata, keys, longest) for name, (keys, longest) in _IN_SHORT.items()}


def _ranks(file: SafetensorsFile, keys: Iterable[str], own: Format) -> dict[str, int]:
    """Layer to its rank, 0 of a whole difference; the terms of one layer count together, as in the loaded adapter."""
    ranks: dict[str, int] = {}
    for key in keys:
        if found := own.header(key):
            layer, times = found
            ranks[layer] = ranks.get(layer, 0) + (times * next(iter(file.shape(key)), 0) if times else 0)
    return ranks


def _first_told(metadata: Mapping[str, str], names: Iterable[str], longest: int) -> str:
    return next((told for name in names if (told := cut(metadata.get(name, ""), longest))), "")


def _about(metadata: Mapping[str, str]) -> list[list[str]]:
    told = {name: metadata.get(f"modelspec.{name}", "") for name in _ABOUT}
    return [[name, cut(text, LONGEST_PROSE)] for name, text in told.items() if text.strip()]


def _training(metadata: Mapping[str, str]) -> list[list[str]]:
    """(name, value) of the settings, by the names of our own inputs where they have one."""
    told: dict[str, object] = {name: metadata[key] for key, name in _KOHYA.items() if key in metadata}
    told |= json_object(metadata, f"{METADATA_PREFIX}training")
    own = {name: metadata.get(METADATA_PREFIX + name) for name in ("rank", "alpha", "variant")}
    told |= {name: text for name, text in own.items() if text}
    ordered = {name: told[name] for name in (*_SETTINGS, *told) if name in told}
    plain = [(name, value) for name, value in ordered.items() if isinstance(value, (str, int, float)) and value != ""]
    return [[cut(name, _LONGEST_NAME), _written(value)] for name, value in plain[:_MOST_SETTINGS]]


def _written(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else cut(value)


def _tags(metadata: Mapping[str, str]) -> list[str]:
    """kohya's ``{folder: {tag: count}}``."""
    counts: Counter[str] = Counter()
    for folder in json_object(metadata, "ss_tag_frequency").values():
        for tag, count in folder.items() if isinstance(folder, dict) else ():
            if isinstance(count, int):
                counts[tag] += count
    return [cut(tag, _LONGEST_NAME) for tag, _ in counts.most_common(_MOST_TAGS)]
