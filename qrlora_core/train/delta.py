"""What is trained of one layer, as a branch beside it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapter import Layer
from ..errors import TrainingError
from ..functional.decompose import Factors
from ..term import Term
from .trainable import Trainable

VARIANTS = ("triu", "full", "qr")


class TrainableDelta(Trainable):
    """The trained part of one layer (QR-LoRA, arXiv 2507.04599), which starts as zero.

    ``triu`` and ``full``: ``scaling * Q dR x`` with Q frozen. ``qr``, the published mode of fast convergence:
    Q and R are trained both, ``scaling * (Q' R' - Q R) x`` with ``Q' = Q + dQ`` and ``R' = R + dR``, computed as
    ``scaling * (Q dR + dQ R') x``, in which nothing cancels.

    Args:
        factors: Q and R of the frozen base weight.
        variant: ``"full"`` trains all of dR; ``"triu"`` keeps it upper triangular: the rank (rank - 1) / 2
            entries below the diagonal of its leading block stay zero, as in the published scripts; ``"qr"``.
        compute_dtype: dtype in which Q is kept for the products; what is trained is float32 always.
        device: where to train; by default where the factors are.
    """

    q: Tensor
    base_r: Tensor | None
    delta_q: torch.nn.Parameter | None

    def __init__(
        self,
        factors: Factors,
        *,
        variant: str = "triu",
        compute_dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise TrainingError(f"variant: expected one of {', '.join(VARIANTS)}, found {variant!r}.")
        device = device or factors.q.device
        self.factors, self.variant, self.rank = factors, variant, factors.rank
        self.register_buffer("q", factors.q.to(device, compute_dtype))
        self.delta_r = _zeros_like(factors.base_r, device)
        trains_q = variant == "qr"
        self.register_buffer("base_r", factors.base_r.to(device) if trains_q else None)
        self.delta_q = _zeros_like(factors.q, device) if trains_q else None
        if variant == "triu":
            # AdamW leaves an entry at zero whose gradient was always zero.
            self.delta_r.register_hook(torch.triu)

    def up(self) -> Tensor:
        """(out, rank): Q, or (out, 2 rank): ``[Q dQ]``."""
        return self.q if self.delta_q is None else torch.cat([self.q, self.delta_q.to(self.q.dtype)], dim=1)

    def down(self) -> Tensor:
        """(rank, in) float32: ``scaling * dR``, or (2 rank, in): that above ``scaling * R'``."""
        rows = self.delta_r if self.base_r is None else torch.cat([self.delta_r, self.base_r + self.delta_r])
        return rows if self.factors.scaling == 1.0 else rows * self.factors.scaling

    def _layer_of(self, values: Mapping[str, Tensor]) -> Layer:
        q, base_r, delta_r = self.factors.q.cpu(), self.factors.base_r.cpu(), values["delta_r"]
        first = Term(q, delta_r, self.factors.alpha, base_r)
        if "delta_q" not in values:
            return Layer((first,))
        return Layer((first, Term(values["delta_q"], base_r + delta_r, self.factors.alpha)), variant="qr")


def _zeros_like(tensor: Tensor, device: torch.device) -> torch.nn.Parameter:
    """Contiguous, as it comes back from a checkpoint: the fused optimizers need one layout in all their tensors."""
    return torch.nn.Parameter(torch.zeros_like(tensor, device=device, memory_format=torch.contiguous_format))
