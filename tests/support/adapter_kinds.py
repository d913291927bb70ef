"""Layers of every kind of adapter as files have them, at random, and beside each its published equation in float64.

``made(kind, shape, seed)`` gives one: its tensors, by what stands in a file behind the layer's name and a dot, and
``new_weight``, the weight W' that the kind's authors make of a weight W. The equations are written down from the papers
and from LyCORIS' documentation, not from our code, and are slow and literal on purpose: whole matrices, loops over
places. ``kinds_for(shape)`` lists what fits a weight; ``KINDS`` tells more of each. Torch alone is needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]
Equation = Callable[[Tensor], Tensor]

RANK = 2


@dataclass(frozen=True)
class Made:
    """One layer.

    Attributes:
        tensors: by the end of their keys, without the dot before it.
        new_weight: W' from W, both float64 of the weight's shape.
    """

    tensors: Mapping[str, Tensor]
    new_weight: Equation

    def keyed(self, layer: str) -> dict[str, Tensor]:
        """The tensors by key, for a layer of this name."""
        return {f"{layer}.{ending}": tensor for ending, tensor in self.tensors.items()}

    def effect(self, weight: Tensor) -> Tensor:
        """``W' - W`` in float64."""
        return self.new_weight(weight.double()) - weight.double()


class Numbers:
    """Seeded normal numbers of one dtype."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._dtype = dtype

    def __call__(self, *shape: int, size: float = 1.0, around: float = 0.0) -> Tensor:
        return (around + size * torch.randn(*shape, generator=self._generator)).to(self._dtype)

    def alpha(self) -> Tensor:
        """Between 0.5 and 3.5."""
        return (0.5 + 3 * torch.rand((), generator=self._generator)).float()


@dataclass(frozen=True)
class Kind:
    """How layers of a kind are made.

    Args:
        name: what users call it, as reports do.
        make: for a weight's shape.
        fits: the shapes for which there is one.
        is_sum: whether ``W' - W`` is the same for every W.
        in_stock: whether ComfyUI's own loader makes the same of it at strength 1.
    """

    name: str
    make: Callable[[Shape, Numbers], Made]
    fits: Callable[[Shape], bool]
    is_sum: bool = True
    in_stock: bool = True


def made(kind: str, shape: Shape, seed: int, dtype: torch.dtype = torch.float32) -> Made:
    """A layer of one of `KINDS` for a weight of this shape; ``dtype`` is that of its tensors in the file."""
    return KINDS[kind].make(shape, Numbers(seed, dtype))


def kinds_for(shape: Shape) -> list[str]:
    """The names of all kinds that there are for a weight of this shape."""
    return [name for name, kind in KINDS.items() if kind.fits(shape)]


def _is_vector(shape: Shape) -> bool:
    return len(shape) == 1


def _is_weight(shape: Shape) -> bool:
    return len(shape) >= 2


def _is_linear(shape: Shape) -> bool:
    return len(shape) == 2


def _is_convolution(shape: Shape) -> bool:
    return len(shape) > 2


def _is_even(shape: Shape) -> bool:
    return len(shape) >= 2 and shape[0] % 8 == 0


def _ones(shape: Shape) -> Shape:
    """The kernel of one that factors of a convolution have."""
    return (1,) * (len(shape) - 2)


def _added(delta: Tensor) -> Equation:
    """``W' = W + D``."""
    return lambda weight: weight + delta.reshape(weight.shape)


# LoRA (arXiv 2106.09685): W' = W + alpha / rank B A; Tucker: the core between them.


def _lora(shape: Shape, draw: Numbers) -> Made:
    out, inner, *kernel = shape
    up, down, alpha = draw(out, RANK, *_ones(shape), size=0.3), draw(RANK, inner, *kernel), draw.alpha()
    delta = alpha.double() / RANK * up.double().reshape(out, RANK) @ down.double().reshape(RANK, -1)
    return Made({"lora_up.weight": up, "lora_down.weight": down, "alpha": alpha}, _added(delta))


def _lora_tucker(shape: Shape, draw: Numbers) -> Made:
    out, inner, *kernel = shape
    up, down = draw(out, RANK, *_ones(shape), size=0.3), draw(RANK, inner, *_ones(shape))
    mid, alpha = draw(RANK, RANK, *kernel), draw.alpha()
    delta = _tucker(mid, up.reshape(out, RANK).T, down.reshape(RANK, inner))
    tensors = {"lora_up.weight": up, "lora_mid.weight": mid, "lora_down.weight": down, "alpha": alpha}
    return Made(tensors, _added(alpha.double() / RANK * delta))


def _tucker(core: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """``sum_ij first[i, o] core[i, j, ...] second[j, n]``, place by place of the kernel."""
    places = itertools.product(*(range(side) for side in core.shape[2:]))
    own, left, right = core.double(), first.double(), second.double()
    parts = [left.T @ own[(slice(None), slice(None), *place)] @ right for place in places]
    return torch.stack(parts, dim=-1).reshape(left.shape[1], right.shape[1], *core.shape[2:])


# LoKr (LyCORIS, arXiv 2309.14859): W' = W + alpha / rank w1 x w2, where alpha counts if one of the two is a product.


def _split(side: int, largest: int) -> tuple[int, int]:
    """A side as two factors, the first the largest divisor up to this."""
    first = max(count for count in range(1, largest + 1) if side % count == 0)
    return first, side // first


@dataclass(frozen=True)
class _LoKr:
    """Args: left, right: ``whole``, ``product``, ``kernel`` (a product with the kernel apart) or ``tucker``.

    largest: of the first factor; the square root of a side where it is 0. swapped: the larger one first, of outputs.
    """

    left: str = "whole"
    right: str = "whole"
    largest: int = 0
    swapped: bool = False

    def __call__(self, shape: Shape, draw: Numbers) -> Made:
        (a, c), (b, d) = (_split(side, self.largest or math.isqrt(side)) for side in shape[:2])
        a, c = (c, a) if self.swapped else (a, c)
        alpha = draw.alpha()
        left, w1 = self._left(a, b, draw)
        right, w2 = self._right(c, d, shape[2:], draw)
        scaling = 1.0 if self.left == self.right == "whole" else float(alpha) / RANK
        w1 = w1.reshape(a, b, *(1 for _ in w2.shape[2:]))
        return Made({**left, **right, "alpha": alpha}, _added(scaling * torch.kron(w1, w2)))

    def _left(self, a: int, b: int, draw: Numbers) -> tuple[dict[str, Tensor], Tensor]:
        if self.left == "whole":
            whole = draw(a, b)
            return {"lokr_w1": whole}, whole.double()
        first, second = draw(a, RANK), draw(RANK, b)
        return {"lokr_w1_a": first, "lokr_w1_b": second}, first.double() @ second.double()

    def _right(self, c: int, d: int, kernel: Shape, draw: Numbers) -> tuple[dict[str, Tensor], Tensor]:
        if self.right == "whole":
            whole = draw(c, d, *kernel, size=0.3)
            return {"lokr_w2": whole}, whole.double()
        if self.right == "tucker":
            core, first, second = draw(RANK, RANK, *kernel), draw(RANK, c, size=0.3), draw(RANK, d)
            return {"lokr_t2": core, "lokr_w2_a": first, "lokr_w2_b": second}, _tucker(core, first, second)
        sides = (d, *kernel) if self.right == "kernel" else (d * math.prod(kernel),)
        first, second = draw(c, RANK, size=0.3), draw(RANK, *sides)
        whole = (first.double() @ second.double().reshape(RANK, -1)).reshape(c, d, *kernel)
        return {"lokr_w2_a": first, "lokr_w2_b": second}, whole


# LoHa (FedPara, arXiv 2108.06098): W' = W + alpha / rank (w1_a w1_b) o (w2_a w2_b), entry by entry.


@dataclass(frozen=True)
class _LoHa:
    """Args: is_large: of a rank whose square is more than the weight has. is_tucker: each side with a core."""

    is_large: bool = False
    is_tucker: bool = False

    def __call__(self, shape: Shape, draw: Numbers) -> Made:
        out, inner, *kernel = shape
        rank = max(out, inner) if self.is_large else RANK
        tensors, whole = {"alpha": draw.alpha()}, []
        for number in "12":
            first, second = f"hada_w{number}_a", f"hada_w{number}_b"
            if self.is_tucker:
                core = tensors[f"hada_t{number}"] = draw(rank, rank, *kernel)
                tensors |= {first: draw(rank, out, size=0.3), second: draw(rank, inner)}
                whole.append(_tucker(core, tensors[first], tensors[second]))
            else:
                tensors |= {first: draw(out, rank, size=0.3), second: draw(rank, inner * math.prod(kernel))}
                whole.append(tensors[first].double() @ tensors[second].double())
        return Made(tensors, _added(tensors["alpha"].double() / rank * whole[0] * whole[1]))


# DoRA (arXiv 2402.09353): W' = m (W + D) / |W + D|, with norms of columns (LyCORIS) or of rows (PEFT).


def _dora_by_column(of: Callable[[Shape, Numbers], Made]) -> Callable[[Shape, Numbers], Made]:
    """``dora_scale`` (1, in, ...): each column, with all places of a kernel, gets its norm."""

    def make(shape: Shape, draw: Numbers) -> Made:
        inner = of(shape, draw)
        scale = draw(1, shape[1], *_ones(shape), size=0.3, around=2.0)

        def new_weight(weight: Tensor) -> Tensor:
            changed, result = inner.new_weight(weight), torch.empty_like(weight)
            for column in range(shape[1]):
                norm = torch.linalg.vector_norm(changed[:, column])
                result[:, column] = scale.double().flatten()[column] * changed[:, column] / norm
            return result

        return Made({**inner.tensors, "dora_scale": scale}, new_weight)

    return make


def _dora_by_row(of: Callable[[Shape, Numbers], Made], ending: str) -> Callable[[Shape, Numbers], Made]:
    """Each row, which is all that leads to an output, gets its norm.

    ``dora_scale`` (out, 1, ...) is divided by the norms of W alone, as ComfyUI does (`weight_decompose` there); the
    paper, PEFT's ``lora_magnitude_vector`` (out,), divides by those of W + D.
    """
    is_over_base = ending == "dora_scale"

    def make(shape: Shape, draw: Numbers) -> Made:
        inner = of(shape, draw)
        sides = (shape[0], 1, *_ones(shape)) if is_over_base else (shape[0],)
        scale = draw(*sides, size=0.3, around=2.0)

        def new_weight(weight: Tensor) -> Tensor:
            changed = inner.new_weight(weight)
            divided = weight if is_over_base else changed
            factors = [float(m) / float(row.norm()) for m, row in zip(scale.double().flatten(), divided, strict=True)]
            return torch.stack([factor * row for factor, row in zip(factors, changed, strict=True)])

        return Made({**inner.tensors, ending: scale}, new_weight)

    return make


def _peft_lora(shape: Shape, draw: Numbers) -> Made:
    """Without alpha, which stands in PEFT's settings."""
    lora = _lora(shape, draw)
    up, down = (lora.tensors[f"lora_{name}.weight"] for name in ("up", "down"))
    delta = up.double().reshape(shape[0], RANK) @ down.double().reshape(RANK, -1)
    return Made({"lora_A.weight": down, "lora_B.weight": up}, _added(delta))


# OFT (arXiv 2306.07280), BOFT (arXiv 2311.06243), as LyCORIS has them: rotations by the Cayley transform.


def _rotation(block: Tensor, shortened: float) -> Tensor:
    """``R = (I + Q) (I - Q)^-1`` with ``Q = B - B^T``."""
    Q = shortened * (block.double() - block.double().T)
    identity = torch.eye(len(Q), dtype=torch.float64)
    return (identity + Q) @ torch.linalg.inv(identity - Q)


def _shortening(blocks: Tensor, constraint: Tensor | None) -> float:
    """ComfyUI's: alpha bounds the length of the Q of all blocks together; 0 and none bound nothing."""
    skew = blocks.double() - blocks.double().transpose(-1, -2)
    length = math.sqrt(float(skew.square().sum())) + 1e-8
    limit = 0.0 if constraint is None else float(constraint)
    return limit / length if 0 < limit < length else 1.0


@dataclass(frozen=True)
class _Rotated:
    """Args: size: of a block. stages: 0 for OFT. alpha: None where the file has none. is_rescaled: each output."""

    size: int
    stages: int = 0
    alpha: float | None = None
    is_rescaled: bool = False

    def __call__(self, shape: Shape, draw: Numbers) -> Made:
        count, before = shape[0] // self.size, (self.stages,) if self.stages else ()
        tensors = {"oft_blocks": draw(*before, count, self.size, self.size, size=0.3)}
        if self.alpha is not None:
            tensors["alpha"] = torch.tensor(self.alpha)
        if self.is_rescaled:
            tensors["rescale"] = draw(shape[0], 1, *_ones(shape), size=0.3, around=1.0)
        factors = tensors["rescale"].double().flatten() if self.is_rescaled else torch.ones(shape[0]).double()
        shortened = _shortening(tensors["oft_blocks"], tensors.get("alpha"))
        turn = self._butterfly if self.stages else self._diagonal
        turned = torch.diag(factors) @ turn(tensors["oft_blocks"], shortened)
        return Made(tensors, lambda weight: (turned @ weight.flatten(1)).reshape(weight.shape))

    @staticmethod
    def _diagonal(blocks: Tensor, shortened: float) -> Tensor:
        return torch.block_diag(*(_rotation(block, shortened).T for block in blocks))

    def _butterfly(self, blocks: Tensor, shortened: float) -> Tensor:
        """``B_m ... B_1``: in stage i, output x has x + 2^i size / 2 for its partner, of which pairs fill blocks."""
        out = blocks.shape[1] * self.size
        product = torch.eye(out, dtype=torch.float64)
        for stage, own in enumerate(blocks):
            apart = 2**stage * self.size // 2
            order = [
                start + offset + partner * apart
                for start in range(0, out, 2 * apart)
                for offset in range(apart)
                for partner in (0, 1)
            ]
            gather = torch.eye(out, dtype=torch.float64)[order]
            product = gather.T @ torch.block_diag(*(_rotation(one, shortened) for one in own)) @ gather @ product
        return product


# GLoRA (arXiv 2306.07967): W' = W + alpha / rank (W a1 a2 + b1 b2); the other way round in older files.


@dataclass(frozen=True)
class _GLoRA:
    is_old: bool = False
    is_tucker: bool = False

    def __call__(self, shape: Shape, draw: Numbers) -> Made:
        out, inner, *kernel = shape
        ones, alpha = _ones(shape), draw.alpha()
        a1, a2 = draw(inner, RANK, *ones, size=0.3), draw(RANK, inner, *ones, size=0.5)
        b1, b2 = draw(out, RANK, *ones, size=0.3), draw(RANK, inner, *(ones if self.is_tucker else kernel))
        tensors = {"a1": a1, "a2": a2, "b1": b1, "b2": b2}
        if self.is_tucker:
            tensors["bm"] = draw(RANK, RANK, *kernel)
            added = _tucker(tensors["bm"], b1.flatten(1).T, b2.flatten(1))
        else:
            added = (b1.double().flatten(1) @ b2.double().flatten(1)).reshape(shape)
        mixed = a1.double().flatten(1) @ a2.double().flatten(1)

        def new_weight(weight: Tensor) -> Tensor:
            product = torch.einsum("oi...,ij->oj...", weight, mixed)
            return weight + alpha.double() / RANK * (product + added)

        swapped = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"} if self.is_old else {}
        named = {f"{swapped.get(name, name)}.weight": tensor for name, tensor in tensors.items()}
        return Made({**named, "alpha": alpha}, new_weight)


# IA3 (arXiv 2205.05638), as LyCORIS has it: W' = W (1 + w), of the inputs or of the outputs.


def _ia3_on_input(shape: Shape, draw: Numbers) -> Made:
    weight = draw(*((1, shape[1], *_ones(shape)) if len(shape) > 2 else (shape[1],)), size=0.3)
    factors = torch.diag(1 + weight.double().flatten())
    tensors = {"weight": weight, "on_input": torch.tensor(1)}
    return Made(tensors, lambda base: torch.einsum("oi...,ij->oj...", base, factors))


def _ia3_on_output(shape: Shape, draw: Numbers) -> Made:
    weight = draw(*((1, shape[0], *_ones(shape)) if len(shape) > 2 else (shape[0],)), size=0.3)
    factors = torch.diag(1 + weight.double().flatten())
    tensors = {"weight": weight, "on_input": torch.tensor(0)}
    return Made(tensors, lambda base: torch.einsum("po,oi...->pi...", factors, base))


def _difference(ending: str) -> Callable[[Shape, Numbers], Made]:
    def make(shape: Shape, draw: Numbers) -> Made:
        difference = draw(*shape)
        return Made({ending: difference}, _added(difference.double()))

    return make


def _replacement(shape: Shape, draw: Numbers) -> Made:
    new = draw(*shape)
    return Made({"set_weight": new}, lambda weight: new.double())


_LOKR = {
    "both whole": _LoKr(),
    "right a product": _LoKr(right="product"),
    "left a product": _LoKr(left="product"),
    "both products": _LoKr(left="product", right="product"),
    "of a small left": _LoKr(largest=2),
    "of a small left, right a product": _LoKr(right="product", largest=4),
    "left of more rows than columns": _LoKr(swapped=True, largest=2),
    "left of more rows, right a product": _LoKr(right="product", swapped=True, largest=2),
}
_LOKR_OF_CONVOLUTIONS = {
    "right a product with the kernel": _LoKr(right="kernel"),
    "Tucker": _LoKr(right="tucker"),
    "Tucker, left a product": _LoKr(left="product", right="tucker"),
}
_SUMS = {"LoRA": _lora, "LoKr": _LoKr(right="product"), "LoKr of whole factors": _LoKr(), "LoHa": _LoHa()}
_FULL = 5.0  # an alpha that shortens nothing

KINDS: dict[str, Kind] = {
    "LoRA": Kind("LoRA", _lora, _is_weight),
    "LoRA, Tucker": Kind("LoRA", _lora_tucker, _is_convolution),
    **{f"LoKr, {name}": Kind("LoKr", make, _is_weight) for name, make in _LOKR.items()},
    **{
        # ComfyUI ends in an error that it logs where there is a core, and takes no kernel beside a rank.
        f"LoKr, {name}": Kind("LoKr", make, _is_convolution, in_stock=False)
        for name, make in _LOKR_OF_CONVOLUTIONS.items()
    },
    "LoHa": Kind("LoHa", _LoHa(), _is_weight),
    "LoHa of a large rank": Kind("LoHa", _LoHa(is_large=True), _is_weight),
    "LoHa, Tucker": Kind("LoHa", _LoHa(is_tucker=True), _is_convolution),
    **{
        f"DoRA of {name} by column": Kind("DoRA", _dora_by_column(make), _is_weight, is_sum=False)
        for name, make in _SUMS.items()
    },
    **{
        f"DoRA of {name} by row": Kind("DoRA", _dora_by_row(make, "dora_scale"), _is_weight, is_sum=False)
        for name, make in _SUMS.items()
    },
    "DoRA of LoRA in Tucker form by column": Kind("DoRA", _dora_by_column(_lora_tucker), _is_convolution, is_sum=False),
    "DoRA of PEFT": Kind(
        "DoRA", _dora_by_row(_peft_lora, "lora_magnitude_vector"), _is_weight, is_sum=False, in_stock=False
    ),
    "OFT": Kind("OFT", _Rotated(4), _is_even, is_sum=False),
    "OFT, alpha 0": Kind("OFT", _Rotated(4, alpha=0.0), _is_even, is_sum=False),
    "OFT, alpha": Kind("OFT", _Rotated(4, alpha=0.7), _is_even, is_sum=False),
    "OFT, a large alpha": Kind("OFT", _Rotated(4, alpha=100 * _FULL), _is_even, is_sum=False),
    "OFT, rescaled": Kind("OFT", _Rotated(4, is_rescaled=True), _is_even, is_sum=False, in_stock=False),
    "OFT, alpha, rescaled": Kind("OFT", _Rotated(4, 0, 0.7, True), _is_even, is_sum=False, in_stock=False),
    "BOFT": Kind("BOFT", _Rotated(4, 2), _is_even, is_sum=False, in_stock=False),
    "BOFT, alpha 0": Kind("BOFT", _Rotated(4, 2, 0.0), _is_even, is_sum=False),
    "BOFT, alpha": Kind("BOFT", _Rotated(2, 3, 0.7), _is_even, is_sum=False),
    "BOFT, alpha 0, rescaled": Kind("BOFT", _Rotated(4, 2, 0.0, True), _is_even, is_sum=False),
    "BOFT, alpha, rescaled": Kind("BOFT", _Rotated(2, 2, 0.7, True), _is_even, is_sum=False),
    "GLoRA": Kind("GLoRA", _GLoRA(), _is_weight, is_sum=False),
    "GLoRA, old": Kind("GLoRA", _GLoRA(is_old=True), _is_linear, is_sum=False),
    "GLoRA, Tucker": Kind("GLoRA", _GLoRA(is_tucker=True), _is_convolution, is_sum=False, in_stock=False),
    "IA3 on input": Kind("IA3", _ia3_on_input, _is_weight, is_sum=False, in_stock=False),
    "IA3 on output": Kind("IA3", _ia3_on_output, _is_weight, is_sum=False, in_stock=False),
    "whole difference": Kind("whole difference", _difference("diff"), _is_weight),
    "replaced weight": Kind("replaced weight", _replacement, _is_weight, is_sum=False),
    "whole difference of a vector": Kind("whole difference", _difference("diff"), _is_vector),
    "whole difference of a norm": Kind("whole difference", _difference("w_norm"), _is_vector),
    "whole difference of a bias": Kind("whole difference", _difference("diff_b"), _is_vector),
    "replaced vector": Kind("replaced weight", _replacement, _is_vector, is_sum=False),
}
