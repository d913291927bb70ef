"""Ordinary LoRA files: the names that trainers give their tensors, to layers and back.

Only how a key ends is read here (kohya, diffusers, PEFT, ComfyUI, OneTrainer, SimpleTuner ...). What is before is the
layer's name, and a host knows which of its weights each trainer means by it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import Layer, Origin, QRLoRA
from ..errors import AdapterError, AdapterFileError
from ..functional.lora import from_difference, from_lora, is_nearly_orthonormal, to_lora
from ..metadata import json_object
from .parts import names_vector, read_alpha, require_parts, rounded, split_parameter
from .safetensors_io import shown

# How a key ends, by what it holds.
_ENDINGS = {
    "up": (".lora_up.weight", "_lora.up.weight", ".lora.up.weight", ".lora_linear_layer.up.weight"),
    "down": (".lora_down.weight", "_lora.down.weight", ".lora.down.weight", ".lora_linear_layer.down.weight"),
    "mid": (".lora_mid.weight",),
    "alpha": (".alpha",),
}
# PEFT: `.lora_A.weight`, with the adapter's name (`.lora_A.default.weight`), or bare.
_PEFT = re.compile(r"^(?P<stem>.+)\.lora_(?P<factor>[AB])(?:\.(?!bias$)[^.]+)?(?:\.weight)?$")
_PEFT_PARTS = {"A": "down", "B": "up"}
# Kinds that are no product of two matrices added to a weight, by what their keys have.
_OTHER_KINDS = (
    ("DoRA", re.compile(r"\.dora_scale$|\.lora_magnitude_vector(\.|$)|\.magnitude$")),
    ("LoHa", re.compile(r"\.hada_")),
    ("LoKr", re.compile(r"\.lokr_")),
    ("OFT", re.compile(r"\.b?oft_")),
    ("GLoRA", re.compile(r"\.[ab][12]\.weight$")),
    ("IA3", re.compile(r"\.on_input$|\.ia3_")),
    ("LoRA that replaces or reshapes weights", re.compile(
        r"\.set_weight$|\.reshape_weight$|\.lora_B(\.[^.]+)?\.bias$|\.lora_up\.bias$"
    )),
)  # fmt: skip
# Whole differences: of a weight, or of the bias beside it. A vector is a layer under the name of its parameter.
_DIFFERENCES = {".diff": ".weight", ".w_norm": ".weight", ".diff_b": ".bias", ".b_norm": ".bias"}
# Embeddings that some trainers put into the file. They are loaded by other nodes; the report says so.
_EMBEDDING = "bundle_emb."
# Convolutions in Tucker form are multiplied out, to so many numbers in all, or so many per byte of the file: a kernel
# of 3 x 3 makes at most nine of one that is stored.
_SMALL, _LARGEST_GROWTH = 2**22, 4
_NAME = re.compile(r"[\w.-]+")
PEFT_SETTINGS = "lora_adapter_metadata"  # where diffusers writes r and lora_alpha

# From a file's tensors by name to the same under names that a host knows.
Rename = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def is_lora(keys: Iterable[str]) -> bool:
    """True when some key is of an ordinary LoRA, or of a relative of it that is refused by name."""
    return any((_split(key) is not None and not key.endswith(".alpha")) or _other_kind(key) for key in keys)


def _split(key: str) -> tuple[str, str] | None:
    """(layer's name, part) of a key; None where it is none of an ordinary LoRA."""
    for part, endings in _ENDINGS.items():
        for ending in endings:
            if key.endswith(ending) and key != ending:
                return key.removesuffix(ending), part
    if match := _PEFT.match(key):
        return match["stem"], _PEFT_PARTS[match["factor"]]
    for ending, parameter in _DIFFERENCES.items():
        if key.endswith(ending) and key != ending:
            return key.removesuffix(ending) + parameter, "difference"
    return None


def _other_kind(key: str) -> str | None:
    return next((kind for kind, pattern in _OTHER_KINDS if pattern.search(key)), None)


def adapter_of(
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
    parts, embeddings = _group(source, keys)
    alphas = _Alphas(metadata)
    room = max(_SMALL, _LARGEST_GROWTH * source.stat().st_size)
    layers: dict[str, Layer] = {}
    replaced = 0
    for stem, names in parts.items():
        tensors = {part: get(key) for part, key in names.items()}
        try:
            name, layer = _read_layer(tensors, alphas, stem)
            if name in layers:
                raise AdapterError("it has two factors and a whole difference; make the file again with one of them.")
        except (AdapterError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            raise AdapterFileError(f"{source.name}: layer {stem}: {error}") from error
        layers[name] = layer
        room -= layer.terms[0].delta_r.numel() if "mid" in tensors else 0
        if room < 0:
            raise AdapterFileError(_explain_growth(source))
        replaced += "up" in tensors and "alpha" not in tensors and is_nearly_orthonormal(tensors["up"])
    not_loaded = f"{embeddings} tensors of bundled embeddings" if embeddings else ""
    return QRLoRA(layers, metadata, origin=Origin(True, replaced == len(layers), not_loaded))


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


def _group(source: Path, keys: Iterable[str]) -> tuple[dict[str, dict[str, str]], int]:
    """Layer's name -> part -> key, and how many tensors are embeddings."""
    parts: dict[str, dict[str, str]] = {}
    embeddings = 0
    for key in keys:
        found = _split(key)
        if key.startswith(_EMBEDDING):
            embeddings += 1
        elif found is None:
            raise AdapterFileError(_explain_other(source, key))
        elif found[1] in parts.setdefault(found[0], {}):
            raise AdapterFileError(
                f"{source.name}: layer {found[0]}: expected each part once, found {parts[found[0]][found[1]]!r} and "
                f"{key!r}. Two trainers' names stand in one file; make it again with one."
            )
        else:
            parts[found[0]][found[1]] = key
    if not parts:
        raise AdapterFileError(
            f"{source.name}: it holds embeddings alone; put it among the embeddings and name it in the prompt."
        )
    return parts, embeddings


def _explain_other(source: Path, key: str) -> str:
    if kind := _other_kind(key):
        return (
            f"{source.name}: this is a {kind} ({key!r}), which is no low-rank sum that a QR form could hold. "
            "Load it with ComfyUI's own LoRA loader, before or after QR-LoRA Merge: both act."
        )
    return f"{source.name}: a LoRA with a tensor that no LoRA has: {key!r}. Nothing was loaded; make the file again."


def _read_layer(tensors: Mapping[str, Tensor], alphas: _Alphas, stem: str) -> tuple[str, Layer]:
    """The layer and its name, which for a whole difference of a matrix is that of the weight's module."""
    if "difference" in tensors:
        require_parts(tensors, ("difference",))
        difference = tensors["difference"]
        if difference.ndim != 1 and stem.endswith(".bias"):
            raise AdapterError(f"expected the difference of a bias as a vector, found {tuple(difference.shape)}.")
        if difference.ndim == 1:
            return stem, Layer((from_difference(difference),), is_vector=names_vector(stem))
        return stem.removesuffix(".weight"), Layer((from_difference(difference),))
    require_parts(tensors, ("up", "down"))
    alpha = read_alpha(tensors.get("alpha"))
    if math.isnan(alpha):
        alpha = alphas.of(stem, tensors["down"].shape[0] if tensors["down"].ndim else 0)
    return stem, Layer((from_lora(tensors["up"], tensors["down"], alpha, tensors.get("mid")),))


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
