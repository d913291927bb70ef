"""The adapter: a trained set of layers, each with what it adds to one weight of a model."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from .change import Change, common_shape, term_in_rows
from .errors import AdapterError
from .term import Term


@dataclass(frozen=True, eq=False)
class Layer:
    """What an adapter adds to one weight: the sum of its terms (``[Q1 Q2]`` need not be orthonormal) and changes.

    Args:
        terms: low-rank products.
        is_vector: True for a change of a bias, or of the weight of a norm, which stands as a weight (n, 1).
        variant: ``qr`` where the two terms are ``scaling * Q dR`` and ``scaling * dQ (R + dR)``, as that variant
            trains them; else empty.
        changes: what is no low-rank product, or would be a large one.

    Raises:
        AdapterError: neither a term nor a change, such for weights of different shapes, or a vector of another shape
            than (n, 1).
    """

    terms: tuple[Term, ...]
    is_vector: bool = False
    variant: str = ""
    changes: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        if not self.terms and not self.changes:
            raise AdapterError("a layer needs at least one term or change, found none.")
        shape = self.shape  # which refuses those for different weights
        if self.is_vector and shape[1:] != (1,):
            raise AdapterError(f"expected a bias, or a weight of a norm, as a weight (n, 1), found {self.shape}.")

    @classmethod
    def single(cls, q: Tensor, delta_r: Tensor, *, alpha: float = math.nan, base_r: Tensor | None = None) -> Layer:
        """A layer of one term; arguments as in `Term`."""
        return cls((Term(q, delta_r, alpha, base_r),))

    def with_terms(self, terms: Iterable[Term], changes: Iterable[Change] = ()) -> Layer:
        """A layer of these alone for the same parameter; what changes them is of no variant."""
        return Layer(tuple(terms), self.is_vector, changes=tuple(changes))

    @staticmethod
    def joined(layers: Sequence[Layer]) -> Layer:
        """The sum of layers for one parameter.

        Raises:
            AdapterError: they are for weights of different shapes.
        """
        if len(layers) == 1:
            return layers[0]
        changes = (change for own in layers for change in own.changes)
        return layers[0].with_terms((term for own in layers for term in own.terms), changes)

    @property
    def _parts(self) -> tuple[Term | Change, ...]:
        return (*self.terms, *self.changes)

    @property
    def rank(self) -> int:
        """Sum of all ranks: an upper bound of that of the delta, where that is the same for every base weight."""
        return sum(part.rank for part in self._parts)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that this layer belongs to: (out, in) or (out, in, kh, kw).

        A side is `change.ANY` where it may be any: what scales the inputs of a layer knows nothing of its outputs.
        """
        of_terms = ((term.q.shape[0], *term.delta_r.shape[1:]) for term in self.terms)
        return common_shape([*of_terms, *(change.shape for change in self.changes)])

    @property
    def contains_base(self) -> str:
        """The kind of a change that is another one for another base weight; empty where all are the same for all."""
        return next((change.kind for change in self.changes if not change.is_sum), "")

    @property
    def is_zero(self) -> bool:
        """True when its delta is zero, whatever the scale and the base weight."""
        return all(change.is_zero for change in self.changes) and not any(
            term.scaling and term.delta_r.any() for term in self.terms
        )

    def is_finite(self) -> bool:
        """True when no number in it is NaN or infinite, nor in its delta in float32."""
        return all(part.is_finite() for part in self._parts)

    def as_terms(self) -> Layer:
        """The same delta in terms alone, exactly.

        Raises:
            AdapterError: a change contains the base weight.
        """
        if not self.changes:
            return self
        return self.with_terms((*self.terms, *(term for change in self.changes for term in change.terms())))

    def bound(self, base: Tensor) -> Layer:
        """The same on this base weight alone, with no change that must know it first (`Stage.UNBOUND`)."""
        made = [change.bound_on_rows(base) for change in self.changes]
        terms = (term for own, _ in made for term in own)
        return self.with_terms((*self.terms, *terms), (change for _, own in made for change in own))

    def in_rows(self, start: int, length: int, total: int) -> Layer:
        """A layer for some rows of a weight of ``total`` rows as one for all of them: the others stay as they are."""
        rows = (start, length, total)
        return self.with_terms(
            (term_in_rows(term, rows) for term in self.terms), (change.in_rows(*rows) for change in self.changes)
        )

    def in_shape(self, shape: tuple[int, ...]) -> Layer:
        """The same for a weight of this shape, with as many rows and entries: of a kernel of one, or flattened.

        Raises:
            AdapterError: a change that cannot be for such a weight.
        """
        shaped_changes = [change.in_shape(_own_shape(change, shape)) for change in self.changes]
        if self.shape == shape and all(map(operator.is_, shaped_changes, self.changes)):
            return self
        terms, changes = list(self.terms), list[Change]()
        for change, found in zip(self.changes, shaped_changes, strict=True):
            if found is not None:
                changes.append(found)
            elif change.is_sum:
                terms += change.terms()
            else:
                raise AdapterError(f"{change.kind} that does not fit a weight {shape}.")
        shaped = (replace(term, delta_r=term.delta_r.reshape(term.rank, *shape[1:])) for term in terms)
        return self.with_terms(shaped, changes)

    def delta_weight(self, base: Tensor | None = None) -> Tensor:
        """``sum_i scaling_i * q_i @ delta_r_i``, and what the changes add, of `shape`.

        Args:
            base: the weight, float32 or float64, whose dtype the result has; it may lack where no change contains it,
                and that is float32.

        Raises:
            AdapterError: a change contains the base weight, which lacks.
        """
        if base is None:
            return torch.stack([term.delta_weight() for term in self.as_terms().terms]).sum(0)
        parts = [*(_delta_like(term, base) for term in self.terms), *(own.delta_weight(base) for own in self.changes)]
        return torch.stack([part.reshape(base.shape) for part in parts]).sum(0)


def _own_shape(change: Change, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of what it changes, in a weight of this shape."""
    return shape if change.rows is None else (change.rows[1], *shape[1:])


def _delta_like(term: Term, base: Tensor) -> Tensor:
    return term.scaling * (term.q.to(base) @ term.delta_r.to(base).flatten(1))


@dataclass(frozen=True)
class Origin:
    """The file that an adapter was read from, as far as it matters to what may be done with it.

    Attributes:
        is_lora: whether it was an ordinary LoRA, or a file of another trainer's kind.
        kinds: what its layers are called, most frequent first, such as ``LoKr``; empty where all are
            LoRAs and whole differences.
        may_replace_core: whether that LoRA looks like a published file of the variant ``qr``, whose factors replace
            a part of the base weights.
        not_loaded: what of the file is not in the adapter, in words.
        notes: sentences on what it may do otherwise elsewhere, and on what was assumed.
    """

    is_lora: bool = False
    kinds: tuple[str, ...] = ()
    may_replace_core: bool = False
    not_loaded: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergeRecord:
    """How a merge came about.

    Attributes:
        sources: (name, scale) of each adapter that went in.
        shared, concatenated, single: module paths of layers that shared a basis, that stand side by side, and that
            came from one source alone.
    """

    sources: tuple[tuple[str, float], ...] = ()
    shared: tuple[str, ...] = ()
    concatenated: tuple[str, ...] = ()
    single: tuple[str, ...] = ()


UNSAVED = "unsaved adapter"


@dataclass(frozen=True, eq=False)
class QRLoRA:
    """An adapter: layers by module path, and what is told of it.

    Args:
        layers: module path (for example ``transformer.transformer_blocks.0.attn.to_q``) to `Layer`.
        metadata: text by name, saved with the file; see `files.adapter_file` for the names in use.
        name: what reports call it: its file name, once it has one.
        origin: what it was read from.
        merge_record: how it came about, if it is a merge; saved with the file.

    Raises:
        AdapterError: a metadata name or value that is not text.
    """

    layers: Mapping[str, Layer]
    metadata: Mapping[str, str] = field(default_factory=dict)
    name: str = UNSAVED
    origin: Origin = Origin()
    merge_record: MergeRecord | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(key, str) and isinstance(value, str) for key, value in self.metadata.items()):
            raise AdapterError("metadata: names and values must be text.")
        if not isinstance(self.layers, MappingProxyType):
            object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def label(self, place: object) -> str:
        """Its name; where it has none, ``unsaved adapter`` and the place that it takes among others."""
        return f"{UNSAVED} {place}" if self.name == UNSAVED else self.name

    @cached_property
    def ranks(self) -> list[int]:
        """The different ranks of its layers, ascending."""
        return sorted({layer.rank for layer in self.layers.values()} - {0})

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """What its layers are called, such as ``LoKr``, those of most layers first; empty where all are low-rank terms.

        A kind that is a low-rank sum is one by now, and known only where it was just read.
        """
        found = Counter(change.kind for layer in self.layers.values() for change in layer.changes)
        return self.origin.kinds or tuple(kind for kind, _ in found.most_common())

    @cached_property
    def is_zero(self) -> bool:
        """True when its delta is zero in every layer, whatever the scale."""
        return all(layer.is_zero for layer in self.layers.values())

    def terms(self) -> Iterator[tuple[str, Term]]:
        """All (module path, term) pairs."""
        for path, layer in self.layers.items():
            for term in layer.terms:
                yield path, term

    @cached_property
    def contains_base(self) -> str:
        """See `Layer.contains_base`: of the first layer that has one."""
        return next(filter(None, (layer.contains_base for layer in self.layers.values())), "")

    def require_finite(self) -> None:
        """Raise `AdapterError` that names the first layer with a NaN or an infinity."""
        for path, layer in self.layers.items():
            if not layer.is_finite():
                raise AdapterError(
                    f"layer {path}: NaN or infinity in the adapter. It was damaged or its training diverged; "
                    "train again with a lower learning rate or take an earlier file."
                )
