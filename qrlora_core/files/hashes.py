"""The digests by which other tools know an ordinary LoRA, kept in its own metadata.

kohya's trainer writes ``sshs_model_hash``, SHA-256 of all that follows the header, and ``sshs_legacy_hash``, the first
digits of SHA-256 of 64 KiB at one MiB, in a file whose only metadata are those of the training (``ss_*``). The web UIs
look an ordinary LoRA up by them. ``modelspec.hash_sha256`` is the first one, as the model specification writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from io import BufferedRandom
from pathlib import Path

_MODEL, _LEGACY, _SPECIFICATION = "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"
_DIGITS = {_MODEL: 64, _LEGACY: 8, _SPECIFICATION: 66}
HASHES = tuple(_DIGITS)
_LEGACY_START, _LEGACY_LENGTH = 2**20, 2**16
_CHUNK = 2**20
_TRAINING = "ss_"
_ALIGNED = 8


def with_room(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata with a place for each digest, of its length."""
    return {**metadata, **{name: "0" * digits for name, digits in _DIGITS.items()}}


def fill_in(path: Path) -> None:
    """Write the digests of a file into the places that `with_room` left for them.

    Raises:
        OSError: it cannot be read or written.
    """
    with path.open("rb+") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        content = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            content.update(chunk)
        digest = content.hexdigest()
        found = {_MODEL: digest, _SPECIFICATION: f"0x{digest}", _LEGACY: _legacy(file, header)}
        for name, text in found.items():
            header = header.replace(_entry(name, "0" * _DIGITS[name]), _entry(name, text), 1)
        file.seek(8)
        file.write(header)


def _entry(name: str, text: str) -> bytes:
    return f'"{name}":"{text}"'.encode()


def _legacy(file: BufferedRandom, header: bytes) -> str:
    """Of the file as it were with the metadata of its training alone."""
    described = json.loads(header)
    told = {key: text for key, text in described.pop("__metadata__", {}).items() if key.startswith(_TRAINING)}
    less = json.dumps({"__metadata__": told, **described}, ensure_ascii=False, separators=(",", ":")).encode()
    less += b" " * (-len(less) % _ALIGNED)
    before = (len(less).to_bytes(8, "little") + less)[_LEGACY_START : _LEGACY_START + _LEGACY_LENGTH]
    start = max(0, _LEGACY_START - 8 - len(less))
    file.seek(8 + len(header) + start)
    return hashlib.sha256(before + file.read(_LEGACY_LENGTH - len(before))).hexdigest()[: _DIGITS[_LEGACY]]
