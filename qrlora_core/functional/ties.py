"""TIES: trim, elect signs, and keep what agrees, in a basis common to all adapters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..adapter import Layer, QRLoRA
from ..errors import AdapterError
from ..term import Term, orthonormality_error
from .as_terms import as_terms
from .merge import Group, group_by_basis
from .spectrum import NEGLIGIBLE, orthonormal_columns

# Largest entry of ``|q^T q - I|`` in a basis that was rounded: 4e-4 in bfloat16.
_ROUNDED = 1e-2
# Weights of axes that differ by less, as a share of the largest, are equal: rounding must not choose among such axes.
_EVEN = 1e-8


@dataclass(frozen=True, eq=False)
class _Vote:
    """One adapter's coefficients of one layer in the basis that all have in common there.

    Attributes:
        term: the term that the result becomes, but for its delta_r.
        tau: (rank, in) float64, ``scaling * delta_r``.
    """

    term: Term
    tau: Tensor

    def layer(self, tau: Tensor) -> Layer:
        """The layer with other coefficients."""
        delta_r = (tau / self.term.scaling).float().reshape(self.term.rank, *self.term.delta_r.shape[1:])
        return Layer((replace(self.term, delta_r=delta_r),))


def ties(adapters: Sequence[QRLoRA], scales: Sequence[float], *, density: float) -> list[QRLoRA]:
    """Trim small coefficients, let the adapters elect signs, and keep what agrees.

    TIES merging (Yadav et al., arXiv 2306.01708, algorithm 1) of ``scale_i * tau_i``, where tau_i are the coefficients
    of adapter i in a basis common to all: per layer

    1. trim: tau_i keeps the share `density` of its entries, those largest in magnitude, the others are 0;
    2. elect: ``sign = sgn(sum_i scale_i tau_i)`` per entry; where they cancel, but for rounding, nothing is elected;
    3. disjoint mean: ``tau_i' = tau_i / n`` where ``sgn(scale_i tau_i) = sign``, else 0; n adapters agree there.

    `merge` at the same scales then gives the mean of the scaled coefficients that agree.

    The basis is the adapters' own where all terms of all of them share one q with orthonormal columns (q, alpha and
    base_r are kept). Else it is their common principal axes, by which neither their order, nor their scales and alphas,
    nor the way in which a delta is written as a product plays a part: the eigenvectors of

    ``sum_i delta_i delta_i^T / |delta_i|_F^2``

    whose eigenvalue is not 0, and among those of one eigenvalue the eigenvectors of ``diag(g)`` in their space, with
    g = ``torch.rand(out)`` of seed 0 in float64. There alpha is the number k of these axes, and an adapter's share
    `density` is of all ``k * in`` entries. (The vote of the paper, on the entries of the weight itself, has a result
    of full rank.)

    Args:
        adapters: in any order.
        scales: one for each. An adapter at scale 0 has no vote and comes back as the same object.
        density: above 0 and up to 1. ``int(density * entries)`` are kept, as PEFT does, and what equals the least.

    Returns:
        One adapter for each, with one term per layer, delta_r in float32.

    Raises:
        AdapterError: density out of range, another number of scales than of adapters, a scale that is not finite,
            adapters that disagree on the shape of a layer, or NaN or infinity in one.
    """
    _check(adapters, scales, density)
    voters = [index for index, scale in enumerate(scales) if scale != 0]
    adapters = [as_terms(own, "ties") if scale else own for own, scale in zip(adapters, scales, strict=True)]
    layers: dict[int, dict[str, Layer]] = {index: {} for index in voters}
    for path, groups in group_by_basis([adapters[index] for index in voters]).items():
        votes = {voters[source]: vote for source, vote in _in_common_basis(groups, path).items()}
        for index, layer in _elect(votes, scales, density).items():
            layers[index][path] = layer
    return [
        replace(adapter, layers=layers[index]) if index in layers else adapter for index, adapter in enumerate(adapters)
    ]


def _check(adapters: Sequence[QRLoRA], scales: Sequence[float], density: float) -> None:
    if not 0 < density <= 1:
        raise AdapterError(f"ties: expected density above 0 and up to 1, found {density}.")
    if len(scales) != len(adapters):
        raise AdapterError(f"ties: expected one scale per adapter, {len(adapters)}, found {len(scales)}.")
    for adapter, scale in zip(adapters, scales, strict=True):
        if not math.isfinite(scale):
            raise AdapterError(f"{adapter.name}: expected a finite scale, found {scale}.")


def _in_common_basis(groups: Sequence[Group], path: str) -> dict[int, _Vote]:
    """Source to its vote, in the groups' one q or along the axes that all have in common."""
    first = groups[0][0].term
    if len(groups) == 1 and orthonormality_error(first.q) < _ROUNDED:
        return _in_own_basis(groups[0])
    q, r = orthonormal_columns([group[0].term.q for group in groups])
    factors = _factors(groups, torch.split(r, [group[0].term.rank for group in groups], dim=1))
    axes = _common_axes(q, list(factors.values()), path)
    common = Term((q @ axes).float(), first.delta_r.new_zeros(axes.shape[1], *first.delta_r.shape[1:]))
    return {source: _Vote(common, (axes.T @ left) @ right) for source, (left, right) in factors.items()}


def _in_own_basis(group: Group) -> dict[int, _Vote]:
    votes: dict[int, _Vote] = {}
    for member in group:
        # Coefficients of a term whose alpha is 0 are 0 in any scaling.
        term = member.term if member.term.alpha else replace(member.term, alpha=float(member.term.rank))
        before = votes.get(member.source, _Vote(term, torch.zeros((), dtype=torch.float64, device=term.q.device)))
        tau = member.term.scaling * member.term.delta_r.flatten(1).double()
        votes[member.source] = replace(before, tau=before.tau + tau)
    return votes


def _factors(groups: Sequence[Group], blocks: Sequence[Tensor]) -> dict[int, tuple[Tensor, Tensor]]:
    """Source to (left, right) with ``delta = q @ left @ right``; blocks are the q's of the groups in the basis q."""
    lefts: dict[int, list[Tensor]] = {}
    rights: dict[int, list[Tensor]] = {}
    for group, block in zip(groups, blocks, strict=True):
        for member in group:
            lefts.setdefault(member.source, []).append(block)
            scaled = member.term.scaling * member.term.delta_r.flatten(1).to(block)
            rights.setdefault(member.source, []).append(scaled)
    return {source: (torch.cat(lefts[source], dim=1), torch.cat(rights[source])) for source in lefts}


def _common_axes(q: Tensor, factors: Sequence[tuple[Tensor, Tensor]], path: str) -> Tensor:
    """The axes that `ties` tells of, in the basis q: (columns of q, k)."""
    total = q.new_zeros(q.shape[1], q.shape[1])
    for left, right in factors:
        energies = left @ (right @ right.T) @ left.T
        total += energies / energies.trace().clamp_min(torch.finfo(energies.dtype).tiny)
    if not bool(torch.isfinite(total).all()):
        raise AdapterError(f"layer {path}: expected finite numbers, found NaN or infinity in an adapter.")
    values, vectors = torch.linalg.eigh(total)
    count = max(1, int((values > NEGLIGIBLE**2 * values[-1]).sum()))
    values, vectors = values[-count:], vectors[:, -count:]
    _, sizes = (values.diff(prepend=values[:1]) > _EVEN * values[-1]).cumsum(0).unique_consecutive(return_counts=True)
    return torch.cat([_told_apart(q, even) for even in vectors.split(sizes.tolist(), dim=1)], dim=1)


def _told_apart(q: Tensor, axes: Tensor) -> Tensor:
    """Axes of equal weight, in the basis q: as well any others in their space, of which this takes certain ones."""
    if axes.shape[1] == 1:
        return axes
    columns = q @ axes
    uneven = torch.rand(len(q), 1, dtype=q.dtype, generator=torch.Generator().manual_seed(0)).to(q.device)
    turned: Tensor = torch.linalg.eigh(columns.T @ (uneven * columns)).eigenvectors
    return axes @ turned


def _elect(votes: Mapping[int, _Vote], scales: Sequence[float], density: float) -> dict[int, Layer]:
    trimmed = {index: _trim(vote.tau, density) for index, vote in votes.items()}
    scaled = torch.stack([scales[index] * tau for index, tau in trimmed.items()])
    total = scaled.sum(0)
    sign = torch.where(total.abs() > NEGLIGIBLE * scaled.abs().sum(0), total.sign(), 0.0)
    agrees = (scaled.sign() == sign) & (sign != 0)
    share = agrees / agrees.sum(0).clamp_min(1)
    return {index: vote.layer(trimmed[index] * own) for (index, vote), own in zip(votes.items(), share, strict=True)}


def _trim(tau: Tensor, density: float) -> Tensor:
    """The entries largest in magnitude, ``int(density * entries)`` of them and what equals the least, else 0.

    Both but for rounding: entries of one size are no matter of chance, and what a change of basis leaves of zeros has
    no vote, however small that is.
    """
    size = tau.abs()
    count = int(density * tau.numel())
    least = size.flatten().kthvalue(tau.numel() - count + 1).values if count else math.inf
    return torch.where((size >= (1 - NEGLIGIBLE) * least) & (size > NEGLIGIBLE * size.max()), tau, 0.0)
