"""NP-LoRA: keep other adapters off the principal input directions of a protected one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..adapter import QRLoRA
from ..errors import AdapterError
from ..term import Term
from .as_terms import as_terms
from .merge import group_by_basis
from .spectrum import Spectrum, spectrum


def null_space(adapters: Sequence[QRLoRA], protect: int, *, mu: float, energy: float = 0.9) -> list[QRLoRA]:
    """Take out of the other adapters what acts on the principal input directions of a protected one.

    ``delta' = delta (I - mu / (1 + mu) V_k V_k^T)``, the minimiser of ``|X - delta|_F^2 + mu |X V_k|_F^2`` (NP-LoRA,
    arXiv 2511.11051), where V_k holds the leading right singular vectors of the protected delta, as few as carry the
    share `energy` of its ``|delta|_F^2``. It acts on the input side, so that only delta_r changes:
    ``delta_r' = delta_r - mu / (1 + mu) (delta_r V_k) V_k^T`` for every term.

    Args:
        adapters: in the order of the merge.
        protect: index of the protected adapter; NP-LoRA protects the style.
        mu: 0 changes nothing, infinity takes the directions out altogether.
        energy: share above 0 and up to 1.

    Returns:
        One adapter for each. The protected one, all of them where mu is 0, and layers that the protected one does
        not have are the same objects. Of a changed term q, alpha and base_r are, and delta_r is float32.

    Raises:
        AdapterError: mu negative or NaN, energy or protect out of range, adapters that disagree on the shape of a
            layer, or NaN or infinity in the protected adapter.
    """
    if not (isinstance(protect, int) and 0 <= protect < len(adapters)):
        raise AdapterError(
            f"null_space: expected protect to be the index of one of {len(adapters)} adapters, from 0, found {protect}."
        )
    protected = adapters[protect]
    if not mu >= 0:
        raise AdapterError(f"null_space, protecting {protected.name}: expected mu of 0 or more, found {mu}.")
    if not 0 < energy <= 1:
        raise AdapterError(
            f"null_space, protecting {protected.name}: expected energy above 0 and up to 1, found {energy}."
        )
    group_by_basis(adapters)  # refuses adapters that do not fit together
    if mu == 0:
        return list(adapters)
    adapters = [as_terms(adapter, "null_space") for adapter in adapters]
    protected = adapters[protect]
    strength = 1.0 if math.isinf(mu) else mu / (1 + mu)
    others = [adapter for index, adapter in enumerate(adapters) if index != protect]
    directions = {
        path: _principal_inputs(spectrum(layer, name=f"{protected.name}: layer {path}"), energy)
        for path, layer in protected.layers.items()
        if any(path in other.layers for other in others)
    }
    return [
        adapter if index == protect else _project_out(adapter, directions, strength)
        for index, adapter in enumerate(adapters)
    ]


def _principal_inputs(protected: Spectrum, energy: float) -> Tensor:
    """V_k (in, k): the fewest leading right singular vectors that hold the share; none of an all-zero delta."""
    held = protected.values.square().cumsum(0)
    needed = int((held < energy * held[-1]).sum()) + 1
    return protected.right[:, :needed]


def _project_out(adapter: QRLoRA, directions: Mapping[str, Tensor], strength: float) -> QRLoRA:
    layers = {
        path: layer.with_terms(_without(term, directions[path], strength) for term in layer.terms)
        if path in directions
        else layer
        for path, layer in adapter.layers.items()
    }
    return replace(adapter, layers=layers)


def _without(term: Term, directions: Tensor, strength: float) -> Term:
    delta_r = term.delta_r.flatten(1).to(directions)
    delta_r = delta_r - strength * (delta_r @ directions) @ directions.T
    return replace(term, delta_r=delta_r.float().reshape(term.delta_r.shape))
