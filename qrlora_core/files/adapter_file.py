"""Read and write adapter files: safetensors in the published layout, with metadata, or in another."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import QRLoRA
from ..errors import AdapterError, AdapterFileError
from ..metadata import ARCHITECTURE, FORMAT_VERSION, METADATA_PREFIX, VERSION_KEY
from ..term import is_finite
from . import compact, lora
from .basis_store import BasisStore
from .formats import Contents, Wanted, format_named, read_contents
from .left_out import Elsewhere, LeftOut
from .safetensors_io import reading, shown, write
from .saved_metadata import told_of

# Tensors of a training that goes on (see `training_state`), which an adapter does not need.
STATE_PREFIX = "training_state."
STATE_KEY = f"{METADATA_PREFIX}training_state"
_LONGEST_NAME = 500


def save_adapter(
    adapter: QRLoRA,
    path: str | os.PathLike[str],
    *,
    format: str = "full",
    dtype: torch.dtype | None = None,
    bases: BasisStore | None = None,
    extra: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write an adapter file: to a temporary name first, then renamed, so that no half file is ever left.

    ``full`` keys per term (the published layout): ``{module}.lora.q.weight`` (out, rank), ``.delta_r.weight`` and
    ``.base_r.weight`` (rank, in), and ``.alpha``, a scalar that the published files lack. A layer of the variant
    ``qr``, ``scaling * ((Q + dQ) (R + dR) - Q R)``, is ``{module}.lora_qr.q.weight``, ``.delta_q.weight``,
    ``.delta_r.weight``, ``.base_r.weight`` and ``.alpha``. ``compact`` and ``lora``: see `files.compact` and
    `files.lora`.

    Args:
        adapter: what to save.
        path: where to; ends in ``.safetensors``. Folders are made.
        format: ``full``, all of it; ``compact``, dR and a sketch of the basis, which goes to ``bases``; ``lora``, an
            ordinary LoRA with the same deltas, for every other tool.
        dtype: of what is written. None keeps that of the tensors (``compact``: float16, ``lora``: float32).
            ``full`` leaves q in its own, so that adapters go on sharing it.
        bases: where ``compact`` keeps bases.
        extra: further tensors for the file, under names that start with `STATE_PREFIX`.

    Returns:
        The path of the file.

    Raises:
        AdapterFileError: unknown format or suffix, nothing to save, or the file cannot be written.
        AdapterError: NaN or infinity in the adapter, also after rounding, or a layer that the format cannot hold.
    """
    target = Path(path)
    chosen = format_named(format, target.name)
    if not adapter.layers:
        raise AdapterFileError(f"{target.name}: the adapter has no layers, so there is nothing to save.")
    adapter.require_finite()
    tensors = dict(chosen.write(adapter, Wanted(dtype, bases)))
    _require_finite(tensors)
    metadata = chosen.metadata(adapter, told_of(adapter, target.stem))
    write(target, tensors | dict(extra or {}), metadata, hashed=chosen.hashed)
    return target


def _require_finite(tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if not is_finite(tensor):
            raise AdapterError(f"{key}: a number does not fit into {tensor.dtype}; choose bfloat16 or float32.")


def load_adapter(
    path: str | os.PathLike[str],
    *,
    bases: BasisStore | None = None,
    rebuild: compact.Rebuild | None = None,
    rename: lora.Rename | None = None,
    elsewhere: Elsewhere | None = None,
) -> QRLoRA:
    """Read an adapter file: ours in any format, one in the published layout, or an ordinary LoRA.

    Args:
        path: a ``.safetensors`` file.
        bases: where to find the bases of a compact file.
        rebuild: gives the basis of a layer at a rank where ``bases`` does not have it.
        rename: applied to the tensors of an ordinary LoRA, for names that only a host knows.
        elsewhere: tells what another program makes of layers of other kinds, which are left out here.

    Returns:
        The adapter on the CPU, in the file's dtypes; ``name`` is the file's name. Nothing is decomposed: the factors
        of an ordinary LoRA are its terms as they stand, see `functional.lora.from_lora`. Single layers and
        tensors that cannot be read are not in it; ``origin.not_loaded`` names them.

    Raises:
        AdapterFileError: the file is missing, damaged or of another kind, or hardly anything of it can be read; the
            message names file and layer.
    """
    source = Path(path)
    with reading(source) as file:
        metadata, names = file.metadata(), file.keys()
        _refuse_newer(source, metadata)
        left_out = LeftOut()
        keys = _readable(source, [name for name in names if not name.startswith(STATE_PREFIX)], left_out)
        file.expect(keys)
        contents = Contents(source, keys, file.get_tensor, file.stand_in, metadata, bases, rebuild, rename, left_out)
        adapter = read_contents(contents, elsewhere)
    kept = {key: value for key, value in adapter.metadata.items() if key not in ("format", STATE_KEY)}
    return replace(adapter, metadata=kept, name=source.name)


def _refuse_newer(source: Path, metadata: Mapping[str, str]) -> None:
    version = metadata.get(VERSION_KEY, FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise AdapterFileError(
            f"{source.name}: format version {version[:20]!r}, expected {FORMAT_VERSION!r}. A newer ComfyUI QR-LoRA "
            "wrote it; update this one."
        )


def _readable(source: Path, names: list[str], left_out: LeftOut) -> list[str]:
    """Names that reports and logs can show; no module of any model has one that they cannot.

    Raises:
        AdapterFileError: none is.
    """
    readable = [name for name in names if len(name) <= _LONGEST_NAME and name.isprintable()]
    unreadable = {*names}.difference(readable)
    if unreadable and not readable:
        raise AdapterFileError(
            f"{source.name}: the name of a tensor is too long or cannot be shown: '{shown(min(unreadable))}'. The file "
            "is damaged, or made to mislead; download it again from a source that you trust."
        )
    left_out.tensors += sorted(unreadable)
    return readable


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
        ARCHITECTURE: f"{architecture}/qr-lora",
        "modelspec.implementation": "ComfyUI",
        "modelspec.trigger_phrase": triggers,
    }
    return {**{METADATA_PREFIX + key: value for key, value in ours.items()}, **modelspec}
