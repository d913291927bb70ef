"""Raw results as tables of numbers, and intervals of what they mean."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
    return 2 * content * style / (content + style) if content + style else 0.0


def harmonic_of(content: Array, style: Array) -> float:
    """The harmonic mean of the mean shares."""
    return harmonic(float(content.mean()), float(style.mean()))


@dataclass(frozen=True)
class Interval:
    """A figure with 95 % of its bootstrap."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interval(figure: Callable[[tuple[Array, ...]], float], shape: tuple[int, ...], seed: int = 0) -> Interval:
    """Bootstrap over seeds, contents and styles, each resampled with replacement.

    Args:
        figure: of the rows of seeds, contents and styles that are taken, as ``numpy.ix_`` has them.
    """
    rng = np.random.default_rng(seed)
    whole = figure(np.ix_(*(np.arange(n) for n in shape)))
    drawn = [figure(np.ix_(*(rng.integers(n, size=n) for n in shape))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(whole, float(low), float(high))


def level(outcome: Outcome, judge: str) -> Interval:
    """The harmonic mean of what is kept, with its interval."""
    shares = outcome.shares[judge]
    content, style = shares["content"], shares["style"]
    return interval(lambda rows: harmonic_of(content[rows], style[rows]), content.shape)


def difference(
    first: Outcome, second: Outcome, judge: str, count: str = "", *, first_candidates: bool = False
) -> Interval:
    """How much more the first keeps, pair by pair and seed by seed: of one count, or the harmonic mean."""
    a, b = first.shares[judge], second.shares[judge]
    content, style = FIRST.values() if first_candidates else FIRST
    if count:
        gap = a[count] - b[count]
        return interval(lambda rows: float(gap[rows].mean()), gap.shape)
    return interval(
        lambda rows: harmonic_of(a[content][rows], a[style][rows]) - harmonic_of(b[content][rows], b[style][rows]),
        a[content].shape,
    )
