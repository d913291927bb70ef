"""Raw results as tables of numbers, and intervals of what they mean."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 2000
FIRST = {"content": "content_first", "style": "style_first"}  # the same by first candidates instead of verdicts
JUDGES = ("analytic", "learned")


@dataclass(frozen=True)
class Outcome:
    """What the judges saw of a cell at a point: share of pictures by count, each (seeds, contents, styles).

    Attributes:
        shares: judge to count to shares.
    """

    shares: dict[str, dict[str, Array]]

    def mean(self, judge: str, count: str) -> float:
        """Over all pairs and seeds."""
        return float(self.shares[judge][count].mean())


def write(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A compressed CSV file, the same bytes for the same rows; no half file is ever left."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    temporary.replace(path)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of such a file, by name."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def outcomes(path: Path, pictures: int) -> dict[str, Outcome]:
    """Point to outcome, of a cell's file of counts out of so many pictures."""
    rows = read(path)
    size = [1 + max(int(row[name]) for row in rows) for name in ("seed", "content", "style")]
    made: dict[str, dict[str, dict[str, Array]]] = {}
    columns = [name for name in rows[0] if name not in ("seed", "point", "content", "style")]
    for row in rows:
        at = tuple(int(row[name]) for name in ("seed", "content", "style"))
        for column in columns:
            judge, _, count = column.partition("_")
            shares = made.setdefault(row["point"], {}).setdefault(judge, {}).setdefault(count, np.full(size, np.nan))
            shares[at] = int(row[column]) / pictures
    return {point: Outcome(shares) for point, shares in made.items()}


def harmonic(content: float, style: float) -> float:
    """The harmonic mean of two shares, 0 where both are."""
    return float(_harmonic(np.float64(content), np.float64(style)))


def _harmonic(content: Array, style: Array) -> Array:
    total = content + style
    return 2 * content * style / np.where(total, total, 1)


@dataclass(frozen=True)
class Interval:
    """A figure with 95 % of its bootstrap."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interval(figure: Callable[..., Array], *values: Array) -> Interval:
    """Bootstrap over seeds, contents and styles, each resampled with replacement.

    Args:
        figure: of the means of the values, elementwise.
        values: (seeds, contents, styles) each.
    """
    weights = _resampled(values[0].shape)
    whole = float(figure(*(value.mean() for value in values)))
    drawn = figure(*(np.einsum("rs,rc,rt,sct->r", *weights, value, optimize=True) for value in values))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(whole, float(low), float(high))


@cache
def _resampled(shape: tuple[int, ...], seed: int = 0) -> tuple[Array, ...]:
    """Of each axis how much every index weighs, (resamples, n): how often it was drawn, as a share."""
    rng = np.random.default_rng(seed)
    weights = tuple(np.zeros((RESAMPLES, n)) for n in shape)
    for resample in range(RESAMPLES):
        for weight, n in zip(weights, shape, strict=True):
            weight[resample] = np.bincount(rng.integers(n, size=n), minlength=n) / n
    return weights


def level(outcome: Outcome, judge: str) -> Interval:
    """The harmonic mean of what is kept, with its interval."""
    shares = outcome.shares[judge]
    return interval(_harmonic, shares["content"], shares["style"])


def difference(
    first: Outcome, second: Outcome, judge: str, count: str = "", *, first_candidates: bool = False
) -> Interval:
    """How much more the first keeps, pair by pair and seed by seed: of one count, or the harmonic mean."""
    a, b = first.shares[judge], second.shares[judge]
    if count:
        return interval(lambda gap: gap, a[count] - b[count])
    content, style = FIRST.values() if first_candidates else FIRST
    return interval(
        lambda c, s, other_c, other_s: _harmonic(c, s) - _harmonic(other_c, other_s),
        a[content], a[style], b[content], b[style],
    )  # fmt: skip
