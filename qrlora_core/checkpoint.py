"""Read and write adapter files: safetensors in the published layout, with metadata."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .adapter import Layer, QRLoRA, Term
from .errors import AdapterError, AdapterFileError

FORMAT_VERSION = "1"
METADATA_PREFIX = "qr_lora."
_VERSION_KEY = f"{METADATA_PREFIX}format_version"
# Tensors of a training that goes on (see `training_state`), which an adapter does not need.
STATE_PREFIX = "training_state."
STATE_KEY = f"{METADATA_PREFIX}training_state"

# `{module}.lora.q.weight` as published; further terms of a layer are `{module}.lora.1.q.weight` and so on.
_KEY = re.compile(
    r"^(?P<path>.+)\.lora\.(?:(?P<index>[1-9]\d*)\.)?(?P<part>q\.weight|delta_r\.weight|base_r\.weight|alpha)$"
)
_PART_NAMES = {"q.weight": "q", "delta_r.weight": "delta_r", "base_r.weight": "base_r", "alpha": "alpha"}
# The variant `qr` trains Q as well: `{module}.lora_qr.*`, names that no reader of another layout takes for its own.
_QR_KEY = re.compile(r"^(?P<path>.+)\.lora_qr\.(?P<part>q|delta_q|delta_r|base_r|alpha)(?:\.weight)?$")
_QR = -1  # stands for the index of a term
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}


def save_adapter(
    adapter: QRLoRA,
    path: str | os.PathLike[str],
    *,
    format: str = "full",
    extra: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write an adapter file: to a temporary name first, then renamed, so that no half file is ever left.

    Keys per term (the published layout): ``{module}.lora.q.weight`` (out, rank), ``.delta_r.weight`` and
    ``.base_r.weight`` (rank, in), and ``.alpha``, a scalar that the published files lack. A layer of the variant
    ``qr``, ``scaling * ((Q + dQ) (R + dR) - Q R)``, is ``{module}.lora_qr.q.weight``, ``.delta_q.weight``,
    ``.delta_r.weight``, ``.base_r.weight`` and ``.alpha``.

    Args:
        adapter: what to save; tensors keep their dtype.
        path: where to; ends in ``.safetensors``. Folders are made.
        format: ``"full"``, the only one so far.
        extra: further tensors for the file, under names that start with `STATE_PREFIX`.

    Returns:
        The path of the file.

    Raises:
        AdapterFileError: unknown format or suffix, nothing to save, or the file cannot be written.
        AdapterError: NaN or infinity in the adapter.
    """
    target = Path(path)
    if format != "full":
        raise AdapterFileError(f"{target.name}: unknown format {format!r}; expected 'full'.")
    if target.suffix != ".safetensors":
        raise AdapterFileError(f"{target.name}: an adapter file ends in .safetensors.")
    if not adapter.layers:
        raise AdapterFileError(f"{target.name}: the adapter has no layers, so there is nothing to save.")
    adapter.require_finite()
    own = {"modelspec.title": target.stem, _VERSION_KEY: FORMAT_VERSION}
    metadata = {**adapter.metadata, **own}
    metadata.pop("name", None)  # a file is called what its path says
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_sibling(target) as temporary:
            temporary.touch(exist_ok=False)
            usual_mode = temporary.stat().st_mode
            tensors = dict(_tensors(adapter)) | dict(extra or {})
            save_file(tensors, temporary, metadata={"format": "pt", **metadata})
            temporary.chmod(usual_mode)  # safetensors leaves the file readable to its owner alone
            _flush(temporary)
            temporary.replace(target)
    except (OSError, SafetensorError) as error:
        raise AdapterFileError(
            f"{target}: cannot be written ({error}). Free some space or choose another folder."
        ) from error
    return target


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


def _tensors(adapter: QRLoRA) -> Iterator[tuple[str, Tensor]]:
    for path, layer in adapter.layers.items():
        if _is_qr(layer):
            yield from _qr_tensors(path, layer)
            continue
        for index, term in enumerate(layer.terms):
            stem = f"{path}.lora" if index == 0 else f"{path}.lora.{index}"
            # A clone each: safetensors refuses tensors that share memory, as a basis shared by layers does.
            yield f"{stem}.q.weight", _plain(term.q)
            yield f"{stem}.delta_r.weight", _plain(term.delta_r)
            if term.base_r is not None:
                yield f"{stem}.base_r.weight", _plain(term.base_r)
            yield f"{stem}.alpha", torch.tensor(term.alpha, dtype=torch.float64)


def _is_qr(layer: Layer) -> bool:
    """True for the two terms of the variant ``qr``: ``Q dR`` and ``dQ (R + dR)``."""
    if len(layer.terms) != 2 or layer.terms[0].base_r is None or layer.terms[1].base_r is not None:
        return False
    first, second = layer.terms
    same = first.alpha == second.alpha and first.delta_r.shape == second.delta_r.shape == layer.terms[0].base_r.shape
    trained_r = layer.terms[0].base_r + first.delta_r if same else first.delta_r
    return same and second.delta_r.dtype == trained_r.dtype and torch.equal(second.delta_r, trained_r)


def _qr_tensors(path: str, layer: Layer) -> Iterator[tuple[str, Tensor]]:
    first, second = layer.terms
    parts = {"q": first.q, "delta_q": second.q, "delta_r": first.delta_r, "base_r": first.base_r}
    for name, tensor in parts.items():
        if tensor is not None:
            yield f"{path}.lora_qr.{name}.weight", _plain(tensor)
    yield f"{path}.lora_qr.alpha", torch.tensor(first.alpha, dtype=torch.float64)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def load_adapter(path: str | os.PathLike[str]) -> QRLoRA:
    """Read an adapter file, ours or one in the published layout (where alpha = rank).

    Args:
        path: a ``.safetensors`` file.

    Returns:
        The adapter on the CPU in the file's dtypes; ``metadata["name"]`` is the file's name.

    Raises:
        AdapterFileError: the file is missing, damaged, of another kind, or its tensors do not fit together;
            the message names file and layer.
    """
    source = Path(path)
    try:
        _refuse_other_kinds(source)
        with safe_open(source, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            _refuse_newer(source, metadata)
            grouped = _group_keys(source, file.keys())
            layers = {
                module: _read_layer(
                    source,
                    module,
                    {i: {p: file.get_tensor(k) for p, k in parts.items()} for i, parts in terms.items()},
                )
                for module, terms in grouped.items()
            }
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise AdapterFileError(
            f"{source.name}: not a readable safetensors file ({error}). It is damaged, cut short, or of another "
            "kind; download or train it again."
        ) from error
    for name in ("format", STATE_KEY):
        metadata.pop(name, None)
    adapter = QRLoRA(layers, {**metadata, "name": source.name})
    try:
        adapter.require_finite()
    except AdapterError as error:
        raise AdapterFileError(f"{source.name}: {error}") from error
    return adapter


def _refuse_newer(source: Path, metadata: Mapping[str, str]) -> None:
    version = metadata.get(_VERSION_KEY, FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise AdapterFileError(
            f"{source.name}: format version {version!r}, expected {FORMAT_VERSION!r}. A newer ComfyUI QR-LoRA wrote "
            "it; update this one."
        )


def _refuse_other_kinds(source: Path) -> None:
    if not source.is_file():
        raise AdapterFileError(f"{source}: no such file. It was moved, renamed or deleted; choose another.")
    with source.open("rb") as file:
        start = file.read(9)
    # A safetensors header of 640 bytes starts like a pickle too; its ninth byte tells them apart.
    is_pickle = start.startswith(_PICKLE_MAGIC) and start[8:] != b"{"
    if source.suffix in _PICKLE_SUFFIXES or is_pickle:
        raise AdapterFileError(
            f"{source.name}: this is a pickle file, which can run code when opened, so it is never opened here. "
            "Convert it to safetensors with the tool that made it."
        )


def _group_keys(source: Path, keys: Iterable[str]) -> dict[str, dict[int, dict[str, str]]]:
    """module path -> index of the term, or `_QR` -> part -> key."""
    grouped: dict[str, dict[int, dict[str, str]]] = {}
    unknown = []
    for key in keys:
        if key.startswith(STATE_PREFIX):
            continue
        if match := _KEY.match(key):
            terms = grouped.setdefault(match["path"], {})
            terms.setdefault(int(match["index"] or 0), {})[_PART_NAMES[match["part"]]] = key
        elif match := _QR_KEY.match(key):
            grouped.setdefault(match["path"], {}).setdefault(_QR, {})[match["part"]] = key
        else:
            unknown.append(key)
    if unknown or not grouped:
        raise AdapterFileError(_explain_unknown(source, unknown))
    return grouped


def _explain_unknown(source: Path, keys: list[str]) -> str:
    expected = "expected keys like 'transformer.<module>.lora.q.weight' and '... .lora.delta_r.weight'"
    if any(key.endswith(".residual.weight") for key in keys):
        return f"{source.name}: this is the companion file of residuals, which is not needed; choose the adapter file."
    if any("lora_down" in key or "lora_A" in key or key.endswith(".down.weight") for key in keys):
        return (
            f"{source.name}: this is an ordinary LoRA, or a published QR-LoRA file of the variant `qr`, neither of "
            f"which can be loaded here yet ({expected}, found {keys[0]!r}). An ordinary LoRA loads with ComfyUI's "
            "own LoRA loader."
        )
    found = f"found {', '.join(map(repr, keys[:3]))}" if keys else "found no tensors"
    return f"{source.name}: not a QR-LoRA adapter: {expected}, {found}."


def _read_layer(source: Path, module: str, terms: Mapping[int, Mapping[str, Tensor]]) -> Layer:
    if _QR in terms and len(terms) > 1:
        raise AdapterFileError(
            f"{source.name}: layer {module}: expected keys of one kind, found both '.lora.' and '.lora_qr.'."
        )
    if _QR not in terms and sorted(terms) != list(range(len(terms))):
        raise AdapterFileError(
            f"{source.name}: layer {module}: terms {sorted(terms)} are not numbered from 0 without a gap."
        )
    try:
        if _QR in terms:
            return _read_qr_layer(terms[_QR])
        return Layer(tuple(_read_term(terms[index]) for index in range(len(terms))))
    except AdapterError as error:
        raise AdapterFileError(f"{source.name}: layer {module}: {error}") from error


def _read_qr_layer(parts: Mapping[str, Tensor]) -> Layer:
    """``scaling * (Q dR + dQ (R + dR))``, which is ``scaling * ((Q + dQ) (R + dR) - Q R)``."""
    _require_parts(parts, ("q", "delta_q", "delta_r", "base_r"))
    first = _read_term({name: tensor for name, tensor in parts.items() if name != "delta_q"})
    trained_r = parts["base_r"].reshape(first.delta_r.shape) + first.delta_r
    return Layer((first, Term(parts["delta_q"], trained_r, first.alpha)))


def _require_parts(parts: Mapping[str, Tensor], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in parts]
    if missing:
        expected = ", ".join(f"{name}.weight" for name in names[:-1])
        raise AdapterError(f"expected {expected} and {names[-1]}.weight, found no {' and no '.join(missing)}.")


def _read_term(parts: Mapping[str, Tensor]) -> Term:
    _require_parts(parts, ("q", "delta_r"))
    alpha = parts.get("alpha")
    if alpha is not None and alpha.numel() != 1:
        raise AdapterError(f"alpha: expected one number, found shape {tuple(alpha.shape)}.")
    if alpha is not None and not math.isfinite(float(alpha)):
        raise AdapterError(f"alpha: expected a finite number, found {float(alpha)}.")
    return Term(parts["q"], parts["delta_r"], math.nan if alpha is None else float(alpha), parts.get("base_r"))


def describe(
    *,
    base_model: str,
    architecture: str,
    rank: int,
    alpha: float,
    variant: str,
    training: Mapping[str, object],
    base_fingerprint: Mapping[str, str],
    triggers: str = "",
) -> dict[str, str]:
    """The metadata of a trained adapter, under our names and, as other tools show them, under ``modelspec.*``."""
    ours = {
        "base_model": base_model,
        "rank": str(rank),
        "alpha": f"{alpha:g}",
        "variant": variant,
        "triggers": triggers,
        "training": json.dumps(dict(training)),
        "base_fingerprint": json.dumps(dict(base_fingerprint)),
    }
    modelspec = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/qr-lora",
        "modelspec.implementation": "ComfyUI",
        "modelspec.trigger_phrase": triggers,
    }
    return {**{METADATA_PREFIX + key: value for key, value in ours.items()}, **modelspec}
