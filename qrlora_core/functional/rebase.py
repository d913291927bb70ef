"""Move adapters onto another basis, or down to a lower rank, and say what share of them survives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..adapter import Layer
from ..errors import AdapterError
from ..term import Term
from .decompose import Factors
from .spectrum import orthonormal_form, spectrum

# What float32 may lose where nothing is lost.
_ROUNDING = 1e-6
_WORST_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Rebased:
    """A layer in another form.

    Attributes:
        layer: the new layer, of one term.
        captured_energy: ``|new delta|_F^2 / |old delta|_F^2``, between 0 and 1; 1 for an all-zero delta.
        energy: ``|old delta|_F^2``.
    """

    layer: Layer
    captured_energy: float
    energy: float


def rebase_layer(layer: Layer, factors: Factors, *, name: str = "layer") -> Rebased:
    """Move a layer onto another basis: the closest delta whose columns that basis can hold.

    ``dR' = (1 / scaling') Q'^T delta``, which is ``(scaling / scaling') Q'^T Q dR`` for one term; then
    ``scaling' Q' dR' = Q' Q'^T delta`` is the orthogonal projection of the delta (method.md, QR-LoRA,
    arXiv 2507.04599).

    Args:
        layer: any number of terms; a convolution keeps the shape of its kernel.
        factors: basis of the base weight to move to, q (out, rank) orthonormal, base_r (rank, in).
        name: what error messages call the layer.

    Returns:
        `Rebased`: q and base_r are those of `factors`, delta_r is float32.

    Raises:
        AdapterError: a basis for a weight of another shape, a basis whose alpha is not positive, or NaN or
            infinity in the layer.
    """
    layer = layer.as_terms()
    _check_fit(layer, factors, name)
    q, d = orthonormal_form(layer, name=name)
    projected = (factors.q.to(d).T @ q) @ d
    energy, kept = _energy(d), _energy(projected)
    delta_r = (projected / factors.scaling).float().reshape(factors.rank, *layer.shape[1:])
    moved = layer.with_terms([Term(factors.q, delta_r, factors.alpha, factors.base_r)])
    return Rebased(moved, min(kept / energy, 1.0) if energy else 1.0, energy)


def _check_fit(layer: Layer, factors: Factors, name: str) -> None:
    expected = (layer.shape[0], math.prod(layer.shape[1:]))
    found = (factors.q.shape[0], math.prod(factors.base_r.shape[1:]))
    if found != expected:
        raise AdapterError(
            f"{name}: expected a basis of a weight of shape {expected}, found one of {found}. "
            "The adapter and the base were made for different models; choose the base that it was trained on."
        )
    if not (math.isfinite(factors.scaling) and factors.scaling > 0):
        raise AdapterError(f"{name}: expected a positive alpha of the basis, found {factors.alpha}. Decompose again.")


def _energy(entries: Tensor) -> float:
    """``|entries|_F^2``, which an orthonormal basis does not change."""
    return float(entries.square().sum())


def reduce_layer(layer: Layer, rank: int, *, name: str = "layer") -> Rebased:
    """The best approximation of a layer by one term of a given rank.

    ``delta' = U_r S_r V_r^T``, the leading singular triples of the delta, is the closest of all matrices of rank r in
    the Frobenius norm (Eckart and Young, 1936); ``q = U_r``, ``delta_r = S_r V_r^T``, ``alpha = rank``. In every column
    of q the entry that is largest in magnitude is positive.

    Args:
        layer: any number of terms, such as a merge over different bases; a convolution keeps the shape of its kernel.
        rank: at least 1. Above the rank that the layer can have, min(out, in, sum of its ranks), it is lowered to that.
        name: what error messages call the layer.

    Returns:
        `Rebased`: one term, float32, orthonormal q, no base_r.

    Raises:
        AdapterError: a rank that is not a whole number of at least 1, or NaN or infinity in the layer.
    """
    if not isinstance(rank, int) or rank < 1:
        raise AdapterError(f"{name}: expected a rank that is a whole number of at least 1, found {rank}.")
    layer = layer.as_terms()
    full = spectrum(layer, name=name)
    rank = min(rank, len(full.values))
    q = full.left[:, :rank]
    signs = q.gather(0, q.abs().argmax(0, keepdim=True)).sign()
    delta_r = (signs.T * full.rows[:rank]).float().reshape(rank, *layer.shape[1:])
    reduced = layer.with_terms([Term((signs * q).float(), delta_r, float(rank))])
    captured = _energy(full.values[:rank]) / full.energy if full.energy else 1.0
    return Rebased(reduced, min(captured, 1.0), full.energy)


def overall_energy(results: Iterable[Rebased]) -> float:
    """The captured share of an adapter, ``sum_i captured_i energy_i / sum_i energy_i``; 1 where there is no energy."""
    listed = list(results)
    total = math.fsum(result.energy for result in listed)
    captured = math.fsum(result.captured_energy * result.energy for result in listed)
    return min(captured / total, 1.0) if total else 1.0


def require_captured(name: str, rebased: Mapping[str, Rebased], minimum: float) -> None:
    """Refuse an adapter of which too little survives.

    Args:
        name: of the adapter, for the message.
        rebased: module path to its result.
        minimum: share of the energy that must be kept, 0 to 1. What float32 rounds off (1e-6) is not held against it.

    Raises:
        AdapterError: the share is below the minimum; the message lists the worst layers. A minimum outside 0 to 1.
    """
    if not 0 <= minimum <= 1:
        raise AdapterError(f"{name}: expected a minimum of captured energy from 0 to 1, found {minimum}.")
    overall = overall_energy(rebased.values())
    if overall >= minimum - _ROUNDING:
        return
    worst = sorted(rebased.items(), key=lambda item: item[1].captured_energy)
    listed = ", ".join(f"{path} {_percent(result.captured_energy)}" for path, result in worst[:_WORST_SHOWN])
    more = f" and {len(worst) - _WORST_SHOWN} more" if len(worst) > _WORST_SHOWN else ""
    raise AdapterError(
        f"{name}: the new basis holds {_percent(overall)} of the adapter's energy, expected at least "
        f"{_percent(minimum)}. Worst layers: {listed}{more}. Choose another base or a larger rank, lower the "
        "minimum, or keep the adapter's own basis."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
