"""What is counted and what intervals say, by cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.evidence.measures import COUNTS, Asked
from benchmarks.evidence.statistics import Interval, Outcome, difference, harmonic, level
from benchmarks.evidence.tables import verdict
from playground.judges.verdict import Verdict
from playground.world.scene import Look

SHAPE = (3, 16, 12)  # seeds, contents, styles


def outcome(content: np.ndarray, style: np.ndarray) -> Outcome:
    return Outcome({"analytic": {"content": content, "style": style}})


def test_counts_of_a_verdict() -> None:
    look, colours = Look(style="moss"), Look(colour="red", background="dark")
    asked = Asked("a whale in moss style", "whale", look, carrier="bird", colours=colours)

    def seen(shape: str, found: Look, guess: str = "") -> set[str]:
        told = asked.counts(Verdict(shape, found, 1.0, 1.0), Verdict(guess or shape, found, 1.0, 1.0))
        return {name for name, count in zip(COUNTS, told, strict=True) if count}

    assert seen("whale", look) == {"content", "style", "both", "content_first", "style_first"}
    assert seen("bird", look) == {"style", "carrier", "style_first"}
    assert seen("whale", colours) == {"content", "colours", "content_first"}
    assert seen("", Look()) == {"unclear"}
    assert seen("", look, guess="whale") == {"style", "unclear", "content_first", "style_first"}


@pytest.mark.parametrize(("content", "style", "expected"), [(0.0, 0.0, 0.0), (1.0, 0.5, 2 / 3), (0.3, 0.3, 0.3)])
def test_harmonic_mean(content: float, style: float, expected: float) -> None:
    assert harmonic(content, style) == pytest.approx(expected)


def test_a_gain_that_every_pair_has_is_certain() -> None:
    rng = np.random.default_rng(0)
    content, style = rng.uniform(0.2, 0.6, SHAPE), rng.uniform(0.2, 0.6, SHAPE)
    found = difference(outcome(content + 0.2, style), outcome(content, style), "analytic", "content")
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))


def test_the_interval_has_the_width_of_its_contents() -> None:
    """A difference that hangs on the content alone varies as a mean of 16, however many styles and seeds there are."""
    by_content = np.random.default_rng(1).normal(0, 0.1, 16)
    gap = np.broadcast_to(by_content[None, :, None], SHAPE)
    found = difference(outcome(0.5 + gap, gap), outcome(np.full(SHAPE, 0.5), gap), "analytic", "content")
    expected = 2 * 1.96 * float(by_content.std()) / 4
    assert found.high - found.low == pytest.approx(expected, rel=0.15)


def test_nothing_is_shown_of_noise() -> None:
    """In at least nine of ten draws of two methods that do not differ."""
    shown = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        first, second = (outcome(rng.integers(0, 2, SHAPE) / 1.0, rng.integers(0, 2, SHAPE) / 1.0) for _ in range(2))
        found = difference(first, second, "analytic")
        shown += found.low > 0 or found.high < 0
    assert shown <= 2


def test_level_lies_in_its_interval() -> None:
    rng = np.random.default_rng(2)
    found = level(outcome(rng.uniform(0, 1, SHAPE), rng.uniform(0, 1, SHAPE)), "analytic")
    assert found.low < found.value < found.high


def test_better_takes_both_judges() -> None:
    up, none, down = Interval(0.2, 0.1, 0.3), Interval(0.1, -0.1, 0.3), Interval(-0.2, -0.3, -0.1)
    assert verdict([up, up]) == "better"
    assert verdict([up, none]) == "no difference shown"
    assert verdict([up, down]) == "no difference shown"
    assert verdict([down, down]) == "worse"
