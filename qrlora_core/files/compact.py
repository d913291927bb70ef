"""Compact files: dR alone, beside a sketch of the basis that it belongs to."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import Layer, QRLoRA
from ..errors import AdapterError, AdapterFileError, QRLoRAError, Reason
from ..functional.sketch import align, sketch
from ..kinds.tensors import require_parts
from ..metadata import json_object
from ..term import Term, is_finite, largest
from .basis_store import BasisStore
from .left_out import LeftOut, LostLayer
from .parts import finite, names_vector, read_alpha, rounded
from .safetensors_io import plain, shown

BASIS_IDS = "qr_lora.basis_ids"
_KEY = re.compile(r"^(?P<path>.+)\.lora_compact\.(?P<part>delta_r\.weight|sketch|alpha)$")
_PART_NAMES = {"delta_r.weight": "delta_r", "sketch": "sketch", "alpha": "alpha"}

# Gives the basis of a layer's base weight at a rank, from a model.
Rebuild = Callable[[str, int], Tensor]


def matches(keys: Iterable[str]) -> bool:
    """True when some key is of a compact file."""
    return any(".lora_compact." in key and _KEY.match(key) for key in keys)


def header(key: str) -> tuple[str, int] | None:
    """See `formats.Format`."""
    match = _KEY.match(key)
    return (match["path"], 1) if match and match["part"].startswith("delta_r") else None


def tensors_of(adapter: QRLoRA, dtype: torch.dtype, bases: BasisStore) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of all layers; their bases are put into the store.

    Keys per layer: ``{module}.lora_compact.delta_r.weight`` (rank, in), ``.sketch`` (rank, rank), ``.alpha``. dR is
    scaled by a power of two, which alpha takes back, so that it neither overflows nor vanishes in float16.

    Raises:
        AdapterError: a layer that is not one dR on the basis of a base weight.
    """
    of_base = _told_names(adapter.metadata)
    for path, layer in adapter.layers.items():
        term = _single_term(path, layer, path in of_base)
        delta_r = term.delta_r.detach().double()
        exponent = math.frexp(float(delta_r.abs().max()))[1]
        stored = sketch(term.q)
        if bases.find(term.basis_id, stored) is None:
            bases.put(term.basis_id, term.q)
        key = f"{path}.lora_compact.delta_r.weight"
        yield key, rounded(key, _scaled(delta_r, -exponent), dtype)
        yield f"{path}.lora_compact.sketch", plain(stored)
        yield f"{path}.lora_compact.alpha", torch.tensor(math.ldexp(term.alpha, exponent), dtype=torch.float64)


def _scaled(tensor: Tensor, exponent: int) -> Tensor:
    return torch.ldexp(tensor, torch.tensor(exponent, dtype=torch.float64))


def basis_ids(adapter: QRLoRA) -> dict[str, str]:
    """The metadata of a compact file: module path to the name of its basis in the store."""
    return {BASIS_IDS: json.dumps({path: layer.terms[0].basis_id for path, layer in adapter.layers.items()})}


def _single_term(path: str, layer: Layer, is_of_base: bool) -> Term:
    """The one term, on a basis of the base: it has base_r, or came from a compact file, which has none."""
    if len(layer.terms) == 1 and not layer.changes and (is_of_base or layer.terms[0].base_r is not None):
        return layer.terms[0]
    kind = f"{len(layer.terms)} terms" if len(layer.terms) > 1 else "a basis of its own"
    kind = layer.changes[0].kind if layer.changes else kind
    raise AdapterError(
        f"layer {path}: the format compact keeps dR alone, for one basis that the base model gives; found {kind}, as "
        "ordinary LoRAs, the variant qr and merges over different bases have. Save as full or lora.",
        Reason.NOT_ON_ONE_BASIS,
    )


def read(
    source: Path,
    keys: Iterable[str],
    get: Callable[[str], Tensor],
    metadata: Mapping[str, str],
    bases: BasisStore | None,
    rebuild: Rebuild | None,
    left_out: LeftOut,
) -> dict[str, Layer]:
    """Module path to layer; every basis from the store or, aligned and then stored, from ``rebuild``.

    Args:
        left_out: gets what cannot be read, such as layers whose basis spans another space.

    Raises:
        AdapterFileError: bases that only the base model can give, or metadata that name none.
    """
    names = _names(source, metadata)
    layers, missing = {}, []
    for path, parts in _group(keys, left_out).items():
        try:
            tensors = {part: get(key) for part, key in parts.items()}
        except AdapterError as error:
            left_out.layers[path] = LostLayer(str(error))
            continue
        try:
            q = _basis(path, tensors, names, bases, rebuild)
            if q is not None:
                term = Term(q, tensors["delta_r"], read_alpha(tensors.get("alpha")))
                layers[path] = _finite(Layer((term,), is_vector=names_vector(path)))
        except (QRLoRAError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            left_out.layers[path] = LostLayer(str(error), getattr(error, "reason", None))
            continue
        missing += [path] if q is None else []
    if missing:
        told = _explain_missing(source, missing, len(layers) + len(missing), metadata)
        raise AdapterFileError(told, Reason.BASE_NEEDED)
    return layers


def _finite(layer: Layer) -> Layer:
    """See `parts.finite`; a basis that has its sketch is finite, and of columns of length one."""
    term = layer.terms[0]
    if largest(term.delta_r) * abs(term.alpha) <= torch.finfo(torch.float32).max / 2:
        return layer
    return finite(layer)


def _names(source: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    names = _told_names(metadata)
    if not names:
        raise AdapterFileError(
            f"{source.name}: a compact file whose metadata {BASIS_IDS} is missing or damaged; save it again from the "
            "adapter that it was made from."
        )
    return names


def _told_names(metadata: Mapping[str, str]) -> dict[str, str]:
    """Module path to the name of its basis; empty where the metadata tell none."""
    return {path: str(name) for path, name in json_object(metadata, BASIS_IDS).items()}


def _group(keys: Iterable[str], left_out: LeftOut) -> dict[str, dict[str, str]]:
    parts: dict[str, dict[str, str]] = {}
    for key in keys:
        if match := _KEY.match(key):
            parts.setdefault(match["path"], {})[_PART_NAMES[match["part"]]] = key
        else:
            left_out.tensors.append(key)
    return parts


def _basis(
    path: str,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    bases: BasisStore | None,
    rebuild: Rebuild | None,
) -> Tensor | None:
    require_parts(tensors, ("delta_r", "sketch"))
    stored, rank = tensors["sketch"], tensors["delta_r"].shape[0] if tensors["delta_r"].ndim else 0
    if stored.shape != (rank, rank) or not is_finite(stored):
        raise AdapterError(f"sketch: expected finite numbers of shape {(rank, rank)}, found {tuple(stored.shape)}.")
    name = names.get(path, "")
    q = bases.find(name, stored) if bases is not None else None
    if q is None and rebuild is not None:
        q = align(rebuild(path, rank), stored)
        if bases is not None:
            with contextlib.suppress(AdapterFileError):  # a folder that cannot be written: it is made again next time
                bases.put(name, q)
    return q


def _explain_missing(source: Path, missing: list[str], count: int, metadata: Mapping[str, str]) -> str:
    base = shown(metadata.get("qr_lora.base_model", "the model that it was trained on"))
    return (
        f"{source.name}: a compact file, which holds no bases, and those of {len(missing)} of its {count} layers are "
        f"not in the cache on this machine ({missing[0]} is the first). They are made again from its base model "
        f"({base}), and kept."
    )
