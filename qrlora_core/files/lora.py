"""Ordinary LoRA files: the names that trainers give their tensors, to layers.

Only how a key ends is read here (kohya, diffusers, PEFT, ComfyUI, OneTrainer, SimpleTuner ...). What is before is the
layer's name, and a host knows which of its weights each trainer means by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import Layer, Origin, QRLoRA
from ..errors import AdapterError, AdapterFileError, Reason
from ..functional.lora import is_nearly_orthonormal
from ..kinds.kind import Kind
from ..kinds.low_rank import LOW_RANK
from ..kinds.registry import part_of
from .parts import read_alpha
from .peft_settings import PeftSettings
from .safetensors_io import shown

# Embeddings that some trainers put into the file. They are loaded elsewhere; the report says so.
_EMBEDDING = "bundle_emb."
# Convolutions in Tucker form are multiplied out, to so many numbers in all, or so many per byte of the file: a kernel
# of 3 x 3 makes at most nine of one that is stored.
_SMALL, _LARGEST_GROWTH = 2**22, 4
_ALPHA = ".alpha"

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


def refusal(source: Path, keys: Iterable[str]) -> str:
    """Why a file is refused for its kind alone; empty where it is not."""
    refused = (key for key in keys if (found := part_of(key)) and found[0].layer is None)
    return next((_explain_other(source, key) for key in refused), "")


def read(
    source: Path,
    keys: Iterable[str],
    get: Callable[[str], Tensor],
    metadata: Mapping[str, str],
    rename: Rename | None = None,
) -> QRLoRA:
    """The adapter in an ordinary LoRA file, each layer in exact QR form.

    Raises:
        AdapterFileError: another kind of adapter, or tensors that do not fit together; names file and layer.
    """
    if rename is not None:
        renamed = _renamed(source, {key: get(key) for key in keys}, rename)
        keys, get = list(renamed), renamed.pop  # each is asked for once, and then not kept
    groups, embeddings = _group(source, keys)
    settings = PeftSettings(metadata)
    room = max(_SMALL, _LARGEST_GROWTH * source.stat().st_size)
    layers: dict[str, Layer] = {}
    replaced = 0
    for stem, (kind, names) in groups.items():
        tensors = {part: get(key) for part, key in names.items()}
        try:
            name, layer = _read_layer(kind, stem, tensors, settings)
            if name in layers:
                raise AdapterError("it has two factors and a whole difference; make the file again with one of them.")
        except (AdapterError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            raise AdapterFileError(f"{source.name}: layer {stem}: {error}") from error
        layers[name] = layer
        room -= layer.terms[0].delta_r.numel() if "mid" in tensors else 0
        if room < 0:
            raise AdapterFileError(_explain_growth(source))
        replaced += kind is LOW_RANK and "alpha" not in tensors and is_nearly_orthonormal(tensors["up"])
    not_loaded = f"{embeddings} tensors of bundled embeddings" if embeddings else ""
    return QRLoRA(layers, metadata, origin=Origin(True, replaced == len(layers), not_loaded, settings.notes()))


def _renamed(source: Path, tensors: dict[str, Tensor], rename: Rename) -> dict[str, Tensor]:
    try:
        return dict(rename(tensors))
    except Exception as error:  # it belongs to a host, and a file may hold anything
        raise AdapterFileError(
            f"{source.name}: a LoRA whose names begin as some trainer's do and do not go on so "
            f"({type(error).__name__}: {shown(str(error))}). It is damaged; download or train it again."
        ) from error


def _explain_growth(source: Path) -> str:
    return (
        f"{source.name}: its convolutions in Tucker form are many times larger than the file when multiplied out. "
        "No trainer makes such a file; download it again from a source that you trust."
    )


def _group(source: Path, keys: Iterable[str]) -> tuple[dict[str, tuple[Kind, dict[str, str]]], int]:
    """Layer's name -> its kind, and part -> key; and how many tensors are embeddings."""
    groups: dict[str, tuple[Kind, dict[str, str]]] = {}
    alphas: dict[str, str] = {}
    embeddings = 0
    for key in keys:
        found = part_of(key)
        if key.startswith(_EMBEDDING):
            embeddings += 1
        elif found is not None and found[0].layer is not None:
            kind, stem, part = found
            own = groups.setdefault(stem, (kind, {}))
            _add(source, own, kind, stem, part, key)
        elif found is None and key.endswith(_ALPHA) and key != _ALPHA:
            alphas[key.removesuffix(_ALPHA)] = key
        else:
            raise AdapterFileError(_explain_other(source, key), Reason.OTHER_KIND if found else None)
    for stem, key in alphas.items():
        groups.setdefault(stem, (LOW_RANK, {}))[1]["alpha"] = key
    if not groups:
        raise AdapterFileError(
            f"{source.name}: it holds embeddings alone; put it among the embeddings and name it in the prompt."
        )
    return groups, embeddings


def _add(source: Path, group: tuple[Kind, dict[str, str]], kind: Kind, stem: str, part: str, key: str) -> None:
    first, parts = group
    if first is not kind:
        raise AdapterFileError(
            f"{source.name}: layer {stem}: expected one kind, found {first.name} and {kind.name} ({key!r}). Make the "
            "file again with one."
        )
    if part in parts:
        raise AdapterFileError(
            f"{source.name}: layer {stem}: expected each part once, found {parts[part]!r} and {key!r}. Two trainers' "
            "names stand in one file; make it again with one."
        )
    parts[part] = key


def _explain_other(source: Path, key: str) -> str:
    if found := part_of(key):
        return (
            f"{source.name}: this is a {found[0].name} ({key!r}), which is no low-rank sum that a QR form could hold."
        )
    return f"{source.name}: a LoRA with a tensor that no LoRA has: {key!r}. Nothing was loaded; make the file again."


def _read_layer(kind: Kind, stem: str, tensors: Mapping[str, Tensor], settings: PeftSettings) -> tuple[str, Layer]:
    alpha = read_alpha(tensors.get("alpha"))
    if math.isnan(alpha) and kind.ranked in tensors:
        down = tensors[kind.ranked]
        alpha = settings.alpha_of(stem, down.shape[0] if down.ndim else 0)
    assert kind.layer is not None
    return kind.layer(stem, tensors, alpha)
