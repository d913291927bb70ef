"""Ordinary LoRA files: the names that trainers give their tensors, to layers.

Only how a key ends is read here (kohya, diffusers, PEFT, ComfyUI, OneTrainer, SimpleTuner ...). What is before is the
layer's name, and a host knows which of its weights each trainer means by it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import Layer, Origin, QRLoRA
from ..changes.dora import Dora
from ..errors import AdapterError, AdapterFileError, Reason
from ..functional.lora import is_nearly_orthonormal
from ..kinds import dora
from ..kinds.difference import DIFFERENCE
from ..kinds.kind import Kind
from ..kinds.low_rank import LOW_RANK
from ..kinds.registry import KINDS, part_of
from ..kinds.replacement import REPLACEMENT
from ..metadata import METADATA_PREFIX
from .left_out import LeftOut, LostLayer
from .parts import finite, read_alpha
from .peft_settings import PeftSettings
from .safetensors_io import shown

# Embeddings that some trainers put into the file. They are loaded elsewhere; the report says so.
_EMBEDDING = "bundle_emb."
# What is multiplied out grows by so many numbers in all, or so many per byte of the file: a kernel of 3 x 3 in Tucker
# form makes at most nine of one that is stored. LoHa of rank r makes r / 2, LoKr of two products nearly as many.
_SMALL, _LARGEST_GROWTH, _SHARE_OF_OTHER_KINDS = 2**22, 4, 1 / 16
# Parts that a layer of any kind may have.
_OF_ANY = ("alpha", *dora.PARTS)
_WHOLE = (DIFFERENCE, REPLACEMENT)
# What an ordinary LoRA consists of.
_PLAIN = {LOW_RANK.name, DIFFERENCE.name}

# From a file's tensors by name to the same under names that a host knows.
Rename = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def matches(keys: Iterable[str]) -> bool:
    """True when some key is of an ordinary LoRA, or of a relative of it that is refused by name."""
    return any(part_of(key) for key in keys)


def header(key: str) -> tuple[str, int] | None:
    """See `formats.Format`."""
    found = part_of(key)
    if found is None or found[0].layer is None:
        return None
    kind, stem, part = found
    if not kind.ranked:
        return stem, 0
    return (stem, 1) if part == kind.ranked else None


def kinds_of(keys: Iterable[str]) -> list[str]:
    """What the layers are called, those of most layers first; empty where all are LoRAs."""
    groups = _group(keys, LeftOut()).values()
    served = [group for group in groups if not group.is_lost(LeftOut())]
    names = Counter(dora.name_of(group.kind.name, group.parts) for group in served)
    return _told(names)


def _told(names: Counter[str]) -> list[str]:
    return [] if names.keys() <= _PLAIN else [name for name, _ in names.most_common()]


def refusal(source: Path, keys: Iterable[str]) -> str:
    """Why a file is refused for its kind alone; empty where it is not."""
    left_out = LeftOut()
    groups = _group(keys, left_out)
    served = {stem for stem, group in groups.items() if not group.is_lost(left_out)}
    refused = left_out.refusal(served)
    return f"{source.name}: {refused[0]}" if refused and refused[1] is Reason.OTHER_KIND else ""


def read(
    source: Path,
    keys: Iterable[str],
    get: Callable[[str], Tensor],
    metadata: Mapping[str, str],
    left_out: LeftOut,
) -> QRLoRA:
    """The adapter in an ordinary LoRA file, its factors as they stand.

    Args:
        left_out: gets what cannot be read.

    Raises:
        AdapterFileError: products that no trainer makes.
    """
    settings = PeftSettings(metadata)
    room: float = max(_SMALL, _LARGEST_GROWTH * source.stat().st_size)
    layers: dict[str, Layer] = {}
    kinds, told = Counter[str](), Counter[str]()
    replaces_core = not any(key.startswith(METADATA_PREFIX) for key in metadata)  # ours say what they are
    for group in _group(keys, left_out).values():
        if group.is_lost(left_out):
            continue
        try:
            tensors = {part: get(key) for part, key in group.parts.items()}
            name, layer = _read_layer(group.kind, group.stem, tensors, settings)
            finite(layer)
        except AdapterError as error:
            left_out.layers[group.stem] = LostLayer(str(error), error.reason)
            continue
        layers[name] = layer
        kinds.update({change.kind for change in layer.changes} or {group.kind.name})
        told.update(filter(None, (group.kind.notes(tensors), dora.notes(tensors))))
        growth = _entries(layer) - sum(tensor.numel() for tensor in tensors.values())
        room -= max(growth, 0) * (1 if group.kind is LOW_RANK else _SHARE_OF_OTHER_KINDS)
        if room < 0:
            raise AdapterFileError(_explain_growth(source))
        replaces_core = replaces_core and group.kind is LOW_RANK and not layer.changes and _replaces_core(tensors)
    notes = (*settings.notes(), *(f"{count} of its layers are {text}" for text, count in told.items()))
    origin = Origin(True, tuple(_told(kinds)), may_replace_core=bool(layers) and replaces_core, notes=notes)
    return QRLoRA(layers, metadata, origin=origin)


def _entries(layer: Layer) -> int:
    """How many numbers it holds."""
    inner = sum(_entries(change.layer) for change in layer.changes if isinstance(change, Dora))
    of_terms = (tensor for term in layer.terms for tensor in (term.q, term.delta_r))
    of_changes = (tensor for change in layer.changes for tensor in change.tensors().values())
    return inner + sum(tensor.numel() for tensor in chain(of_terms, of_changes))


def _replaces_core(tensors: Mapping[str, Tensor]) -> bool:
    return "alpha" not in tensors and is_nearly_orthonormal(tensors["up"])


def renamed(
    source: Path,
    keys: Iterable[str],
    get: Callable[[str], Tensor],
    stand_in: Callable[[str], Tensor],
    rename: Rename,
) -> tuple[list[str], Callable[[str], Tensor]]:
    """The new names, and what gives a tensor by one.

    Only names and shapes are shown to ``rename``, so that each tensor is read when its layer is made. Where it looks
    into tensors, or makes others of them, it gets them all.

    Raises:
        AdapterFileError: the names go on otherwise than those of the trainer as whose they begin.
    """
    without_content = {key: stand_in(key) for key in keys}
    key_of = {id(tensor): key for key, tensor in without_content.items()}
    try:
        found = dict(rename(dict(without_content)))
    except Exception:  # it belongs to a host
        found = {}
    if not found or any(tensor.is_meta and id(tensor) not in key_of for tensor in found.values()):
        return _renamed_with_content(source, without_content, get, rename)
    return list(found), lambda name: get(key_of[id(found[name])]) if found[name].is_meta else found[name]


def _renamed_with_content(
    source: Path, keys: Iterable[str], get: Callable[[str], Tensor], rename: Rename
) -> tuple[list[str], Callable[[str], Tensor]]:
    tensors: dict[str, Tensor] = {}
    unread: dict[int, AdapterError] = {}
    for key in keys:
        try:
            tensors[key] = get(key)
        except AdapterError as error:
            tensors[key] = torch.empty(0)
            unread[id(tensors[key])] = error
    try:
        found = dict(rename(tensors))
    except Exception as error:  # it belongs to a host, and a file may hold anything
        raise AdapterFileError(
            f"{source.name}: a LoRA whose names begin as some trainer's do and do not go on so "
            f"({type(error).__name__}: {shown(str(error))}). It is damaged; download or train it again."
        ) from error

    def taken(name: str) -> Tensor:
        if id(found[name]) in unread:
            raise unread[id(found[name])]
        return found[name]

    return list(found), taken


def _explain_growth(source: Path) -> str:
    return (
        f"{source.name}: its layers, such as convolutions in Tucker form, are many times larger than the file when "
        "multiplied out. No trainer makes such a file; download it again from a source that you trust."
    )


@dataclass
class _Group:
    """The keys of one layer, by part; and of what else stands under its name: another kind, or a part once more."""

    stem: str
    kind: Kind
    parts: dict[str, str] = field(default_factory=dict)
    other: tuple[Kind, str] | None = None
    clash: str = ""

    def add(self, kind: Kind, part: str, key: str) -> None:
        """One more key."""
        if kind.layer is None:
            self.other = self.other or (kind, key)
        elif self.parts and self.kind is not kind:
            self.clash = self.clash or f"expected one kind, found {self.kind.name} and {kind.name} ({key!r})."
        elif part in self.parts:
            self.clash = self.clash or f"expected each part once, found {self.parts[part]!r} and {key!r}."
        else:
            self.kind = kind
            self.parts[part] = key

    def takes(self, part: str) -> bool:
        """Whether a part that stands beside others is one of this layer."""
        return part in (*_OF_ANY, *self.kind.beside.values())

    def is_lost(self, left_out: LeftOut) -> bool:
        """Whether it is left out for its names alone, which is noted then."""
        if self.other is not None:
            kind, key = self.other
            told = f"{kind.name} ({key!r}), a kind that is not supported."
            left_out.layers[self.stem] = LostLayer(told, Reason.OTHER_KIND, f"this is a {told}", kind.is_vital)
        elif self.clash:
            left_out.layers[self.stem] = LostLayer(self.clash, Reason.OTHER_KIND)
        return self.other is not None or bool(self.clash)


_BESIDE = {".alpha": "alpha", **{ending: part for kind in KINDS for ending, part in kind.beside.items()}}


def _beside(key: str) -> tuple[str, str] | None:
    """(layer's name, part) of a key that is a part only beside others of its layer."""
    for ending, part in _BESIDE.items():
        if key.endswith(ending) and key != ending:
            return key.removesuffix(ending), part
    return None


def _group(keys: Iterable[str], left_out: LeftOut) -> dict[str, _Group]:
    """Layer's name -> its keys."""
    groups: dict[str, _Group] = {}
    beside: list[tuple[str, str, str]] = []
    for key in keys:
        found = part_of(key)
        if key.startswith(_EMBEDDING):
            left_out.embeddings += 1
        elif found is not None:
            kind, stem, part = found
            groups.setdefault(stem, _Group(stem, kind)).add(kind, part, key)
        elif of_any := dora.part_of(key) or _beside(key):
            beside.append((*of_any, key))
        else:
            left_out.tensors.append(key)
    for stem, part, key in beside:
        if stem not in groups or not groups[stem].takes(part):
            left_out.tensors.append(key)
        else:
            groups[stem].add(groups[stem].kind, part, key)
    _prefer_differences(groups, left_out)
    return groups


def _prefer_differences(groups: dict[str, _Group], left_out: LeftOut) -> None:
    """A whole difference, or another weight, stands in place of factors for a weight: so others read such a file."""
    for stem in [stem for stem, group in groups.items() if group.kind not in _WHOLE]:
        whole = groups.get(f"{stem}.weight")
        if whole is not None and whole.kind in _WHOLE and groups[stem].other is None:
            left_out.tensors += groups.pop(stem).parts.values()


def _read_layer(kind: Kind, stem: str, tensors: Mapping[str, Tensor], settings: PeftSettings) -> tuple[str, Layer]:
    alpha = read_alpha(tensors.get("alpha"))
    if math.isnan(alpha) and kind.ranked in tensors:
        down = tensors[kind.ranked]
        alpha = settings.alpha_of(stem, down.shape[0] if down.ndim else 0)
    assert kind.layer is not None
    own = {part: tensor for part, tensor in tensors.items() if part not in dora.PARTS}
    name, layer = kind.layer(stem, own, alpha)
    return name, dora.with_magnitudes(layer, tensors, kind.name)
