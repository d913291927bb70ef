"""TIES: trim, elect signs, and keep what agrees, in a basis common to all adapters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..adapter import Layer, QRLoRA, Term
from ..errors import AdapterError
from .merge import Group, group_by_basis
from .spectrum import NEGLIGIBLE, orthonormal_columns


@dataclass(frozen=True, eq=False)
class _Vote:
    """One adapter's coefficients of one layer in the basis that all have in common there.

    Attributes:
        term: the term that the result becomes, but for its delta_r.
        tau: (rank, in) float64, ``scaling * delta_r``.
        kernel: shape of the weight but for its first dimension.
    """

    term: Term
    tau: Tensor
    kernel: tuple[int, ...]

    def layer(self, tau: Tensor) -> Layer:
        """The layer with other coefficients."""
        delta_r = (tau / self.term.scaling).float().reshape(self.term.rank, *self.kernel)
        return Layer((replace(self.term, delta_r=delta_r),))


def ties(adapters: Sequence[QRLoRA], scales: Sequence[float], *, density: float) -> list[QRLoRA]:
    """Trim small coefficients, let the adapters elect signs, and keep what agrees.

    TIES merging (Yadav et al., arXiv 2306.01708) of ``scale_i * tau_i``, where tau_i are the coefficients of adapter i
    in a basis common to all: per layer

    1. trim: tau_i keeps the share `density` of its entries, those largest in magnitude, the others are 0;
    2. elect: ``sign = sgn(sum_i scale_i tau_i)`` per entry, + where the sum is 0;
    3. disjoint mean: ``tau_i' = tau_i / n`` where ``sgn(scale_i tau_i) = sign``, else 0; n adapters agree there.

    `merge` at the same scales then gives the mean of the scaled coefficients that agree. The basis is the adapters' own
    where all terms of all of them share one (q, alpha and base_r are kept), else ``q r = qr([q_1 q_2 ...])`` of the
    different q's in order; there alpha is the rank, and an adapter's share `density` is of all ``k * in`` entries.

    Args:
        adapters: in the order of the merge.
        scales: one for each. An adapter at scale 0 has no vote and comes back as the same object.
        density: above 0 and up to 1. ``int(density * entries)`` are kept, as PEFT does.

    Returns:
        One adapter for each, with one term per layer, delta_r in float32.

    Raises:
        AdapterError: density out of range, another number of scales than of adapters, a scale that is not finite, or
            adapters that disagree on the shape of a layer.
    """
    if not 0 < density <= 1:
        raise AdapterError(f"ties: expected density above 0 and up to 1, found {density}.")
    if len(scales) != len(adapters):
        raise AdapterError(f"ties: expected one scale per adapter, {len(adapters)}, found {len(scales)}.")
    for adapter, scale in zip(adapters, scales, strict=True):
        if not math.isfinite(scale):
            raise AdapterError(f"{adapter.name}: expected a finite scale, found {scale}.")
    voters = [index for index, scale in enumerate(scales) if scale != 0]
    layers: dict[int, dict[str, Layer]] = {index: {} for index in voters}
    for path, groups in group_by_basis([adapters[index] for index in voters]).items():
        votes = {voters[source]: vote for source, vote in _in_common_basis(groups).items()}
        for index, layer in _elect(votes, scales, density).items():
            layers[index][path] = layer
    return [
        replace(adapter, layers=layers[index]) if index in layers else adapter for index, adapter in enumerate(adapters)
    ]


def _in_common_basis(groups: Sequence[Group]) -> dict[int, _Vote]:
    """Source to its vote, in the groups' one q or in an orthonormal basis of them all."""
    first = groups[0][0].term
    kernel, rank = tuple(first.delta_r.shape[1:]), first.rank
    if len(groups) == 1:
        blocks: Sequence[Tensor] = [torch.eye(rank, dtype=torch.float64, device=first.q.device)]
        common = None
    else:
        q, r = orthonormal_columns([group[0].term.q for group in groups])
        blocks = torch.split(r, [group[0].term.rank for group in groups], dim=1)
        common = Term(q.float(), first.delta_r.new_zeros(q.shape[1], *kernel))
    terms: dict[int, Term] = {}
    taus: dict[int, Tensor] = {}
    for group, block in zip(groups, blocks, strict=True):
        for member in group:
            # Coefficients of a term whose alpha is 0 are 0 in any scaling.
            own = member.term if member.term.alpha else replace(member.term, alpha=float(rank))
            terms.setdefault(member.source, common or own)
            tau = block @ (member.term.scaling * member.term.delta_r.flatten(1).to(block))
            taus[member.source] = taus[member.source] + tau if member.source in taus else tau
    if common:
        taus = {source: _without_rounding(tau) for source, tau in taus.items()}
    return {source: _Vote(term, taus[source], kernel) for source, term in terms.items()}


def _without_rounding(tau: Tensor) -> Tensor:
    """Zeros for what a change of basis left of zeros: a vote counts however small it is."""
    return torch.where(tau.abs() > NEGLIGIBLE * tau.abs().max(), tau, 0.0)


def _elect(votes: Mapping[int, _Vote], scales: Sequence[float], density: float) -> dict[int, Layer]:
    trimmed = {index: _trim(vote.tau, density) for index, vote in votes.items()}
    scaled = {index: scales[index] * tau for index, tau in trimmed.items()}
    total = torch.stack(list(scaled.values())).sum(0)
    sign = torch.where(total >= 0, 1.0, -1.0)
    agrees = {index: tau.sign() == sign for index, tau in scaled.items()}
    count = torch.stack(list(agrees.values())).sum(0).clamp_min(1)
    return {index: vote.layer(trimmed[index] * agrees[index] / count) for index, vote in votes.items()}


def _trim(tau: Tensor, density: float) -> Tensor:
    """The entries largest in magnitude, ``int(density * entries)`` of them, and 0 elsewhere."""
    kept = tau.abs().flatten().topk(int(density * tau.numel()), sorted=False).indices
    mask = torch.zeros_like(tau).flatten().index_fill(0, kept, 1.0)
    return tau * mask.reshape(tau.shape)
