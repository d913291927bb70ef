"""safetensors files: read lazily and checked, written whole or not at all.

Headers are read and files are written by the library. Tensors are not: it maps them, and where a file is cut short
while it is open, as by a copy over it, the whole process dies. So they are read here, as fast as the library's copied
ones, and what lacks is an error (`benchmarks/libraries.py`).
"""

from __future__ import annotations

import contextlib
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from io import RawIOBase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import AdapterError, AdapterFileError
from .hashes import fill_in, with_room
from .memory import Memory
from .tensor_reader import Place, TensorReader

SUFFIX = ".safetensors"
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}
# Of adapters in use, even with a whole dataset's tags in the metadata, headers stay far below.
_LONGEST_HEADER = 32 * 2**20
_MOST_TENSORS = 2**15
_MOST_SIDES = 8
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class SafetensorsFile:
    """An open file. Its tensors are copies in memory: a file that is overwritten later changes none of them."""

    def __init__(
        self,
        source: Path,
        file: Any,
        raw: RawIOBase,
        start: int,
        memory: Memory | None,
        opened: contextlib.ExitStack,
    ) -> None:
        self._source, self._file, self._raw, self._start = source, file, raw, start
        self._memory, self._opened = memory, opened
        self._expected: Iterable[str] = ()

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self._file.keys())

    def metadata(self) -> dict[str, str]:
        """Text by name; empty where the file has none."""
        return dict(self._file.metadata() or {})

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header alone.

        Raises:
            AdapterFileError: it cannot be read.
        """
        with _as_damage(self._source):
            return tuple(self._file.get_slice(key).get_shape())

    def get_tensor(self, key: str) -> Tensor:
        """A tensor of the file.

        Raises:
            AdapterError: this tensor has a form that is not read; others may be fine.
            AdapterFileError: the file cannot be read.
        """
        place = self._places.get(key)
        shape = place[1] if place else self.shape(key)
        if len(shape) > _MOST_SIDES:
            raise AdapterError(f"a tensor has {len(shape)} dimensions: {shown(key)}.")
        if place is None:
            return self._mapped(key)
        with _as_damage(self._source):
            return self._reader.read(key)

    def expect(self, keys: Iterable[str]) -> None:
        """What will be read: the first that is asked for has the others read in the background."""
        self._expected = keys

    def stand_in(self, key: str) -> Tensor:
        """A tensor of this one's shape and without its content, on the device ``meta``; empty where there is none."""
        try:
            return torch.empty(self.shape(key), device="meta")
        except (AdapterFileError, RuntimeError, OverflowError, TypeError):
            return torch.empty(0, device="meta")

    def _mapped(self, key: str) -> Tensor:
        """By the library, which knows more dtypes."""
        try:
            mapped: Tensor = self._file.get_tensor(key)
            return mapped.clone()
        except (SafetensorError, ValueError, RuntimeError, TypeError, KeyError, OverflowError) as error:
            raise AdapterError(f"a tensor cannot be read ({shown(str(error))}): {shown(key)}.") from error

    @cached_property
    def _reader(self) -> TensorReader:
        """Made for who reads a tensor: most files are only looked at."""
        reader = TensorReader(self._raw, self._places, self._memory, self._expected)
        self._opened.callback(reader.close)
        return reader

    @cached_property
    def _places(self) -> dict[str, Place]:
        with _as_damage(self._source):
            return dict(_places(self._file, self._start))


def _places(file: Any, start: int) -> Iterator[tuple[str, Place]]:
    """(name, (first byte, shape, dtype)): tensors lie one after the other, without a gap.

    An older safetensors does not tell their order, nor this the size of some dtypes: what follows is left out.
    """
    for key in getattr(file, "offset_keys", list)():
        part = file.get_slice(key)
        shape, dtype = part.get_shape(), _DTYPES.get(part.get_dtype())
        if dtype is None:
            return
        yield key, (start, shape, dtype)
        start += math.prod(shape) * dtype.itemsize


@contextlib.contextmanager
def reading(source: Path, memory: Memory | None = None) -> Iterator[SafetensorsFile]:
    """The open file.

    Args:
        memory: where its tensors are to lie; by default in a piece of their own.

    Raises:
        AdapterFileError: no such file, a pickle, or a damaged file.
    """
    with contextlib.ExitStack() as opened:
        with _as_damage(source):
            raw = _open(source)
            opened.enter_context(raw)
            length = _checked_length(source, raw)
            file = opened.enter_context(safe_open(source, framework="pt"))
            _refuse_many(source, len(file.keys()))
            _refuse_duplicates(raw, length, len(file.keys()))
            whole = SafetensorsFile(source, file, raw, 8 + length, memory, opened)
        yield whole


@contextlib.contextmanager
def _as_damage(source: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, KeyError, OverflowError) as error:
        raise AdapterFileError(
            f"{source.name}: not a readable safetensors file ({shown(str(error))}). It is damaged, cut short, or of "
            "another kind; download or train it again."
        ) from error


def _open(source: Path) -> RawIOBase:
    if not source.is_file():
        raise AdapterFileError(f"{source}: no such file. It was moved, renamed or deleted; choose another.")
    if source.suffix.lower() in _PICKLE_SUFFIXES:
        raise AdapterFileError(_explain_pickle(source))
    return source.open("rb", buffering=0)


def _explain_pickle(source: Path) -> str:
    return (
        f"{source.name}: this is a pickle file, which can run code when opened, so it is never opened here. "
        "Convert it to safetensors with the tool that made it."
    )


def _checked_length(source: Path, raw: RawIOBase) -> int:
    """The length of the header, which the file must have room for."""
    start = raw.read(9) or b""
    # A safetensors header of 640 bytes starts like a pickle too; its ninth byte tells them apart.
    if start.startswith(_PICKLE_MAGIC) and start[8:] != b"{":
        raise AdapterFileError(_explain_pickle(source))
    length = int.from_bytes(start[:8], "little")
    if length > source.stat().st_size - 8:
        raise ValueError(f"its header says that it is {length} bytes long")
    if length > _LONGEST_HEADER:
        raise AdapterFileError(
            f"{source.name}: its header, which holds the names of its tensors and its metadata, is "
            f"{length / 2**20:.1f} MB long; expected at most {_LONGEST_HEADER // 2**20} MB. That is no damage: save "
            "the file again without the metadata that a trainer put there, such as the captions of a dataset."
        )
    return length


def _refuse_many(source: Path, count: int) -> None:
    if count > _MOST_TENSORS:
        raise AdapterFileError(
            f"{source.name}: it holds {count} tensors; expected at most {_MOST_TENSORS}. It is no adapter, or several "
            "in one file; choose another."
        )


def _refuse_duplicates(raw: RawIOBase, length: int, count: int) -> None:
    """safetensors takes the last of two tensors of one name; each has one field of this name in the header."""
    raw.seek(8)
    found = (raw.read(length) or b"").count(b'"data_offsets"')
    if found != count:
        raise ValueError(f"its header describes {found} tensors under {count} names")


def shown(text: str) -> str:
    """Text from a file, as a message may show it: not long, and without characters that change the rest."""
    short = text if len(text) <= 200 else f"{text[:150]} ... {text[-40:]}"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in short)


def write(target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, hashed: bool = False) -> None:
    """Write to a temporary name first, then rename, so that no half file is ever left. Folders are made.

    Args:
        hashed: whether it is to hold its own digests, see `files.hashes`.

    Raises:
        AdapterFileError: another suffix, or the file cannot be written.
    """
    if target.suffix != SUFFIX:
        raise AdapterFileError(f"{target.name}: an adapter file ends in {SUFFIX}.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_sibling(target) as temporary:
            temporary.touch(exist_ok=False)
            usual_mode = temporary.stat().st_mode
            told = {"format": "pt", **metadata}
            save_file(dict(tensors), temporary, metadata=with_room(told) if hashed else told)
            if hashed:
                fill_in(temporary)
            temporary.chmod(usual_mode)  # safetensors leaves the file readable to its owner alone
            _flush(temporary)
            temporary.replace(target)
    except (OSError, SafetensorError) as error:
        raise AdapterFileError(
            f"{target}: cannot be written ({error}). Free some space or choose another folder."
        ) from error


@contextlib.contextmanager
def _temporary_sibling(target: Path) -> Iterator[Path]:
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the content on the disk before the name is: a power cut must not leave a renamed, empty file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def plain(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU: safetensors refuses tensors that share memory, as layers with one basis do."""
    return tensor.detach().to("cpu", copy=True).contiguous()
