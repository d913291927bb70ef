"""Many small adapters in one batch: each is what it would be alone, by the weights that it stands for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks.evidence import merging, training
from benchmarks.evidence.base import Adapters, Base, Factors, Words
from benchmarks.evidence.methods import METHODS
from benchmarks.evidence.recipes import RECIPES, Lesson
from benchmarks.evidence.training import Settings
from comfyui_qr_lora.qrlora_core import decompose
from playground.autoencoder import narrow_decoder
from playground.train import KEPT, build_model

CAPTIONS = ("", "a house", "a house in sunset style", "a circle in sunset style")
ROLES = torch.tensor([False, False, True])


@pytest.fixture(scope="module")
def base() -> Base:
    """Random weights throughout, also where a fresh network has zeros: nothing is silent."""
    torch.manual_seed(0)
    net = build_model()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    words = Words(CAPTIONS, torch.randn(len(CAPTIONS), len(KEPT), 768), torch.randn(len(CAPTIONS), 768))
    return Base(words, net, narrow_decoder())


def random_adapters(base: Base, count: int = 3, rank: int = 4) -> Adapters:
    generator = torch.Generator().manual_seed(1)

    def factors(weights: Tensor) -> Factors:
        slices, out, inputs = weights.shape
        up = 2 * torch.randn(count, slices, out, rank, generator=generator) / out**0.5
        return Factors(up, torch.randn(count, slices, rank, inputs, generator=generator) / inputs**0.5)

    return {name: factors(weights) for name, weights in base.slices.items()}


def velocity(base: Base, adapters: Adapters, rows: list[int]) -> Tensor:
    x = torch.randn(len(rows), 16, 16, 16, generator=torch.Generator().manual_seed(2))
    with base.with_adapters(adapters), torch.no_grad():
        return base.velocity(x, torch.full((len(rows),), 0.7), torch.tensor(rows))


def test_each_acts_on_its_own_items(base: Base) -> None:
    adapters, rows = random_adapters(base), [1, 2, 3, 1, 2, 3]
    together = velocity(base, adapters, rows)
    for index in range(3):
        alone = {name: factors.chosen([index, index, index]) for name, factors in adapters.items()}
        items = slice(2 * index, 2 * index + 2)
        effect = together[items] - velocity(base, {}, rows)[items]
        error = together[items] - velocity(base, alone, rows)[items]
        assert error.norm() < 0.1 * effect.norm()  # the network computes in bfloat16


def test_an_adapter_is_its_change_of_the_weights(base: Base) -> None:
    """What is added to a layer's output, against the product with the changed weight in float64."""
    for name, factors in random_adapters(base).items():
        x = torch.randn(3 * 2, 5, factors.down.shape[-1], generator=torch.Generator().manual_seed(3))
        delta = factors.delta().double().flatten(1, 2)  # (adapters, out of all slices, in)
        expected = torch.einsum("abni,aoi->abno", x.double().unflatten(0, (3, 2)), delta).flatten(0, 1)
        torch.testing.assert_close(factors.added(x).double(), expected, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_begins_with_the_base(base: Base, name: str) -> None:
    trained = METHODS[name].trained(base.slices, ROLES, 8, seed=0)
    assert set(trained.factors()) == set(base.slices)
    for factors in trained.factors().values():
        torch.testing.assert_close(factors.delta(), torch.zeros_like(factors.delta()), atol=1e-5, rtol=0)


def test_q_is_that_of_the_package(base: Base) -> None:
    """Up to rounding, of the same weights: both by their product, in which columns that hardly count do not either."""
    adapters = METHODS["qr_full"].trained(base.slices, ROLES, 8, seed=0).factors()
    for name, weights in list(base.slices.items())[:4]:
        for index, weight in enumerate(weights):
            ours = adapters[name].up[0, index]
            q = decompose(weight, 8).q
            torch.testing.assert_close(ours @ ours.T, q @ q.T, atol=1e-4, rtol=0)
            torch.testing.assert_close(ours, q, atol=2e-2, rtol=0)


def test_what_is_trained_is_as_many_numbers_as_is_said(base: Base) -> None:
    def count(name: str) -> int:
        trained = METHODS[name].trained(base.slices, ROLES[:1], 8, seed=0)
        return sum(parameter.numel() for parameter in trained.parameters())

    assert count("lora") == count("qr") == count("olora")
    assert count("qr_full") == count("q_random") == count("q_bottom") == count("q_disjoint")
    assert 0.8 < count("lora_half") / count("qr_full") < 1.25


def trained(base: Base, name: str, lessons: list[Lesson]) -> Adapters:
    how = Settings(1e-2, rank=4, batch=2, marks=(2,))
    return training.train(base, METHODS[name], RECIPES["published"], lessons, how, seed=0)[2]


def lessons() -> list[Lesson]:
    generator = torch.Generator().manual_seed(4)
    return [
        Lesson(torch.randn(1, 16, 16, 16, generator=generator), c, s) for c, s in zip(CAPTIONS[1:], ROLES, strict=True)
    ]


def test_roles_that_are_disjoint_stay_orthogonal(base: Base) -> None:
    made = trained(base, "q_disjoint", lessons())
    assert abs(merging.cosine(made, [(0, 2)])[0]) < 1e-6 < abs(merging.cosine(made, [(0, 1)])[0])


def test_triangles_stay_triangles(base: Base) -> None:
    for name in ("qr_triu", "q_mirrored"):
        for factors in trained(base, name, lessons()).values():
            square = factors.down[..., :4]
            assert bool((square == square.triu()).all())


def test_nobody_learns_from_others(base: Base) -> None:
    """Two alone become what they do beside a third, but for bfloat16, whose rounding Adam's first steps enlarge."""
    whole, part = trained(base, "qr_full", lessons()), trained(base, "qr_full", lessons()[:2])
    for key, factors in part.items():
        moved, other = factors.delta(), whole[key].delta()[:2]
        assert float((moved - other).norm() / moved.norm()) < 0.2, key


def test_cosine_is_that_of_the_changed_weights(base: Base) -> None:
    adapters = random_adapters(base)
    flat = torch.cat([factors.delta().double().flatten(1) for factors in adapters.values()], dim=1)
    expected = [float(torch.cosine_similarity(flat[a], flat[b], dim=0)) for a, b in ((0, 2), (1, 2))]
    assert merging.cosine(adapters, [(0, 2), (1, 2)]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("how", merging.MERGES)
def test_a_merge_is_that_of_the_changed_weights(base: Base, how: str) -> None:
    """At equal weights of one adapter with itself every mode but null-space gives what the sum or the mean does."""
    adapters, pairs, scales = random_adapters(base), [(0, 2), (1, 2)], (0.8, 0.6)
    made = merging.merged(adapters, pairs, scales, how)
    for name, factors in made.items():
        deltas = adapters[name].delta().double()
        content, style = deltas[[0, 1]] * scales[0], deltas[[2, 2]] * scales[1]
        if how == "null_space_style":
            content = _without(content, style)
        elif how == "null_space_content":
            style = _without(style, content)
        elif how == "ties":
            continue
        torch.testing.assert_close(factors.delta().double(), content + style, atol=1e-5, rtol=1e-4, msg=name)
    assert all(bool(torch.isfinite(factors.delta()).all()) for factors in made.values())


def _without(changed: Tensor, protected: Tensor) -> Tensor:
    """NP-LoRA's projection in float64: the leading directions that hold 90 % of the protected energy, at mu."""
    result = torch.empty_like(changed)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in changed.shape[:2])).tolist():
        at = tuple(index)
        _, s, vh = torch.linalg.svd(protected[at], full_matrices=False)
        held = s.square().cumsum(0) / s.square().sum()
        v = vh[: int((held < 0.9).sum()) + 1]
        result[at] = changed[at] - merging.MU / (1 + merging.MU) * (changed[at] @ v.T) @ v
    return result


def test_ties_of_one_with_itself_is_its_trimmed_mean(base: Base) -> None:
    """Where both agree everywhere the mean of the two is left, less the half of the coefficients that were trimmed."""
    adapters = random_adapters(base)
    made = merging.merged(adapters, [(0, 0)], (1.0, 1.0), "ties")
    name = next(iter(made))
    whole, kept = adapters[name].delta()[0], made[name].delta()[0]
    assert 0.5 < float(kept.norm() / whole.norm()) < 1.0
    assert math.isfinite(float(kept.sum()))
