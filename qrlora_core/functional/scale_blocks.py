"""Scale an adapter block by block, by layer name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from ..adapter import Layer, QRLoRA
from ..errors import TargetError
from ..term import Term
from ..text import listed

Rule = tuple[str, float]


def parse_rules(text: str) -> list[Rule]:
    """``double_blocks.*: 1.0, single_blocks.1?: 0.3`` as (pattern, factor) pairs.

    Raises:
        TargetError: text that does not read so; names the part.
    """
    rules = []
    for part in listed(text):
        pattern, _, number = part.rpartition(":")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if not pattern.strip() or not math.isfinite(factor):
            raise TargetError(f"blocks: expected pattern: factor such as double_blocks.*: 0.5, found {part!r}.")
        rules.append((pattern.strip(), factor))
    return rules


def scale_blocks(adapter: QRLoRA, rules: Sequence[Rule], aliases: Mapping[str, Sequence[str]] | None = None) -> QRLoRA:
    """The adapter with each layer's delta times the factor of the last rule that names it, 1 where none does.

    Args:
        adapter: stays as it is; the tensors are shared.
        rules: patterns match whole dotted parts anywhere in a name: ``single_blocks.1?`` means blocks 10 to 19.
            A factor of zero drops the layer.
        aliases: other names of a module path, such as the host's own.

    Raises:
        TargetError: a rule that names no layer.
    """
    names = {path: (path, *(aliases or {}).get(path, ())) for path in adapter.layers}
    for pattern, _ in rules:
        if not any(_names_block(name, pattern) for known in names.values() for name in known):
            raise TargetError(
                f"blocks: {pattern!r} names no layer of {adapter.name}; its layers are called like "
                f"{' or '.join(next(iter(names.values()), ('nothing',)))}."
            )
    factors = {path: _factor(known, rules) for path, known in names.items()}
    layers = {path: _times(layer, factors[path]) for path, layer in adapter.layers.items() if factors[path] != 0}
    return replace(adapter, layers=layers)


def _factor(names: Sequence[str], rules: Sequence[Rule]) -> float:
    matching = [factor for pattern, factor in rules if any(_names_block(name, pattern) for name in names)]
    return matching[-1] if matching else 1.0


def _names_block(name: str, pattern: str) -> bool:
    return any(fnmatchcase(name, form.format(pattern)) for form in ("{}", "*.{}", "{}.*", "*.{}.*"))


def _times(layer: Layer, factor: float) -> Layer:
    if factor == 1:
        return layer
    terms = (_scaled(term, factor) for term in layer.terms)
    return layer.with_terms(terms, (change.scaled(factor) for change in layer.changes))


def _scaled(term: Term, factor: float) -> Term:
    # The basis stays that of the base weight: scaling * base_r = q.T @ base_weight before and after.
    base_r = None if term.base_r is None else term.base_r / factor
    return replace(term, alpha=term.alpha * factor, base_r=base_r)
