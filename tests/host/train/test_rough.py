"""The rough measures of pictures and the scores made of them: exact where it can be known, and in the right order."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.train.judge import rough
from comfyui_qr_lora.nodes.host.train.judge.scores import excess, freedom, leak, likeness, similarity

from ...support.encoders import pictures

MEASURES = [rough.layout, rough.look, rough.whole]
Measure = Callable[[Tensor], Tensor]


def alike(measure: Measure, one: Tensor, other: Tensor) -> float:
    return float(similarity(measure(one), measure(other)[None]))


def detailed(seed: int, size: int = 128) -> Tensor:
    """A picture with edges in it."""
    return (3 * (pictures(1, size, size, seed=seed)[0] - 0.5) + 0.5).clamp(0, 1)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("size", [(128, 128), (64, 96), (8, 8), (301, 200)])
def test_a_picture_is_one_unit_vector_and_is_like_itself(measure: Measure, size: tuple[int, int]) -> None:
    picture = torch.rand(*size, 3, generator=torch.Generator().manual_seed(1))
    assert float(measure(picture).norm()) == pytest.approx(1, abs=1e-12)
    assert likeness(measure(picture), measure(picture)[None]) == 1
    assert leak(measure(picture), measure(picture)) == 0


@pytest.mark.parametrize("measure", MEASURES)
def test_an_empty_picture_is_like_another_empty_one(measure: Measure) -> None:
    empty = torch.full((64, 64, 3), 0.3)
    assert alike(measure, empty, empty.clone()) == 1
    assert alike(measure, empty, detailed(0)) < 0.9


def test_the_layout_is_blind_to_colours_and_the_look_to_places() -> None:
    one, other = (0.4 * detailed(seed) + torch.tensor([0.6, 0.2, 0.0]) for seed in (0, 1))
    recoloured, elsewhere = one[..., [2, 0, 1]], one.flip(0)
    assert alike(rough.layout, one, recoloured) == pytest.approx(1, abs=1e-9)
    assert alike(rough.look, one, recoloured) < 0.95
    assert alike(rough.look, one, elsewhere) > 0.999
    assert alike(rough.layout, one, elsewhere) < 0.6
    assert alike(rough.layout, one, other) < 0.6


def test_an_edge_runs_alike_whichever_side_is_bright() -> None:
    steps = torch.zeros(128, 128, 3)
    steps[:, 40:] = 1
    assert alike(rough.layout, steps, 1 - steps) == pytest.approx(1, abs=1e-12)
    assert alike(rough.layout, steps, steps.movedim(0, 1)) < 0.1


def test_the_look_of_plain_colours_is_what_is_counted_by_hand() -> None:
    """Half red and half black: shares of one half; of 127 rows of edges one is 1/3 steep, the rest not at all."""
    black, half = torch.zeros(128, 128, 3), torch.zeros(128, 128, 3)
    half[64:, :, 0] = 1
    expected = (math.sqrt(1 / 2) + math.sqrt(126 / 127)) / 2
    assert alike(rough.look, half, black) == pytest.approx(expected, abs=1e-9)


SHARES = [share / 8 for share in range(9)]


@pytest.mark.parametrize("seed", range(4))
def test_the_more_a_layout_shines_through_the_more_a_picture_is_like_it(seed: int) -> None:
    learned, base = detailed(seed), detailed(seed + 10)
    found = [alike(rough.layout, share * learned + (1 - share) * base, learned) for share in SHARES]
    assert found[0] < 0.5
    assert found[2:] == sorted(found[2:])
    assert found[-1] == 1


@pytest.mark.parametrize("measure", [rough.look, rough.whole])
@pytest.mark.parametrize("seed", range(4))
def test_the_more_of_its_colours_are_there_the_more_a_picture_is_like_another(measure: Measure, seed: int) -> None:
    learned = 0.4 * detailed(seed) + torch.tensor([0.6, 0.2, 0.0])
    base = 0.4 * detailed(seed) + torch.tensor([0.0, 0.2, 0.6])
    found = [
        alike(measure, torch.cat([learned[:, : round(128 * share)], base[:, round(128 * share) :]], 1), learned)
        for share in SHARES
    ]
    assert found[0] < 0.9
    assert found == sorted(found)
    assert found[-1] == 1


def at(angle: float) -> Tensor:
    """(2,) of length 1: two of them are alike by the cosine of what is between them."""
    return torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)


def test_scores_are_those_of_the_equations() -> None:
    learned = torch.stack([at(0.0), at(1.2)])
    assert likeness(at(0.9), learned) == pytest.approx(math.cos(0.3))
    assert likeness(at(math.pi), learned) == 0  # never below
    assert leak(at(0.7), at(0.2)) == pytest.approx(1 - math.cos(0.5))
    s0, s = math.cos(1.0), math.cos(0.4)
    assert excess([at(0.4)], [at(1.0)], [learned[:1]]) == pytest.approx((s - s0) / (1 - s0))
    assert freedom(0.2, 0.4) == pytest.approx(0.7)
    assert freedom(0.2, None) == pytest.approx(0.8)
    assert freedom(None, 0.4) == pytest.approx(0.6)
    assert freedom(None, None) is None


def test_what_does_nothing_brings_nothing_and_what_becomes_the_picture_brings_all() -> None:
    learned = torch.stack([at(0.0), at(2.0)])
    for start in (0.3, 1.0, 0.0):
        assert excess([at(start)], [at(start)], [learned]) == 0
    assert excess([at(0.0)], [at(1.0)], [learned]) == pytest.approx(1)
    assert excess([at(1.0)], [at(0.3)], [learned[:1]]) == 0  # further away than the base
    found = [excess([at(angle / 10)], [at(1.0)], [learned[:1]]) for angle in range(10, -1, -1)]
    assert found == sorted(found)
    assert len(set(found)) == len(found)


def test_of_two_measures_the_lesser_counts_of_the_same_picture() -> None:
    """Like one learned picture in its edges and like another in its colours is no copy of either."""
    first, second = torch.stack([at(0.0), at(1.5)]), torch.stack([at(1.5), at(0.0)])
    copy = excess([at(0.0), at(1.5)], [at(0.75), at(0.75)], [first, second])
    mixed = excess([at(0.0), at(0.0)], [at(0.75), at(0.75)], [first, second])
    assert copy == pytest.approx(1)
    assert mixed == 0
