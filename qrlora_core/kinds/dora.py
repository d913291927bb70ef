"""DoRA: the rows or columns of a weight with its change, brought to stored norms; beside the keys of most other kinds.

``dora_scale`` (1, in) or (out, 1), with ones for a kernel, is LyCORIS's, OneTrainer's and ComfyUI's; PEFT writes
``lora_magnitude_vector`` (out,). The equations are in `changes.dora`. By rows ComfyUI divides ``dora_scale`` by the
norms of the base weight alone, where trainers divide by those of the sum: what ComfyUI makes of a file is kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from ..adapter import Layer
from ..changes.dora import Dora, Norms
from ..errors import AdapterError
from .tensors import lone_change

_KEY = re.compile(r"^(?P<layer>.+)\.(?P<part>dora_scale|lora_magnitude_vector)(?:\.(?!bias$)[^.]+)?(?:\.weight)?$")
PARTS = ("dora_scale", "lora_magnitude_vector")
NAME = "DoRA"


def part_of(key: str) -> tuple[str, str] | None:
    """(layer's name, part) of a key."""
    match = _KEY.match(key)
    return (match["layer"], match["part"]) if match else None


def with_magnitudes(layer: Layer, tensors: Mapping[str, Tensor], kind: str) -> Layer:
    """The layer, brought to the norms that are among these parts, if there are any.

    Raises:
        AdapterError: norms of a kind that is none of a sum, or of another shape.
    """
    found = next((part for part in PARTS if part in tensors), None)
    if found is None:
        return layer
    if layer.contains_base or layer.is_vector:
        raise AdapterError(f"expected {NAME} of a LoRA, LoKr or LoHa, found it of {kind}.")
    magnitude = tensors[found]
    norms = Norms.ROWS if found == "lora_magnitude_vector" else _norms(magnitude, layer)
    change = Dora.of({norms.value: magnitude}, name_of(kind, tensors), 1.0, layer)
    return Layer((), changes=(change,))


def name_of(kind: str, parts: Collection[str]) -> str:
    """What a layer of a kind is called, with or without norms among its parts."""
    if not any(part in parts for part in PARTS):
        return kind
    return NAME if kind == "LoRA" else f"{NAME} of a {kind}"


def _norms(magnitude: Tensor, layer: Layer) -> Norms:
    if magnitude.ndim < 2 or magnitude.numel() != max(magnitude.shape):
        raise AdapterError(f"dora_scale: expected (1, in) or (out, 1), found {tuple(magnitude.shape)}.")
    return Norms.ROWS_OF_BASE if magnitude.shape[0] == layer.shape[0] else Norms.COLUMNS


def magnitudes_of(layer: Layer) -> tuple[Layer, dict[str, Tensor]] | None:
    """What is brought to norms, and the tensors of these by how their keys end; None where that is not all it is."""
    change = lone_change(layer, Dora)
    if change is None or change.scale != 1:
        return None
    name = "lora_magnitude_vector" if change.norms is Norms.ROWS else "dora_scale"
    return change.layer, {name: change.magnitude.float()}


def notes(tensors: Mapping[str, Tensor]) -> str:
    """See `Kind`."""
    if "lora_magnitude_vector" in tensors:
        return "DoRA of PEFT, whose norms ComfyUI's own loader leaves out"
    rows = tensors.get("dora_scale")
    is_by_rows = rows is not None and rows.ndim > 1 and rows.shape[0] > 1
    return (
        "DoRA by rows, divided by the norms of the base weight alone, as ComfyUI does and trainers do not"
        if is_by_rows
        else ""
    )
