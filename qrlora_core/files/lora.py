"""Ordinary LoRA files: the names that trainers give their tensors, to layers and back.

Only how a key ends is read here (kohya, diffusers, PEFT, ComfyUI, OneTrainer, SimpleTuner ...). What is before is the
layer's name, and a host knows which of its weights each trainer means by it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import Layer, Origin, QRLoRA
from ..errors import AdapterError, AdapterFileError, Reason
from ..functional.lora import is_nearly_orthonormal, to_lora
from ..kinds.difference import DIFFERENCE
from ..kinds.kind import Kind
from ..kinds.low_rank import LOW_RANK
from ..kinds.registry import part_of
from ..metadata import METADATA_PREFIX, json_object
from .left_out import LeftOut, LostLayer
from .parts import read_alpha, rounded, split_parameter
from .safetensors_io import shown

# Embeddings that some trainers put into the file. They are loaded elsewhere; the report says so.
_EMBEDDING = "bundle_emb."
# Convolutions in Tucker form are multiplied out, to so many numbers in all, or so many per byte of the file: a kernel
# of 3 x 3 makes at most nine of one that is stored.
_SMALL, _LARGEST_GROWTH = 2**22, 4
_NAME = re.compile(r"[\w.-]+")
_ALPHA = ".alpha"
PEFT_SETTINGS = "lora_adapter_metadata"  # where diffusers writes r and lora_alpha

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
    rename: Rename | None = None,
) -> QRLoRA:
    """The adapter in an ordinary LoRA file, its factors as they stand.

    Args:
        left_out: gets what cannot be read.

    Raises:
        AdapterFileError: names that its trainer's do not go on with, or convolutions that no trainer makes.
    """
    if rename is not None:
        keys, get = _renamed(source, keys, get, rename)
    alphas = _Alphas(metadata)
    room = max(_SMALL, _LARGEST_GROWTH * source.stat().st_size)
    layers: dict[str, Layer] = {}
    may_replace, replaced = not any(key.startswith(METADATA_PREFIX) for key in metadata), 0  # ours say what they are
    for group in _group(keys, left_out).values():
        if group.is_lost(left_out):
            continue
        try:
            tensors = {part: get(key) for part, key in group.parts.items()}
            name, layer = _read_layer(group.kind, group.stem, tensors, alphas)
        except AdapterError as error:
            left_out.layers[group.stem] = LostLayer(str(error), error.reason)
            continue
        layers[name] = layer
        room -= layer.terms[0].delta_r.numel() if "mid" in tensors else 0
        if room < 0:
            raise AdapterFileError(_explain_growth(source))
        replaced += may_replace and group.kind is LOW_RANK and _replaces_core(tensors)
    return QRLoRA(layers, metadata, origin=Origin(True, bool(layers) and replaced == len(layers)))


def _replaces_core(tensors: Mapping[str, Tensor]) -> bool:
    return "alpha" not in tensors and is_nearly_orthonormal(tensors["up"])


def _renamed(
    source: Path, keys: Iterable[str], get: Callable[[str], Tensor], rename: Rename
) -> tuple[list[str], Callable[[str], Tensor]]:
    """The new names, and what gives a tensor by one; each is asked for once, and then not kept."""
    tensors: dict[str, Tensor] = {}
    unread: dict[int, AdapterError] = {}
    for key in keys:
        try:
            tensors[key] = get(key)
        except AdapterError as error:
            tensors[key] = torch.empty(0)
            unread[id(tensors[key])] = error
    try:
        renamed = dict(rename(tensors))
    except Exception as error:  # it belongs to a host, and a file may hold anything
        raise AdapterFileError(
            f"{source.name}: a LoRA whose names begin as some trainer's do and do not go on so "
            f"({type(error).__name__}: {shown(str(error))}). It is damaged; download or train it again."
        ) from error

    def taken(key: str) -> Tensor:
        tensor = renamed.pop(key)
        if id(tensor) in unread:
            raise unread[id(tensor)]
        return tensor

    tensors.clear()
    return list(renamed), taken


def _explain_growth(source: Path) -> str:
    return (
        f"{source.name}: its convolutions in Tucker form are many times larger than the file when multiplied out. "
        "No trainer makes such a file; download it again from a source that you trust."
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

    def is_lost(self, left_out: LeftOut) -> bool:
        """Whether it is left out for its names alone, which is noted then."""
        if self.other is not None:
            kind, key = self.other
            told = f"{kind.name} ({key!r}), which is no low-rank sum that a QR form could hold."
            left_out.layers[self.stem] = LostLayer(told, Reason.OTHER_KIND, f"this is a {told}")
        elif self.clash:
            left_out.layers[self.stem] = LostLayer(self.clash, Reason.OTHER_KIND)
        return self.other is not None or bool(self.clash)


def _group(keys: Iterable[str], left_out: LeftOut) -> dict[str, _Group]:
    """Layer's name -> its keys."""
    groups: dict[str, _Group] = {}
    alphas: dict[str, str] = {}
    for key in keys:
        found = part_of(key)
        if key.startswith(_EMBEDDING):
            left_out.embeddings += 1
        elif found is not None:
            kind, stem, part = found
            groups.setdefault(stem, _Group(stem, kind)).add(kind, part, key)
        elif key.endswith(_ALPHA) and key != _ALPHA:
            alphas[key.removesuffix(_ALPHA)] = key
        else:
            left_out.tensors.append(key)
    for stem, key in alphas.items():
        if stem in groups:
            groups[stem].parts["alpha"] = key
        else:
            left_out.tensors.append(key)
    _prefer_differences(groups, left_out)
    return groups


def _prefer_differences(groups: dict[str, _Group], left_out: LeftOut) -> None:
    """A whole difference of a weight stands in place of factors for it: so others read such a file."""
    for stem in [stem for stem, group in groups.items() if group.kind is not DIFFERENCE]:
        whole = groups.get(f"{stem}.weight")
        if whole is not None and whole.kind is DIFFERENCE and groups[stem].other is None:
            left_out.tensors += groups.pop(stem).parts.values()


def _read_layer(kind: Kind, stem: str, tensors: Mapping[str, Tensor], alphas: _Alphas) -> tuple[str, Layer]:
    alpha = read_alpha(tensors.get("alpha"))
    if math.isnan(alpha) and kind.ranked in tensors:
        down = tensors[kind.ranked]
        alpha = alphas.of(stem, down.shape[0] if down.ndim else 0)
    assert kind.layer is not None
    return kind.layer(stem, tensors, alpha)


class _Alphas:
    """What diffusers wrote of PEFT's settings: ``lora_alpha`` by prefix, with exceptions by layer."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._told = json_object(metadata, PEFT_SETTINGS)

    def of(self, stem: str, rank: int) -> float:
        """The alpha of a layer; NaN, which stands for the rank, where nothing is told."""
        prefix, _, name = stem.partition(".")
        alpha = self._number(self._pattern(prefix, name, self._told.get(f"{prefix}.lora_alpha")))
        return alpha * math.sqrt(rank) if self._told.get(f"{prefix}.use_rslora") is True else alpha

    def _pattern(self, prefix: str, name: str, alpha: object) -> object:
        """PEFT takes the first pattern ``(.*\\.)?(pattern)$`` that matches; here patterns are names alone."""
        patterns = self._told.get(f"{prefix}.alpha_pattern")
        for pattern, own in patterns.items() if isinstance(patterns, dict) else ():
            plain_name = pattern.replace("\\.", ".").removeprefix("^").removesuffix("$")
            if not _NAME.fullmatch(plain_name):
                raise AdapterError(
                    f"expected the alpha_pattern of its settings to name layers, found {shown(pattern)!r}. Its alphas "
                    "cannot be told from that; save it with alphas per layer, as kohya's format does."
                )
            if name == plain_name or (not pattern.startswith("^") and name.endswith(f".{plain_name}")):
                return own
        return alpha

    @staticmethod
    def _number(told: object) -> float:
        if isinstance(told, bool) or not isinstance(told, int | float):
            return math.nan
        try:
            return float(told) if math.isfinite(told) else math.nan
        except OverflowError:  # JSON knows whole numbers of any length
            return math.nan


def tensors_of(adapter: QRLoRA, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of an ordinary LoRA with the same deltas; alpha is the rank everywhere.

    Dotted names take diffusers' and PEFT's endings, which leave alpha out. Names of a UNet, and those without dots,
    take kohya's, which every tool for SD1.5 and SDXL reads.
    """
    for (stem, is_peft), layer in _by_stem(adapter).items():
        if layer.is_vector:
            key = _difference_key(stem)
            yield key, rounded(key, layer.delta_weight().flatten(), dtype or torch.float32)
            continue
        up, down = _balanced(*to_lora(layer))
        names = ("lora_B", "lora_A") if is_peft else ("lora_up", "lora_down")
        for name, factor in zip(names, (up, down), strict=True):
            key = f"{stem}.{name}.weight"
            yield key, rounded(key, factor, dtype or torch.float32)
        if not is_peft:
            yield f"{stem}.alpha", torch.tensor(float(down.shape[0]))


def _by_stem(adapter: QRLoRA) -> dict[tuple[str, bool], Layer]:
    """Layers by their name in the file, and whether it takes PEFT's endings.

    A merge may hold one layer under the names of two trainers, which are one name here: their terms are added.
    """
    layers: dict[tuple[str, bool], Layer] = {}
    dotted: dict[tuple[str, bool], str] = {}
    for path, layer in adapter.layers.items():
        stem = _stem(path)
        if stem in layers:
            _require_same_name(stem[0], dotted.get(stem, path), path)
            try:
                layer = layer.with_terms((*layers[stem].terms, *layer.terms))
            except AdapterError as error:
                raise AdapterError(f"layer {path}: {error}") from error
        layers[stem] = layer
        if "." in path:
            dotted[stem] = path
    return layers


def _require_same_name(stem: str, first: str, second: str) -> None:
    """Two names with dots in other places mean two layers, though kohya's names leave the dots out."""
    if "." in second and _current(first) != _current(second):
        raise AdapterError(
            f"layers {first} and {second} would both be {stem} in an ordinary LoRA. Save as full instead."
        )


def _stem(path: str) -> tuple[str, bool]:
    if "." not in path:
        return path, False
    path = _current(path)
    if path.startswith("unet."):
        path, parameter = split_parameter(path)
        return f"lora_unet_{path.removeprefix('unet.').replace('.', '_')}{parameter}", False
    return path, True


def _difference_key(name: str) -> str:
    stem, parameter = split_parameter(name)
    return stem + (".diff_b" if parameter == ".bias" else ".diff")


def _current(path: str) -> str:
    """The name of today for a layer of diffusers' former attention processors."""
    if ".processor.to_" not in path:
        return path
    path = path.replace(".processor.to_", ".to_")
    return f"{path}.0" if path.endswith(".to_out") else path


def _balanced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with factors of about one size, by a power of two, so that none vanishes in float16."""
    peaks = [float(factor.abs().max()) for factor in (up, down)]
    if 0.0 in peaks:
        return up, down
    shift = round((math.log2(peaks[0]) - math.log2(peaks[1])) / 2)
    return torch.ldexp(up, torch.tensor(-shift)), torch.ldexp(down, torch.tensor(shift))
