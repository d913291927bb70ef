"""What is trained: QR-LoRA in its variants, other choices of Q, ordinary LoRA and OLoRA, many adapters at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from benchmarks.evidence.base import Adapters, Factors

Slices = Mapping[str, Tensor]  # layer name to (slices, out, in)


class Trained(nn.Module):
    """Adapters in training: parameters with the number of the adapter in front, and the factors they give."""

    def factors(self) -> Adapters:
        """As `Base.with_adapters` takes them."""
        raise NotImplementedError


class _Fixed(nn.Module):
    """Tensors that go where the module goes, and are not trained."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        for number, tensor in enumerate(tensors):
            self.register_buffer(str(number), tensor)


class OnQ(Trained):
    """``W + Q dR`` with Q fixed (QR-LoRA, arXiv 2507.04599, eq. 5); `masked`: dR upper triangular, as published."""

    def __init__(self, q: Mapping[str, Tensor], slices: Slices, masked: bool) -> None:
        super().__init__()
        self._names, self._q = list(q), _Fixed(q.values())  # (adapters, slices, out, rank)
        shapes = [(*x.shape[:2], x.shape[-1], slices[name].shape[-1]) for name, x in q.items()]
        self.delta_r = nn.ParameterList([nn.Parameter(torch.zeros(shape)) for shape in shapes])
        self._masks = _Fixed(torch.ones(shape[2:]).triu() if masked else torch.ones(shape[2:]) for shape in shapes)

    def factors(self) -> Adapters:
        parts = zip(self._names, self._q.buffers(), self.delta_r, self._masks.buffers(), strict=True)
        return {name: Factors(q, delta_r * mask) for name, q, delta_r, mask in parts}


class TwoFactors(Trained):
    """``W + B A - B0 A0`` with both trained from B0, A0: LoRA where B0 is zero, else OLoRA or the variant qr."""

    def __init__(self, start: Adapters) -> None:
        super().__init__()
        self._names = list(start)
        moved = {name: f for name, f in start.items() if bool(f.up.any())}
        self._moved = list(moved)
        self._up, self._down = (_Fixed(getattr(f, part) for f in moved.values()) for part in ("up", "down"))
        self.b = nn.ParameterList([nn.Parameter(f.up.clone()) for f in start.values()])
        self.a = nn.ParameterList([nn.Parameter(f.down.clone()) for f in start.values()])

    def factors(self) -> Adapters:
        made = {name: Factors(b, a) for name, b, a in zip(self._names, self.b, self.a, strict=True)}
        for name, up, down in zip(self._moved, self._up.buffers(), self._down.buffers(), strict=True):
            made[name] = made[name].beside(Factors(-up, down))
        return made


# Weights of the slices, the adapters' roles (True for a style) and a seed, to adapters in training.
Make = Callable[[Slices, Tensor, int, int], Trained]


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        make: of slices, roles (adapters,), rank and seed.
        half_rank: ordinary LoRA at half the rank has about as many trained numbers as QR-LoRA.
    """

    name: str
    make: Make
    half_rank: bool = False

    def trained(self, slices: Slices, roles: Tensor, rank: int, seed: int) -> Trained:
        """Adapters ready to be trained."""
        return self.make(slices, roles, rank // 2 if self.half_rank else rank, seed)


@lru_cache(maxsize=64)
def _spectrum(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition of (slices, out, in), in float64; kept for the next method."""
    u, s, vh = torch.linalg.svd(weights.double(), full_matrices=False)
    return u, s, vh


def _q_of_core(weights: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Q, R of ``qr(U_c S_c V_c^T)`` for some singular triples, diag(R) positive (arXiv 2507.04599, section 3)."""
    u, s, vh = _spectrum(weights)
    q, r = torch.linalg.qr(s[:, columns, None] * vh[:, columns])
    signs = torch.where(torch.diagonal(r, dim1=-2, dim2=-1) < 0, -1.0, 1.0).double()
    return ((u[:, :, columns] @ q) * signs[:, None]).float(), (r * signs[..., None]).float()


def _each(q: Tensor, roles: Tensor) -> Tensor:
    return q.expand(len(roles), *q.shape)


def _top(masked: bool) -> Make:
    def make(slices: Slices, roles: Tensor, rank: int, seed: int) -> Trained:
        q = {name: _each(_q_of_core(weights, slice(0, rank))[0], roles) for name, weights in slices.items()}
        return OnQ(q, slices, masked)

    return make


def _bottom(slices: Slices, roles: Tensor, rank: int, seed: int) -> Trained:
    q = {name: _each(_q_of_core(w, slice(min(w.shape[1:]) - rank, None))[0], roles) for name, w in slices.items()}
    return OnQ(q, slices, masked=False)


def _random(slices: Slices, roles: Tensor, rank: int, seed: int) -> Trained:
    """One random Q for all adapters: as fixed as the published one, and of no spectrum."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    drawn = {name: torch.randn(*w.shape[:2], rank, generator=generator) for name, w in slices.items()}
    return OnQ({name: _each(torch.linalg.qr(x).Q, roles) for name, x in drawn.items()}, slices, masked=False)


def _disjoint(slices: Slices, roles: Tensor, rank: int, seed: int) -> Trained:
    """Contents on the first columns, styles on the next: their updates are orthogonal whatever is learned."""

    def q(weights: Tensor) -> Tensor:
        parts = torch.stack([_q_of_core(weights, slice(0, rank))[0], _q_of_core(weights, slice(rank, 2 * rank))[0]])
        return parts[roles.long()]

    return OnQ({name: q(weights) for name, weights in slices.items()}, slices, masked=False)


def _mirrored(slices: Slices, roles: Tensor, rank: int, seed: int) -> Trained:
    """As published, but for styles with the columns of Q in reverse order: their triangles are wide elsewhere."""

    def q(weights: Tensor) -> Tensor:
        top = _q_of_core(weights, slice(0, rank))[0]
        return torch.stack([top, top.flip(-1)])[roles.long()]

    return OnQ({name: q(weights) for name, weights in slices.items()}, slices, masked=True)


def _qr(slices: Slices, roles: Tensor, rank: int, seed: int) -> Trained:
    """The variant `qr`: Q and R of the core both trained."""
    start = {name: _q_of_core(weights, slice(0, rank)) for name, weights in slices.items()}
    return TwoFactors({name: Factors(_each(q, roles), _each(r, roles)) for name, (q, r) in start.items()})


def _olora(slices: Slices, roles: Tensor, rank: int, seed: int) -> Trained:
    """OLoRA (arXiv 2406.01775): the first columns of the plain QR of W, both factors trained."""
    start: Adapters = {}
    for name, weights in slices.items():
        q, r = torch.linalg.qr(weights.double())
        start[name] = Factors(_each(q[..., :rank].float(), roles), _each(r[..., :rank, :].float(), roles))
    return TwoFactors(start)


def _lora(slices: Slices, roles: Tensor, rank: int, seed: int) -> Trained:
    """Ordinary LoRA, alpha the rank: B zero, A as `kaiming_uniform_(a=sqrt(5))`."""
    generator = torch.Generator().manual_seed(20_000 + seed)
    start: Adapters = {}
    for name, weights in slices.items():
        count, out, inputs = weights.shape
        bound = 1 / math.sqrt(inputs)
        down = (torch.rand(len(roles), count, rank, inputs, generator=generator) * 2 - 1) * bound
        start[name] = Factors(torch.zeros(len(roles), count, out, rank), down)
    return TwoFactors(start)


METHODS = {
    method.name: method
    for method in (
        Method("qr_full", _top(masked=False)),
        Method("qr_triu", _top(masked=True)),
        Method("qr", _qr),
        Method("lora", _lora),
        Method("lora_half", _lora, half_rank=True),
        Method("olora", _olora),
        Method("q_random", _random),
        Method("q_bottom", _bottom),
        Method("q_mirrored", _mirrored),
        Method("q_disjoint", _disjoint),
    )
}
