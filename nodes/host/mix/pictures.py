"""The prompt that a picture tells, as the host and other savers write it; what is drawn is never decoded.

PNG has it as JSON in a text chunk named ``prompt`` (``tEXt``, ``zTXt`` or ``iTXt``), and with several frames in a chunk
``comf`` at its end; WebP and JPEG as ``prompt:`` and JSON in a text of their EXIF, in most cases the name of the
camera's model. Chunks are walked by their lengths, so that nothing that a picture says of its size takes memory.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from .errors import MixError

_MOST_CHUNKS = 100_000
_LONGEST_PROMPT = 8 * 2**20  # bytes
_PNG, _JPEG, _RIFF, _WEBP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"WEBP"
_NAME = b"prompt"
_EXIF = b"Exif\0\0"
_MARKER, _START_OF_SCAN, _APP1 = 0xFF, 0xDA, 0xE1
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ASCII = 2  # type of an entry in EXIF


def is_picture(body: bytes) -> bool:
    """Whether it begins as a PNG, JPEG or WebP does."""
    return body.startswith((_PNG, _JPEG)) or _is_webp(body)


def prompt_in(body: bytes) -> Any:
    """What the first prompt in a picture says, parsed.

    Raises:
        MixError: it tells none, or none that can be read.
    """
    try:
        found = next(_prompts(body), None)
    except (struct.error, zlib.error) as error:
        raise MixError("mixer.error_picture_damaged", reason=error) from error
    if found is None:
        raise MixError("mixer.error_picture_without")
    try:
        return json.loads(_decoded(found[: _LONGEST_PROMPT + 1]).rstrip("\0"))
    except (ValueError, RecursionError) as error:
        raise MixError("mixer.error_picture_damaged", reason="its prompt is no JSON") from error


def _decoded(text: bytes) -> str:
    """Some write UTF-8 where the format has Latin-1."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _prompts(body: bytes) -> Iterator[bytes]:
    if body.startswith(_PNG):
        return _in_png(body)
    parts = _exif_in_webp(body) if _is_webp(body) else _exif_in_jpeg(body)
    return (text for part in parts for text in _in_exif(part.removeprefix(_EXIF)))


def _is_webp(body: bytes) -> bool:
    return body.startswith(_RIFF) and body[8:12] == _WEBP


def _in_png(body: bytes) -> Iterator[bytes]:
    at = len(_PNG)
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(body):
            return
        length, kind = struct.unpack_from(">I4s", body, at)
        start, at = at + 8, at + 12 + length
        if kind in _PNG_TEXTS and body.startswith(_NAME + b"\0", start):
            yield _PNG_TEXTS[kind](body[start + len(_NAME) + 1 : start + length])


def _compressed(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _LONGEST_PROMPT)


def _international(data: bytes) -> bytes:
    """After two bytes that say whether and how it is compressed, a language and a translated keyword."""
    text = data[2:].split(b"\0", 2)[-1]
    return _compressed(text) if data[:1] == b"\1" else text


# What a chunk has after the keyword.
_PNG_TEXTS: dict[bytes, Callable[[bytes], bytes]] = {
    b"tEXt": bytes,
    b"comf": bytes,
    b"zTXt": lambda data: _compressed(data[1:]),
    b"iTXt": _international,
}


def _exif_in_webp(body: bytes) -> Iterator[bytes]:
    at = 12
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(body):
            return
        kind, length = struct.unpack_from("<4sI", body, at)
        if kind == b"EXIF":
            yield body[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _exif_in_jpeg(body: bytes) -> Iterator[bytes]:
    at = 2
    for _ in range(_MOST_CHUNKS):
        begin, marker, length = struct.unpack_from(">BBH", body, at)
        if begin != _MARKER or marker == _START_OF_SCAN or length < 2:
            return
        if marker == _APP1 and body.startswith(_EXIF, at + 4):
            yield body[at + 4 : at + 2 + length]
        at += 2 + length


def _in_exif(tiff: bytes) -> Iterator[bytes]:
    """Of the texts in its first directory, what stands after ``prompt:``, which some write with a capital."""
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None:
        return
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, directory)
    for number in range(count):
        _, kind, length, place = struct.unpack_from(f"{order}HHII", tiff, directory + 2 + 12 * number)
        begin = place + len(_NAME) + 1
        if kind == _ASCII and tiff[place:begin].lower() == _NAME + b":":
            yield tiff[begin : place + length]
