"""All file formats: a registry, in the order in which they are offered; the first is the default."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import Layer, QRLoRA
from ..errors import AdapterFileError
from ..metadata import FORMAT_VERSION, KINDS_KEY, VARIANT, VERSION_KEY
from . import compact, full, lora, lora_writing, lycoris
from .basis_store import BasisStore
from .left_out import Elsewhere, LeftOut
from .saved_metadata import KOHYAS_ALPHA, KOHYAS_RANK, OUR_ALPHA, OUR_RANK, with_truth


@dataclass(frozen=True)
class Contents:
    """An open file, and what a format may need besides it.

    Args:
        keys: of the adapter's tensors. get: gives a tensor. stand_in: gives one of its shape without content.
        bases, rebuild, rename: see `adapter_file.load_adapter`.
        left_out: what is not read of it.
    """

    source: Path
    keys: Sequence[str]
    get: Callable[[str], Tensor]
    stand_in: Callable[[str], Tensor]
    metadata: Mapping[str, str]
    bases: BasisStore | None = None
    rebuild: compact.Rebuild | None = None
    rename: lora.Rename | None = None
    left_out: LeftOut = field(default_factory=LeftOut)


@dataclass(frozen=True)
class Wanted:
    """How an adapter is to be written, see `adapter_file.save_adapter`."""

    dtype: torch.dtype | None = None
    bases: BasisStore | None = None


@dataclass(frozen=True)
class Format:
    """A way to keep an adapter in a safetensors file.

    Args:
        name: what users call it, never changed once released.
        matches: whether a file with these keys is of this format.
        header: (layer's name, how many times the tensor's first side counts for the layer's rank) of a key; once for
            each layer, or each term of it. None for its other tensors.
        read: the adapter in a file.
        write: (key, tensor) pairs of an adapter.
        refusal: why a file with these keys is not read although it is of this format, in words; else empty.
        metadata: what its files tell, from the adapter and what of its metadata is for every file.
        kinds: what its layers are called, such as ``LoKr``, as far as keys and metadata tell; empty: low-rank terms.
        hashed: whether its files hold digests of themselves, which other tools look for.
    """

    name: str
    matches: Callable[[Sequence[str]], bool]
    header: Callable[[str], tuple[str, int] | None]
    read: Callable[[Contents], QRLoRA]
    write: Callable[[QRLoRA, Wanted], Iterator[tuple[str, Tensor]]]
    metadata: Callable[[QRLoRA, Mapping[str, str]], dict[str, str]]
    refusal: Callable[[Path, Sequence[str]], str] = lambda source, keys: ""
    kinds: Callable[[Sequence[str], Mapping[str, str]], list[str]] = lambda keys, metadata: []
    hashed: bool = False


def _read_full(file: Contents) -> QRLoRA:
    return QRLoRA(full.read(file.source, file.keys, file.get, file.left_out), file.metadata)


def _read_compact(file: Contents) -> QRLoRA:
    layers = compact.read(file.source, file.keys, file.get, file.metadata, file.bases, file.rebuild, file.left_out)
    return QRLoRA(layers, file.metadata)


def _read_lora(file: Contents) -> QRLoRA:
    keys, get = file.keys, file.get
    if file.rename is not None:
        keys, get = lora.renamed(file.source, keys, get, file.stand_in, file.rename)
    return lora.read(file.source, keys, get, file.metadata, file.left_out)


def _write_compact(adapter: QRLoRA, wanted: Wanted) -> Iterator[tuple[str, Tensor]]:
    if wanted.bases is None:
        raise AdapterFileError("the format compact needs a folder for the bases (bases).")
    return compact.tensors_of(adapter, wanted.dtype or torch.float16, wanted.bases)


def _with_version(adapter: QRLoRA, metadata: Mapping[str, str]) -> dict[str, str]:
    terms = [term for layer in _matrices(adapter) for term in layer.terms]
    ranks, alphas = [float(term.rank) for term in terms], [term.alpha for term in terms]
    true = with_truth(metadata, {KOHYAS_RANK: ranks, KOHYAS_ALPHA: alphas}, "qr-lora")
    kinds = {KINDS_KEY: json.dumps(adapter.kinds)} if any(layer.changes for layer in adapter.layers.values()) else {}
    return {**true, VERSION_KEY: FORMAT_VERSION, **kinds}


def _told_kinds(_keys: Sequence[str], metadata: Mapping[str, str]) -> list[str]:
    try:
        told = json.loads(metadata.get(KINDS_KEY, "[]"))
    except (ValueError, RecursionError):
        return []
    return [kind for kind in told if isinstance(kind, str)] if isinstance(told, list) else []


def _matrices(adapter: QRLoRA) -> list[Layer]:
    return [layer for layer in adapter.layers.values() if len(layer.shape) == 2 and not layer.is_vector]


def _compact_metadata(adapter: QRLoRA, metadata: Mapping[str, str]) -> dict[str, str]:
    return {**_with_version(adapter, metadata), **compact.basis_ids(adapter)}


def _lora_metadata(adapter: QRLoRA, metadata: Mapping[str, str]) -> dict[str, str]:
    """Our name for what it was trained as would pass for a claim about this file, whose alphas are the ranks."""
    ranks = [layer.rank for layer in _matrices(adapter)]
    kept = {key: value for key, value in metadata.items() if key not in (VARIANT, VERSION_KEY)}
    return with_truth(kept, dict.fromkeys((KOHYAS_RANK, KOHYAS_ALPHA, OUR_RANK, OUR_ALPHA), ranks), "lora")


FULL = Format(
    "full",
    lambda keys: full.matches(keys) and not compact.matches(keys),
    full.header,
    _read_full,
    lambda adapter, wanted: full.tensors_of(adapter, wanted.dtype),
    _with_version,
    kinds=_told_kinds,
)
COMPACT = Format("compact", compact.matches, compact.header, _read_compact, _write_compact, _compact_metadata)
LORA = Format(
    "lora",
    lambda keys: lora.matches(keys) and not full.matches(keys) and not compact.matches(keys),
    lora.header,
    _read_lora,
    lambda adapter, wanted: lora_writing.tensors_of(adapter, wanted.dtype),
    _lora_metadata,
    lora.refusal,
    lambda keys, _metadata: lora.kinds_of(keys),
    hashed=True,
)
# Read as ordinary LoRAs are.
LYCORIS = Format(
    "lycoris",
    lambda keys: False,
    lora.header,
    _read_lora,
    lambda adapter, wanted: lycoris.tensors_of(adapter, wanted.dtype),
    _lora_metadata,
    hashed=True,
)
FORMATS: list[Format] = [FULL, COMPACT, LORA, LYCORIS]


def format_named(name: str, what: str) -> Format:
    """The format of this name.

    Raises:
        AdapterFileError: there is none; the message begins with ``what``.
    """
    for own in FORMATS:
        if own.name == name:
            return own
    raise AdapterFileError(
        f"{what}: unknown format {name!r}; expected one of {', '.join(own.name for own in FORMATS)}."
    )


def format_of(keys: Sequence[str]) -> Format:
    """The format of a file with these keys; `FULL`, which then says what is wrong, where it is none."""
    return next((own for own in FORMATS if own.matches(keys)), FULL)


def read_contents(contents: Contents, elsewhere: Elsewhere | None = None) -> QRLoRA:
    """The adapter in an open file of any format: all of its layers that can be read, and what cannot by name.

    Raises:
        AdapterFileError: nothing, or hardly anything, of it can be read.
    """
    adapter = format_of(contents.keys).read(contents)
    contents.left_out.require_rest(contents.source, adapter.layers)
    return replace(adapter, origin=replace(adapter.origin, not_loaded=contents.left_out.text(elsewhere)))
