"""The published names in an adapter file, and ours beside them: keys to layers and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import Layer, QRLoRA, Term
from ..errors import AdapterError, AdapterFileError
from ..kinds.tensors import require_parts
from .left_out import LeftOut, LostLayer
from .parts import finite, names_vector, read_alpha, rounded
from .safetensors_io import plain

# `{module}.lora.q.weight` as published; further terms of a layer are `{module}.lora.1.q.weight` and so on.
_KEY = re.compile(
    r"^(?P<path>.+)\.lora\.(?:(?P<index>[1-9]\d{0,5})\.)?(?P<part>q\.weight|delta_r\.weight|base_r\.weight|alpha)$"
)
_PART_NAMES = {"q.weight": "q", "delta_r.weight": "delta_r", "base_r.weight": "base_r", "alpha": "alpha"}
# The variant `qr` trains Q as well: `{module}.lora_qr.*`, names that no reader of another layout takes for its own.
_QR_KEY = re.compile(r"^(?P<path>.+)\.lora_qr\.(?P<part>q|delta_q|delta_r|base_r|alpha)(?:\.weight)?$")
_QR = -1  # stands for the index of a term


def matches(keys: Iterable[str]) -> bool:
    """True when some key is one of this layout."""
    own = (key for key in keys if ".lora." in key or ".lora_qr." in key)
    return any(_KEY.match(key) or _QR_KEY.match(key) for key in own)


def header(key: str) -> tuple[str, int] | None:
    """See `formats.Format`; the variant ``qr`` has two terms of its rank."""
    for pattern, terms in ((_KEY, 1), (_QR_KEY, 2)):
        if (match := pattern.match(key)) and match["part"].startswith("delta_r"):
            return match["path"], terms
    return None


def read(source: Path, keys: Iterable[str], get: Callable[[str], Tensor], left_out: LeftOut) -> dict[str, Layer]:
    """Module path to layer, of a file in this layout.

    Args:
        left_out: gets what cannot be read.

    Raises:
        AdapterFileError: no key is of this layout.
    """
    layers = {}
    for module, terms in _group_keys(source, keys, left_out).items():
        try:
            tensors = {i: {part: get(key) for part, key in parts.items()} for i, parts in terms.items()}
            layers[module] = finite(_read_layer(module, tensors))
        except AdapterError as error:
            left_out.layers[module] = LostLayer(str(error))
    return layers


def _group_keys(source: Path, keys: Iterable[str], left_out: LeftOut) -> dict[str, dict[int, dict[str, str]]]:
    """module path -> index of the term, or `_QR` -> part -> key."""
    grouped: dict[str, dict[int, dict[str, str]]] = {}
    unknown = []
    for key in keys:
        if match := _KEY.match(key):
            terms = grouped.setdefault(match["path"], {})
            terms.setdefault(int(match["index"] or 0), {})[_PART_NAMES[match["part"]]] = key
        elif match := _QR_KEY.match(key):
            grouped.setdefault(match["path"], {}).setdefault(_QR, {})[match["part"]] = key
        else:
            unknown.append(key)
    if not grouped:
        raise AdapterFileError(_explain_unknown(source, unknown))
    left_out.tensors += unknown
    return grouped


def _explain_unknown(source: Path, keys: list[str]) -> str:
    if any(key.endswith(".residual.weight") for key in keys):
        return f"{source.name}: this is the companion file of residuals, which is not needed; choose the adapter file."
    found = f"found {', '.join(map(repr, keys[:3]))}" if keys else "found no tensors"
    return (
        f"{source.name}: not an adapter: expected keys like 'transformer.<module>.lora.q.weight' and "
        f"'... .lora.delta_r.weight', or those of an ordinary LoRA, {found}."
    )


def _read_layer(module: str, terms: Mapping[int, Mapping[str, Tensor]]) -> Layer:
    if _QR in terms and len(terms) > 1:
        raise AdapterError("expected keys of one kind, found both '.lora.' and '.lora_qr.'.")
    if _QR not in terms and sorted(terms) != list(range(len(terms))):
        raise AdapterError(f"terms {sorted(terms)} are not numbered from 0 without a gap.")
    if _QR in terms:
        return _read_qr_layer(terms[_QR])
    return Layer(tuple(_read_term(terms[index]) for index in range(len(terms))), is_vector=names_vector(module))


def _read_qr_layer(parts: Mapping[str, Tensor]) -> Layer:
    """``scaling * (Q dR + dQ (R + dR))``, which is ``scaling * ((Q + dQ) (R + dR) - Q R)``."""
    require_parts(parts, ("q", "delta_q", "delta_r", "base_r"))
    first = _read_term({name: tensor for name, tensor in parts.items() if name != "delta_q"})
    trained_r = parts["base_r"].reshape(first.delta_r.shape) + first.delta_r
    return Layer((first, Term(parts["delta_q"], trained_r, first.alpha)), variant="qr")


def _read_term(parts: Mapping[str, Tensor]) -> Term:
    require_parts(parts, ("q", "delta_r"))
    return Term(parts["q"], parts["delta_r"], read_alpha(parts.get("alpha")), parts.get("base_r"))


def tensors_of(adapter: QRLoRA, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of all layers; ``dtype`` rounds dR and R and leaves the basis, which others may share."""
    for path, layer in adapter.layers.items():
        if layer.variant == "qr":
            yield from _qr_tensors(path, layer, dtype)
            continue
        for index, term in enumerate(_in_qr_form(layer)):
            stem = f"{path}.lora" if index == 0 else f"{path}.lora.{index}"
            yield f"{stem}.q.weight", plain(term.q)
            for name, tensor in (("delta_r", term.delta_r), ("base_r", term.base_r)):
                if tensor is not None:
                    key = f"{stem}.{name}.weight"
                    yield key, rounded(key, tensor, dtype)
            yield f"{stem}.alpha", torch.tensor(term.alpha, dtype=torch.float64)


def _in_qr_form(layer: Layer) -> Sequence[Term]:
    """The terms of ordinary LoRAs on orthonormal bases, which others take q for; what was trained on one stays."""
    if layer.is_vector or any(term.base_r is not None for term in layer.terms):
        return layer.terms
    return [term.orthonormal for term in layer.terms]


def _qr_tensors(path: str, layer: Layer, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    first, second = layer.terms
    yield f"{path}.lora_qr.q.weight", plain(first.q)
    for name, tensor in (("delta_q", second.q), ("delta_r", first.delta_r), ("base_r", first.base_r)):
        if tensor is not None:
            key = f"{path}.lora_qr.{name}.weight"
            yield key, rounded(key, tensor, dtype)
    yield f"{path}.lora_qr.alpha", torch.tensor(first.alpha, dtype=torch.float64)
