"""IA3: ``W' = W (1 + diag(weight))`` of a layer's inputs or outputs (arXiv 2205.05638, as LyCORIS has it).

ComfyUI has no loader for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapter import Layer
from ..changes.scales import ColumnScale, RowScale
from ..errors import AdapterError
from .keys import endings
from .kind import Kind
from .tensors import lone_change


def _layer(name: str, tensors: Mapping[str, Tensor], _alpha: float) -> tuple[str, Layer]:
    values, on_input = tensors.get("weight"), tensors["on_input"]
    is_told = on_input.numel() == 1 and float(on_input) in (0.0, 1.0)
    if values is None or values.numel() != max(values.shape, default=0) or not is_told:
        found = "none" if values is None else str(tuple(values.shape))
        raise AdapterError(f"expected weight as a vector beside on_input, 0 or 1, found {found}.")
    own = ColumnScale if bool(on_input) else RowScale
    return name, Layer((), changes=(own.of({"values": values.flatten()}, IA3.name, 1.0),))


def _tensors(layer: Layer) -> dict[str, Tensor] | None:
    change = lone_change(layer, RowScale) or lone_change(layer, ColumnScale)
    if change is None:
        return None
    return {
        "weight": change.scale * change.values.float(),
        "on_input": torch.tensor(int(change.tag == ColumnScale.tag)),
    }


IA3 = Kind(
    "IA3",
    endings(("on_input",)),
    _layer,
    beside={".weight": "weight"},
    write=_tensors,
    notes=lambda tensors: "IA3, which ComfyUI's own loader does not know",
)
