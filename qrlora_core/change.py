"""What a layer does to a weight besides low-rank terms: the other kinds of adapters come down to such changes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar, Self

from torch import Tensor
from torch.nn.functional import pad

from .errors import AdapterError, Reason
from .term import Term, is_finite

# A side of a shape that a change fits whatever it is.
ANY = 0
# No weight of a model has so many; a file may claim any number.
_MOST_ROWS = 2**20
# The layer's own product, of an input and a weight of another shape: linear, or a convolution as the layer has it.
Product = Callable[[Tensor, Tensor], Tensor]


class Stage(Enum):
    """What a change is computed from while its layer ``y = W x + b`` runs."""

    INPUT = "from x alone: what it gives is added to y"
    OUTPUT = "from W x: what it gives is added to y"
    BASE = "from x, as another input of W: W times what it gives is added to y"
    UNBOUND = "nothing before the base weight is known, see `Change.bound`"


@dataclass(frozen=True, eq=False, kw_only=True)
class Change(ABC):
    """A change of one weight, ``scale * (W' - W)``, with W' from the base weight W alone.

    So it is linear in its scale, and the effects of several add, in any order.

    Args:
        kind: what users call the adapter kind that it came from.
        scale: of the whole change.
        rows: (start, length, total) where it changes these rows alone of a weight of so many; None for all.

    Attributes:
        tag: its name in files, never changed once released.
        stage: see `Stage`.
        act: what is computed while the layer runs, but for the scale: from the tensors by part, and an input or an
            output with its channels last; of `Stage.INPUT` from an input as it is, and the layer's `Product`.
    """

    tag: ClassVar[str]
    stage: ClassVar[Stage]
    act: ClassVar[Callable[..., Tensor]]

    kind: str
    scale: float = 1.0
    rows: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise AdapterError(f"{self.kind}: expected a finite scale, found {self.scale}.")
        if self.rows is not None:
            self._check_rows(*self.rows)

    def _check_rows(self, start: int, length: int, total: int) -> None:
        own = self.own_shape[0] or length
        if not (0 <= start < start + length <= total <= _MOST_ROWS and length == own):
            raise AdapterError(
                f"{self.kind}: expected {own} rows of a weight, found {length} from {start} on of {total}."
            )

    @property
    @abstractmethod
    def own_shape(self) -> tuple[int, ...]:
        """(out, in, ...) of the weight, or of its rows, that it is for; `ANY` for a side that may be any."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What it consists of, by part."""

    @classmethod
    @abstractmethod
    def of(cls, tensors: Mapping[str, Tensor], kind: str, scale: float) -> Self:
        """The change that has these parts.

        Raises:
            AdapterError: parts that do not fit together.
        """

    @abstractmethod
    def effect(self, base: Tensor) -> Tensor:
        """``W' - W`` of the rows that it changes, in the dtype of ``base`` (float32 or float64), which is W there."""

    @property
    def is_sum(self) -> bool:
        """Whether ``W' - W`` is the same for every W, so that `terms` can give it."""
        return self.stage is Stage.INPUT

    @property
    def rank(self) -> int:
        """The rank that it adds at most, where that is for every W the same; else 0."""
        return 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole weight; (out, in, `ANY`) where rows of it are known, and of a kernel nothing."""
        own = self.own_shape
        if self.rows is None:
            return own
        return (self.rows[2], *own[1:], *([ANY] if own[0] == ANY else []))

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing, whatever W is."""
        return self.scale == 0 or not any(bool(tensor.any()) for tensor in self.tensors().values())

    def scaled(self, factor: float) -> Self:
        """The same at ``factor`` times its scale."""
        return self if factor == 1 else replace(self, scale=self.scale * factor)

    def in_rows(self, start: int, length: int, total: int) -> Self:
        """As a change of these rows alone."""
        inner = 0 if self.rows is None else self.rows[0]
        own = length if self.rows is None else self.rows[1]
        return replace(self, rows=(start + inner, own, total))

    def in_shape(self, shape: tuple[int, ...]) -> Self | None:
        """The same for a weight of this shape, with as many rows and entries; None where there is none."""
        return self

    def terms(self) -> tuple[Term, ...]:
        """The same as low-rank terms, exactly, where `is_sum`.

        Raises:
            AdapterError: it contains the base weight.
        """
        raise AdapterError(
            f"{self.kind} contains the base weight, so that it is no sum of low-rank terms.", Reason.CONTAINS_BASE
        )

    def bound(self, base: Tensor) -> tuple[tuple[Term, ...], tuple[Change, ...]]:
        """The same on this base weight of the rows that it changes alone, at its scale: terms, and changes linear in W.

        Only of `Stage.UNBOUND` is it anything else than the change itself.
        """
        return (), (replace(self, rows=None),)

    def bound_on_rows(self, base: Tensor) -> tuple[tuple[Term, ...], tuple[Change, ...]]:
        """See `bound`, of the whole weight and for it."""
        if self.rows is None:
            return self.bound(base)
        terms, changes = self.bound(base.narrow(0, *self.rows[:2]))
        return tuple(term_in_rows(term, self.rows) for term in terms), tuple(own.in_rows(*self.rows) for own in changes)

    def delta_weight(self, base: Tensor) -> Tensor:
        """``scale * (W' - W)`` of the whole weight, in the dtype of ``base``: W, float32 or float64."""
        if self.rows is None:
            return self.scale * self.effect(base)
        start, length, total = self.rows
        return _among(self.scale * self.effect(base.narrow(0, start, length)), start, total)

    def is_finite(self) -> bool:
        """True when no number in it is NaN or infinite."""
        return all(map(is_finite, self.tensors().values()))


@dataclass(frozen=True, eq=False, kw_only=True)
class OutputChange(Change):
    """A change of a layer's outputs ``W x``, and so the same of the rows of W."""

    stage = Stage.OUTPUT

    def effect(self, base: Tensor) -> Tensor:
        """See `Change`."""
        own = {name: tensor.to(base) for name, tensor in self.tensors().items()}
        return self.act(own, base.movedim(0, -1)).movedim(-1, 0)


def _among(part: Tensor, start: int, total: int) -> Tensor:
    return pad(part, (0, 0) * (part.ndim - 1) + (start, total - start - len(part)))


def term_in_rows(term: Term, rows: tuple[int, int, int] | None) -> Term:
    """A term for these rows, see `Change`, as one for the whole weight."""
    return term if rows is None else replace(term, q=_among(term.q, rows[0], rows[2]))


def are_one_shape(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether one weight can be of both shapes; of a kernel that only one of them tells, nothing is known."""
    sides = all(ANY in pair or pair[0] == pair[1] for pair in zip(first[:2], second[:2], strict=True))
    known = ANY in (*first, *second) or first[2:] == second[2:]
    return sides and known


def common_shape(shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that is told by all of these together.

    Raises:
        AdapterError: they are for weights of different shapes.
    """
    listed = list(shapes)
    found = max(listed, key=lambda shape: (ANY not in shape, len(shape)))
    if not all(are_one_shape(found, shape) for shape in listed):
        raise AdapterError(f"terms of one layer are for weights of different shapes: {sorted(set(listed))}.")
    sides = tuple(max(shape[side] for shape in listed) for side in (0, 1))
    return (*sides, *found[2:])


def require_tensors(kind: str, tensors: Mapping[str, Tensor], expected: Mapping[str, int]) -> None:
    """Refuse parts that are missing, empty or of other numbers of dimensions.

    Raises:
        AdapterError: see above.
    """
    for name, dimensions in expected.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.ndim != dimensions or 0 in tensor.shape or not tensor.is_floating_point():
            found = "none" if tensor is None else f"{tuple(tensor.shape)}, {tensor.dtype}"
            raise AdapterError(f"{kind}: expected {name} with {dimensions} dimensions, floating, found {found}.")
