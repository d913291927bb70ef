"""Load an adapter file of any kind, with what only a base model can give where the file needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import comfy.lora_convert

from ....qrlora_core import AdapterError, AdapterFileError, Origin, QRLoRA, load_adapter
from ....qrlora_core.functional.lora import subtract_cores
from ..model.bases import BaseModel, basis_store
from ..model.host_types import Patcher
from ..text import paths_as_text
from .stock_loader import advised_of, elsewhere

FILE_KINDS = ("auto", "published qr")


def load(path: Path, kind: str = FILE_KINDS[0], patcher: Patcher | None = None) -> QRLoRA:
    """The adapter in a file.

    Args:
        kind: ``published qr`` for the authors' files of the variant qr, whose factors replace the core.
        patcher: the base model; needed for that kind, and for a compact file whose bases are not on this machine.

    Raises:
        AdapterFileError: see `load_adapter`; or a kind that the file is not of, or that needs the model.
    """
    base = None if patcher is None else BaseModel(patcher)
    with advised_of(path), basis_store() as bases:
        adapter = load_adapter(
            path,
            bases=bases,
            rebuild=None if base is None else base.basis,
            rename=comfy.lora_convert.convert_lora,
            elsewhere=partial(elsewhere, path),
        )
    return adapter if kind == FILE_KINDS[0] else _as_published_qr(adapter, kind, base)


def _as_published_qr(adapter: QRLoRA, kind: str, base: BaseModel | None) -> QRLoRA:
    if kind not in FILE_KINDS:
        raise AdapterFileError(f"file_kind: expected one of {', '.join(FILE_KINDS)}, found {kind!r}.")
    if not adapter.origin.is_lora:
        raise AdapterFileError(
            f"{adapter.name}: file_kind published qr is for files with lora.up and lora.down, this one has Q and dR; "
            "set file_kind to auto."
        )
    if base is None:
        raise AdapterFileError(
            f"{adapter.name}: in a published file of the variant qr, factors replace the core of the base weights, so "
            "the model that it was trained on is needed: connect it to the input model of Load QR-LoRA."
        )
    lacking = [path for path, layer in adapter.layers.items() if not base.fits(path, layer)]
    if len(lacking) < len(adapter.layers):
        adapter = _without(adapter, lacking)
    try:
        whole = subtract_cores(adapter, base.factors)
    except AdapterError as error:
        raise AdapterFileError(f"{adapter.name}: {error}") from error
    return replace(whole, origin=Origin(not_loaded=adapter.origin.not_loaded))


def _without(adapter: QRLoRA, lacking: Sequence[str]) -> QRLoRA:
    """Without layers whose core the model cannot give."""
    if not lacking:
        return adapter
    told = f"{len(lacking)} layers that do not fit this model: {paths_as_text(lacking)}"
    told = "; ".join(filter(None, [adapter.origin.not_loaded, told]))
    layers = {path: layer for path, layer in adapter.layers.items() if path not in set(lacking)}
    return replace(adapter, layers=layers, origin=replace(adapter.origin, not_loaded=told))
