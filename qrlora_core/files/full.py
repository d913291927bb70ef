"""The published names in an adapter file, and ours beside them: keys to layers and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import Layer, QRLoRA
from ..change import Change
from ..changes.dora import Dora
from ..changes.registry import CHANGES
from ..errors import AdapterError, AdapterFileError
from ..kinds.tensors import require_parts
from ..term import Term
from .left_out import LeftOut, LostLayer
from .parts import finite, names_vector, read_alpha, rounded
from .safetensors_io import plain

# `{module}.lora.q.weight` as published; further terms of a layer are `{module}.lora.1.q.weight` and so on.
_KEY = re.compile(
    r"^(?P<path>.+)\.lora\.(?:(?P<index>[1-9]\d{0,5})\.)?(?P<part>q\.weight|delta_r\.weight|base_r\.weight|alpha)$"
)
_PART_NAMES = {"q.weight": "q", "delta_r.weight": "delta_r", "base_r.weight": "base_r", "alpha": "alpha"}
# `{module}.lora_change.0.kronecker.left`: changes of a layer that are no terms. What a change holds of a layer of its
# own stands under `{module}.lora_change.0.dora.layer` as under a module.
_CHANGE_KEY = re.compile(r"^(?P<path>.+?)\.lora_change\.(?P<index>0|[1-9]\d{0,3})\.(?P<tag>[a-z_]+)\.(?P<rest>.+)$")
# The variant `qr` trains Q as well: `{module}.lora_qr.*`, names that no reader of another layout takes for its own.
_QR_KEY = re.compile(r"^(?P<path>.+)\.lora_qr\.(?P<part>q|delta_q|delta_r|base_r|alpha)(?:\.weight)?$")
_QR = -1  # stands for the index of a term
_LONGEST_KIND = 40


def matches(keys: Iterable[str]) -> bool:
    """True when some key is one of this layout."""
    own = (key for key in keys if ".lora." in key or ".lora_qr." in key or ".lora_change." in key)
    return any(_KEY.match(key) or _QR_KEY.match(key) or _CHANGE_KEY.match(key) for key in own)


def header(key: str) -> tuple[str, int] | None:
    """See `formats.Format`; the variant ``qr`` has two terms of its rank."""
    if change := _CHANGE_KEY.match(key):
        return change["path"], 0
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
    for module, own in _group_keys(source, keys, left_out).items():
        try:
            layers[module] = finite(_read_any_layer(module, own, get))
        except AdapterError as error:
            left_out.layers[module] = LostLayer(str(error))
    return layers


@dataclass
class _Keys:
    """The keys of one layer.

    Attributes:
        terms: index of the term, or `_QR` -> part -> key.
        changes: index of the change -> its tag, and the rest of its keys -> key.
    """

    terms: dict[int, dict[str, str]] = field(default_factory=dict)
    changes: dict[int, dict[str, dict[str, str]]] = field(default_factory=dict)


def _read_any_layer(module: str, keys: _Keys, get: Callable[[str], Tensor]) -> Layer:
    tensors = {i: {part: get(key) for part, key in parts.items()} for i, parts in keys.terms.items()}
    if not keys.changes:
        return _read_layer(module, tensors)
    if sorted(keys.changes) != list(range(len(keys.changes))):
        raise AdapterError(f"changes {sorted(keys.changes)} are not numbered from 0 without a gap.")
    changes = tuple(_read_change(module, keys.changes[index], get) for index in range(len(keys.changes)))
    terms = _read_layer(module, tensors).terms if tensors else ()
    return Layer(terms, is_vector=names_vector(module), changes=changes)


def _read_change(module: str, tags: Mapping[str, Mapping[str, str]], get: Callable[[str], Tensor]) -> Change:
    (tag, keys), *others = tags.items()
    if others or tag not in CHANGES:
        raise AdapterError(f"expected one change of {', '.join(CHANGES)} under each number, found {', '.join(tags)}.")
    parts = {part: get(key) for part, key in keys.items() if "." not in part}
    scale, rows, kind = _read_numbers(parts)
    if tag == Dora.tag:
        change: Change = Dora.of(parts, kind, scale, _read_inner_layer(module, keys, get))
    else:
        change = CHANGES[tag].of(parts, kind, scale)
    return change if rows is None else change.in_rows(*rows)


def _read_inner_layer(module: str, keys: Mapping[str, str], get: Callable[[str], Tensor]) -> Layer:
    inner = {part: key for part, key in keys.items() if part.startswith("layer.")}
    try:
        (own,) = _group_keys(Path(module), inner, LeftOut(), inner).values()
    except (AdapterFileError, ValueError) as error:
        raise AdapterError("expected one change that its magnitudes are for.") from error
    return _read_any_layer(module, own, get)


def _read_numbers(parts: dict[str, Tensor]) -> tuple[float, tuple[int, int, int] | None, str]:
    """Scale, rows and kind, which are taken out of the parts.

    Raises:
        AdapterError: one is of another dtype or shape, or does not say such a thing.
    """
    scale, rows, kind = (parts.pop(name, None) for name in ("scale", "rows", "kind"))
    if scale is None or not scale.is_floating_point():
        raise AdapterError("scale: expected one number, floating.")
    if rows is not None and (rows.shape != (3,) or rows.dtype is not torch.int64 or not _are_rows(*rows.tolist())):
        raise AdapterError(f"rows: expected start, length and total, found {tuple(rows.shape)}, {rows.dtype}.")
    text = (
        "" if kind is None or kind.dtype is not torch.uint8 else bytes(kind.flatten().tolist()).decode(errors="replace")
    )
    if not text.isprintable() or not 0 < len(text) <= _LONGEST_KIND:
        raise AdapterError(f"kind: expected a name of up to {_LONGEST_KIND} letters.")
    return read_alpha(scale), None if rows is None else tuple(rows.tolist()), text


def _are_rows(start: int, length: int, total: int) -> bool:
    return 0 <= start < start + length <= total


def _group_keys(
    source: Path, keys: Iterable[str], left_out: LeftOut, key_of: Mapping[str, str] | None = None
) -> dict[str, _Keys]:
    """By module path.

    Args:
        key_of: the keys that stand in the file for these.
    """
    grouped: dict[str, _Keys] = {}
    unknown = []
    for key in keys:
        stored = key if key_of is None else key_of[key]
        if match := _CHANGE_KEY.match(key):
            changes = grouped.setdefault(match["path"], _Keys()).changes
            changes.setdefault(int(match["index"]), {}).setdefault(match["tag"], {})[match["rest"]] = stored
        elif match := _KEY.match(key):
            terms = grouped.setdefault(match["path"], _Keys()).terms
            terms.setdefault(int(match["index"] or 0), {})[_PART_NAMES[match["part"]]] = stored
        elif match := _QR_KEY.match(key):
            grouped.setdefault(match["path"], _Keys()).terms.setdefault(_QR, {})[match["part"]] = stored
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
        yield from _tensors_of(path, layer, dtype)


def _tensors_of(path: str, layer: Layer, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    if layer.variant == "qr":
        yield from _qr_tensors(path, layer, dtype)
        return
    yield from _term_tensors(path, layer, dtype)
    for index, change in enumerate(layer.changes):
        yield from _change_tensors(f"{path}.lora_change.{index}.{change.tag}", change, dtype)


def _change_tensors(stem: str, change: Change, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """In their own dtypes where they are exact in no other: rotations, norms and scales are about one."""
    for part, tensor in change.tensors().items():
        key = f"{stem}.{part}"
        yield key, rounded(key, tensor, dtype if change.is_sum else None)
    yield f"{stem}.scale", torch.tensor(change.scale, dtype=torch.float64)
    yield f"{stem}.kind", torch.tensor(list(change.kind.encode()), dtype=torch.uint8)
    if change.rows is not None:
        yield f"{stem}.rows", torch.tensor(change.rows)
    if isinstance(change, Dora):
        yield from _tensors_of(f"{stem}.layer", change.layer, dtype)


def _term_tensors(path: str, layer: Layer, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
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
