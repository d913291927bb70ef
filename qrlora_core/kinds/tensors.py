"""Checks of the tensors of one layer, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..adapter import Layer
from ..change import Change
from ..errors import AdapterError, Reason
from ..term import MOST_ENTRIES

_FLOATING = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
}  # fmt: skip


def require_parts(parts: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Raise `AdapterError` where a part is missing or is not floating."""
    missing = [name for name in names if name not in parts]
    if missing:
        raise AdapterError(f"expected {' and '.join(names)}, found no {' and no '.join(missing)}.")
    for name, tensor in parts.items():
        if name != "alpha" and tensor.dtype not in _FLOATING:
            raise AdapterError(f"{name}: expected a floating dtype, found {tensor.dtype}.", Reason.OTHER_KIND)


Kind_ = TypeVar("Kind_", bound=Change)


def lone_change(layer: Layer, kind: type[Kind_]) -> Kind_ | None:
    """The one change that a layer consists of, where it is of this class and for all rows."""
    if layer.terms or layer.is_vector or len(layer.changes) != 1:
        return None
    (change,) = layer.changes
    return change if isinstance(change, kind) and change.rows is None else None


def require_room(entries: int) -> None:
    """Refuse factors that would be multiplied out, as they are used, to more than any weight holds.

    Raises:
        AdapterError: see above.
    """
    if entries > MOST_ENTRIES:
        raise AdapterError(f"expected a product of at most {MOST_ENTRIES} entries, found {entries}.")
