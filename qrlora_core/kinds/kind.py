"""What everybody else needs to know of an adapter kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..adapter import Layer


@dataclass(frozen=True)
class Kind:
    """How the tensors of one layer in a file change its weight.

    ``.alpha`` is no part of a kind: every layer may have one.

    Args:
        name: what users call it.
        part: (layer's name, part) of a key; None where the key is none of this kind.
        layer: from the layer's name, its tensors by part, and its alpha (NaN where nothing is told, which stands for
            the rank): the name that it gets, and the layer as exact terms. None for a kind that has none: files of
            it are refused by its name.
        ranked: the part whose first side is the rank; empty where a layer has none.
    """

    name: str
    part: Callable[[str], tuple[str, str] | None]
    layer: Callable[[str, Mapping[str, Tensor], float], tuple[str, Layer]] | None = None
    ranked: str = ""
