"""What everybody else needs to know of an adapter kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..adapter import Layer


@dataclass(frozen=True)
class Kind:
    """How the tensors of one layer in a file change its weight.

    ``.alpha`` is no part of a kind, nor are the magnitudes of DoRA: every layer may have them.

    Args:
        name: what users call it.
        part: (layer's name, part) of a key; None where the key is none of this kind.
        layer: from the layer's name, its tensors by part, and its alpha (NaN where nothing is told): the name that it
            gets, and the layer. None for a kind that is not served: files of it are refused by its name.
        ranked: the part whose first side is the rank; empty where a layer has none. A missing alpha is its rank then.
        beside: endings of keys that are parts of it where the layer has one that `part` knows, such as ``.weight``.
        is_vital: of a kind that is not served, whether the rest of a file is of no use without its layers.
        write: the tensors of a layer by how their keys end; None where the layer is not exactly one of this kind.
        notes: what is to be told of a layer with these parts, because other programs read it otherwise; empty: nothing.
    """

    name: str
    part: Callable[[str], tuple[str, str] | None]
    layer: Callable[[str, Mapping[str, Tensor], float], tuple[str, Layer]] | None = None
    ranked: str = ""
    beside: Mapping[str, str] = field(default_factory=dict)
    is_vital: bool = False
    write: Callable[[Layer], dict[str, Tensor] | None] = lambda layer: None
    notes: Callable[[Mapping[str, Tensor]], str] = lambda tensors: ""
