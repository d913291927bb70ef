"""Pictures that lie beside an adapter file: its preview, and samples of what it draws."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ....qrlora_core import AdapterFileError
from .folders import SUFFIXES, adapter_path, is_file_beside

# Pixels alone: an SVG is a document, which can run code.
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
LARGEST = 20 * 2**20  # bytes
_MOST = 24
_PREVIEW = ".preview"


def pictures_beside(adapter: Path) -> list[Path]:
    """The preview first, ``cat.png`` or ``cat.preview.png`` beside ``cat.safetensors``; then what begins like it.

    ``cat_sample_2.png`` is a sample of ``cat.safetensors``, and of ``cat_sample.safetensors`` where there is one.
    """
    names = _listed(adapter.parent) if adapter.suffix.lower() in SUFFIXES else []
    own = adapter.stem
    others = [stem for stem in _stems(names, SUFFIXES) if stem.startswith(own) and stem != own]
    found = []
    for name in names:
        stem = Path(name).stem
        if _is_picture(name) and _belongs(stem, own) and not any(_belongs(stem, other) for other in others):
            found.append((stem not in (own, own + _PREVIEW), len(stem), name))
    paths = [adapter.with_name(name) for *_, name in sorted(found)]
    return [path for path in paths if is_file_beside(path, LARGEST)][:_MOST]


def with_preview(names: Iterable[str]) -> set[str]:
    """Those of the names of adapters that seem to have a preview. For many: a folder is read once, no file is."""
    listed: dict[str, tuple[set[str], set[str]]] = {}
    found = set()
    for name in names:
        folder, _, file = name.rpartition("/")
        if file not in listed.get(folder, (set(), set()))[0]:  # two folders of the host may have subfolders of one name
            try:
                files = _listed(adapter_path(name).parent)
            except AdapterFileError:  # removed since it was listed
                continue
            listed[folder] = set(files), _stems(files, TYPES)
        stem = Path(file).stem
        if not listed[folder][1].isdisjoint((stem, stem + _PREVIEW)):
            found.add(name)
    return found


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 (the names alone, of thousands)
    except OSError:
        return []


def _stems(names: Iterable[str], suffixes: Iterable[str]) -> set[str]:
    wanted = set(suffixes)
    return {stem for stem, suffix in map(os.path.splitext, names) if suffix.lower() in wanted}


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in TYPES


def _belongs(stem: str, adapter: str) -> bool:
    """Whether a picture's name is an adapter's, or goes on after it with something that ends a word."""
    rest = stem.removeprefix(adapter)
    return stem.startswith(adapter) and not rest[:1].isalnum()
