"""The judges of blends: on drawings that are plain to see, on pictures of nothing, and what their limits come from."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch

from playground.judges import calibrate, composing, train
from playground.judges.analytic import AnalyticJudge
from playground.judges.blends import Blend, draw_all, drawing
from playground.judges.learned import LearnedJudge
from playground.judges.verdict import LIMITS, UNCLEAR, Judge, Limits, Pictures, Verdict, halved, shape_names
from playground.world.scene import Look, Place
from playground.world.splits import splits
from playground.world.styles import styles

JUDGES: tuple[Judge, ...] = (AnalyticJudge(), LearnedJudge())
each_judge = pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.name)


@cache
def drawings() -> tuple[list[Blend], Pictures]:
    """Some shapes in some looks, through the autoencoder."""
    rng = np.random.default_rng(71)
    blends = [drawing(rng) for _ in range(48)]
    return blends, draw_all(blends, 71)


@each_judge
def test_drawings_are_judged_right(judge: Judge) -> None:
    blends, pictures = drawings()
    verdicts = judge(pictures)
    for part in ("shape", "look"):
        right = [getattr(seen, part) == getattr(true, part) for seen, true in zip(verdicts, blends, strict=True)]
        assert np.mean(right) >= 0.85, part


@each_judge
def test_a_content_is_seen_in_its_own_look(judge: Judge) -> None:
    contents = splits().tuning.contents
    blends = [Blend((one.shape, one.shape), 0.0, (one.look, one.look), 0.0, Place()) for one in contents]
    verdicts = judge(draw_all(blends, 5, noise=0.0))
    seen = [
        (verdict.shape == one.shape) + (verdict.look == one.look)
        for verdict, one in zip(verdicts, contents, strict=True)
    ]
    assert sum(seen) >= 2 * len(contents) - 1


@each_judge
def test_nothing_is_seen_in_pictures_of_nothing(judge: Judge) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    flat = np.broadcast_to(rng.integers(0, 256, (3, 1, 1, 3), dtype=np.uint8), (3, 128, 128, 3))
    verdicts = judge(np.concatenate([noise, flat]))
    assert [(verdict.shape, verdict.look) for verdict in verdicts] == [("", UNCLEAR)] * 5


@each_judge
def test_half_a_morph_is_unclear_or_either_end(judge: Judge) -> None:
    ends = (("house", "anchor"), ("cross", "moon"), ("fish", "heart"))
    look = Look(style="amber")
    pictures = draw_all([Blend(pair, 0.5, (look, look), 0.0, Place()) for pair in ends], 3)
    assert all(verdict.shape in ("", *pair) for verdict, pair in zip(judge(pictures), ends, strict=True))


@each_judge
def test_a_verdict_depends_on_its_picture_alone(judge: Judge) -> None:
    _, pictures = drawings()
    first, again = judge(pictures[:6]), judge(pictures[3:6])
    for one, other in zip(first[3:], again, strict=True):
        assert (one.shape, one.look) == (other.shape, other.look)
        assert one.shape_margin == pytest.approx(other.shape_margin, abs=1e-3)
    assert judge(pictures[:6]) == first


def test_what_is_not_ahead_enough_is_unclear() -> None:
    seen = Verdict("star", Look(style="amber"), 0.3, 0.6)
    assert Limits(0.3, 0.6).applied(seen) == seen
    assert Limits(0.4, 0.6).applied(seen).shape == ""
    assert Limits(0.3, 0.7).applied(seen).look == UNCLEAR


def test_the_truth_of_a_blend_is_its_nearer_end_or_neither() -> None:
    looks = (Look(colour="red", texture="dots", background="dark"), Look(style="amber"))
    made = Blend(("star", "moon"), 0.8, looks, 0.3, Place())
    assert (made.shape, made.look) == ("moon", Look(colour="red", background="dark"))
    assert Blend(("star", "moon"), 0.6, looks, 0.6, Place()).shape == ""
    assert Blend(("star", "star"), 0.6, (looks[1], looks[1]), 0.6, Place()).shape == "star"
    crossed = Blend(("star", "star"), 0.0, (Look(style="aurora"), looks[1]), 0.0, Place(), crossed=True)
    assert crossed.look == UNCLEAR


def test_a_limit_keeps_the_most_of_which_enough_are_right() -> None:
    margin = np.array([0.9, 0.8, 0.7, 0.6, 0.5], dtype=np.float32)
    right = np.array([True, True, False, True, False])
    assert calibrate.limit(margin, right, 0.75) == pytest.approx(0.6, abs=1e-3)
    assert calibrate.limit(margin, ~right, 0.9) > 1


def test_limits_are_those_of_the_stored_margins() -> None:
    assert json.loads(LIMITS.read_text("utf-8")) == calibrate.stored_limits()


def test_pairs_that_were_held_out_are_never_shown() -> None:
    random = train.generator(0, 0)
    mixes = train.random_mixes(512, random)
    held = train.may_stand_together() == 0
    assert held.any()
    for look in (mixes.first, mixes.second):
        assert not held[look, mixes.one].any()
        assert not held[look, mixes.two].any()


def test_composed_pictures_are_those_that_are_drawn() -> None:
    rng, random = np.random.default_rng(2), torch.Generator().manual_seed(2)
    for made in (drawing(rng) for _ in range(24)):
        look = made.looks[0]
        if look.style and styles()[look.style].texture == "grain":  # by chance
            continue
        shape, row = (torch.tensor([at]) for at in (shape_names().index(made.shapes[0]), train.row_of(look)))
        composed = composing.compose(composing.fields()[shape], row, random)[:, :, 8:-8, 8:-8]
        drawn = halved(Blend(made.shapes, 0.0, made.looks, 0.0, Place()).draw(0)[None])
        assert (composed - drawn).abs().mean() < 4, made
