"""Match an adapter's layers with a model's, and say what fits before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...qrlora_core import AdapterError, QRLoRA, TargetError
from .key_map import KeyMap, Target
from .report import paths_as_text
from .weights import base_name


@dataclass(frozen=True)
class Match:
    """Which layers of an adapter a model has (``targets``) and which it lacks (``missing``)."""

    adapter: QRLoRA
    targets: dict[str, Target]
    missing: tuple[str, ...]


def match(patcher: Any, adapter: QRLoRA, key_map: KeyMap | None = None) -> Match:
    """Find the targets of all layers of an adapter.

    Raises:
        TargetError: no layer fits: the adapter is for another model.
        AdapterError: a layer has the name but not the shape of one of the model's.
    """
    key_map = key_map or KeyMap(patcher.model)
    found = {path: key_map.find(path) for path in adapter.layers}
    targets = {path: target for path, target in found.items() if target is not None}
    missing = tuple(path for path, target in found.items() if target is None)
    if adapter.layers and not targets:
        raise TargetError(_explain_no_fit(patcher, adapter))
    for path, target in targets.items():
        _check_shape(patcher, adapter, path, target)
    return Match(adapter, targets, missing)


def _check_shape(patcher: Any, adapter: QRLoRA, path: str, target: Target) -> None:
    found, expected = adapter.layers[path].shape, target.shape
    if found == expected or (len(expected) == 4 and found == (expected[0], expected[1] * expected[2] * expected[3])):
        return
    raise AdapterError(
        f"{adapter.name}: layer {path}: the model's weight is {expected}, the adapter is for {found}. "
        f"It was made for {_made_for(adapter)}, this model is {base_name(patcher)}; "
        "connect the model that it was made for."
    )


def _made_for(adapter: QRLoRA) -> str:
    return (
        adapter.metadata.get("qr_lora.base_model")
        or adapter.metadata.get("modelspec.architecture")
        or "an unnamed model"
    )


def _explain_no_fit(patcher: Any, adapter: QRLoRA) -> str:
    return (
        f"{adapter.name}: none of its {len(adapter.layers)} layers exist in this model. It was made for "
        f"{_made_for(adapter)} (layers such as {paths_as_text(adapter.layers, 2)}); this model is "
        f"{base_name(patcher)}. Connect the model that it was made for, or choose another adapter."
    )
