"""Merge modes against dense float64 transcriptions of their papers, and `ties` against PEFT."""

import math

import numpy as np
import pytest
import torch
from peft.utils import merge_utils

from comfyui_qr_lora.qrlora_core import AdapterError, Layer, QRLoRA, Term, merge
from comfyui_qr_lora.qrlora_core.functional.null_space import null_space
from comfyui_qr_lora.qrlora_core.functional.ties import ties
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal, orthonormal

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT32 = 1e-6
OUT, RANK, WIDTH = 9, 4, 12
Q1, Q2, Q3 = (orthonormal(OUT, RANK, seed=seed) for seed in (1, 2, 3))
BASE_R = normal(RANK, WIDTH, seed=4)


def layer_of(*bases, seed, alpha=2.5, kernel=(WIDTH,), steep=False):
    """One term per basis; ``steep`` gives delta_r a spectrum that falls, so that shares of energy tell ranks apart."""
    terms = []
    for i, q in enumerate(bases):
        delta_r = normal(q.shape[1], *kernel, seed=100 * seed + i)
        if steep:
            delta_r *= (0.5 ** torch.arange(q.shape[1])).reshape(-1, *[1] * len(kernel))
        terms.append(Term(q, delta_r, alpha + i))
    return Layer(tuple(terms))


def adapter(*bases, seed, path="x", name=None, **shape):
    return QRLoRA({path: layer_of(*bases, seed=seed, **shape)}, **({"name": name} if name else {}))


def dense(source, path="x"):
    """The delta in float64 by the oracle, with a kernel flattened."""
    terms = source.layers[path].terms
    return sum(oracle.delta_weight(term.q, term.delta_r, term.alpha) for term in terms).flatten(1)


def np_lora(protected, other, mu, energy):
    """NP-LoRA by its objective, as numpy: ``argmin_X |X - delta|^2 + mu |X V_k|^2`` solved as linear equations.

    Returns also V_k, from a full SVD of the dense delta.
    """
    _, S, Vh = np.linalg.svd(protected.numpy())
    rank = int((S / S[0] > 1e-6).sum())
    k = next(k for k in range(1, rank + 1) if (S[:k] ** 2).sum() >= energy * (S[:rank] ** 2).sum() * (1 - 1e-12))
    V = Vh[:k].T
    if math.isinf(mu):
        return torch.from_numpy(other.numpy() - (other.numpy() @ V) @ V.T), torch.from_numpy(V)
    # The gradient vanishes where X (I + mu V V^T) = delta.
    system = np.eye(len(Vh)) + mu * V @ V.T
    return torch.from_numpy(np.linalg.solve(system.T, other.numpy().T).T), torch.from_numpy(V)


PAIRS = {
    "one basis": (adapter(Q1, seed=1, steep=True), adapter(Q1, seed=2)),
    "two bases": (adapter(Q1, seed=1, steep=True), adapter(Q2, seed=2)),
    "several terms": (adapter(Q1, Q3, seed=1, steep=True), adapter(Q2, Q1, seed=2)),
    "a basis that is not orthonormal": (adapter(3 * normal(OUT, 5, seed=5), seed=1), adapter(Q2, seed=2)),
    "convolution": (
        adapter(Q1, seed=1, kernel=(3, 2, 2), steep=True),
        adapter(Q2, seed=2, kernel=(3, 2, 2)),
    ),
}
each_pair = pytest.mark.parametrize(("style", "content"), PAIRS.values(), ids=PAIRS)


class TestNullSpace:
    @each_pair
    @pytest.mark.parametrize("mu", [0.5, 1.0, 30.0, math.inf])
    @pytest.mark.parametrize("energy", [0.5, 0.9, 0.999, 1.0])
    def test_is_the_minimiser_of_the_paper(self, style, content, mu, energy):
        found, kept = null_space([content, style], 1, mu=mu, energy=energy)
        expected, V = np_lora(dense(style), dense(content), mu, energy)
        assert oracle.error(dense(found), expected, dense(content)) < FLOAT32
        assert kept is style
        assert found.layers["x"].shape == content.layers["x"].shape
        if math.isinf(mu):
            assert oracle.error(dense(found) @ V, torch.zeros(WIDTH, V.shape[1])[:OUT], dense(content)) < FLOAT32

    def test_the_share_of_energy_chooses_the_directions(self):
        """Singular values 4, 2, 1, 1/2: energies 16, 20, 21, 21.25 of 21.25."""
        d = torch.eye(RANK, WIDTH) * torch.tensor([4.0, 2.0, 1.0, 0.5])[:, None]
        style = QRLoRA({"x": Layer.single(torch.eye(OUT, RANK), d, alpha=1.0)})
        content = QRLoRA({"x": Layer.single(Q2, torch.ones(RANK, WIDTH))})
        for energy, count in ((0.5, 1), (0.752, 1), (0.754, 2), (0.941, 2), (0.942, 3), (0.999, 4), (1.0, 4)):
            found, _ = null_space([content, style], 1, mu=math.inf, energy=energy)
            zeros = (found.layers["x"].terms[0].delta_r.abs() < 1e-6).all(0)
            assert zeros.tolist() == [True] * count + [False] * (WIDTH - count), energy

    def test_by_default_nine_tenths(self):
        style, content = PAIRS["one basis"]
        found, explicit = (
            null_space([content, style], 1, mu=1.0, **energy)[0].layers["x"].terms[0].delta_r
            for energy in ({}, {"energy": 0.9})
        )
        assert torch.equal(found, explicit)

    def test_a_protected_rank_below_its_number_of_rows(self):
        """Rows of zeros carry no energy and name no direction, whatever share is asked for."""
        d = torch.zeros(RANK, WIDTH)
        d[1] = normal(WIDTH, seed=8)
        style, content = QRLoRA({"x": Layer.single(Q1, d)}), adapter(Q2, seed=2)
        found, _ = null_space([content, style], 1, mu=math.inf, energy=1.0)
        direction = (d[1] / d[1].norm()).double()
        expected = dense(content) - torch.outer(dense(content) @ direction, direction)
        assert oracle.error(dense(found), expected) < FLOAT32

    def test_all_others_are_projected_and_keep_everything_but_delta_r(self):
        style = adapter(Q1, seed=1, name="style")
        layer = Layer.single(Q1, normal(RANK, WIDTH, seed=9), alpha=3.0, base_r=BASE_R)
        others = [QRLoRA({"x": layer}, {"qr_lora.triggers": "a <c> cat"}, name="cat"), adapter(Q2, Q3, seed=3)]
        first, kept, last = null_space([others[0], style, others[1]], 1, mu=2.0)
        assert kept is style
        for before, after in zip(others, (first, last), strict=True):
            assert after.metadata == before.metadata
            assert oracle.error(dense(after), np_lora(dense(style), dense(before), 2.0, 0.9)[0]) < FLOAT32
            for old, new in zip(before.layers["x"].terms, after.layers["x"].terms, strict=True):
                assert (new.q is old.q, new.base_r is old.base_r, new.alpha) == (True, True, old.alpha)
                assert new.delta_r.dtype == torch.float32

    def test_a_shared_basis_stays_shared(self):
        content, style = null_space([adapter(Q1, seed=2), adapter(Q1.clone(), seed=1)], 1, mu=1.0)
        assert len(merge([(content, 1.0), (style, 1.0)]).layers["x"].terms) == 1

    def test_layers_that_the_protected_adapter_lacks_stay(self):
        style = QRLoRA({"x": layer_of(Q1, seed=1), "z": layer_of(Q1, seed=2)})
        content = QRLoRA({"y": layer_of(Q1, seed=3), "x": layer_of(Q1, seed=4)})
        found, _ = null_space([content, style], 1, mu=1.0)
        assert list(found.layers) == ["y", "x"]
        assert found.layers["y"] is content.layers["y"]
        assert found.layers["x"] is not content.layers["x"]

    def test_nothing_to_protect_takes_nothing(self):
        empty = QRLoRA({"x": Layer.single(Q1, torch.zeros(RANK, WIDTH))})
        content = adapter(Q2, seed=2)
        found, _ = null_space([content, empty], 1, mu=math.inf, energy=1.0)
        assert torch.equal(found.layers["x"].terms[0].delta_r, content.layers["x"].terms[0].delta_r)

    @pytest.mark.parametrize("protect", [0, 1])
    def test_mu_zero_gives_the_same_objects(self, protect):
        given = [adapter(Q1, seed=1), adapter(Q2, seed=2)]
        assert all(a is b for a, b in zip(null_space(given, protect, mu=0.0), given, strict=True))

    def test_in_bfloat16_is_computed_beyond_it(self):
        style, content = (
            QRLoRA({"x": Layer.single(q.bfloat16(), normal(RANK, WIDTH, seed=seed, dtype=torch.bfloat16))})
            for q, seed in ((Q1, 1), (Q2, 2))
        )
        found, _ = null_space([content, style], 1, mu=1.0)
        assert oracle.error(dense(found), np_lora(dense(style), dense(content), 1.0, 0.9)[0]) < FLOAT32

    @pytest.mark.parametrize(
        ("protect", "mu", "energy", "message"),
        [
            (1, -0.1, 0.9, r"protecting style: expected mu of 0 or more, found -0\.1"),
            (1, math.nan, 0.9, r"protecting style: expected mu of 0 or more, found nan"),
            (1, 1.0, 0.0, r"expected energy above 0 and up to 1, found 0\.0"),
            (1, 1.0, 1.01, r"expected energy above 0 and up to 1, found 1\.01"),
            (1, 1.0, math.nan, r"expected energy above 0 and up to 1, found nan"),
            (2, 1.0, 0.9, r"expected protect to be the index of one of 2 adapters, from 0, found 2"),
            (-1, 1.0, 0.9, r"expected protect to be the index of one of 2 adapters, from 0, found -1"),
            (0.5, 1.0, 0.9, r"expected protect to be the index of one of 2 adapters, from 0, found 0\.5"),
        ],
    )
    def test_settings_out_of_range_are_errors(self, protect, mu, energy, message):
        with pytest.raises(AdapterError, match=message):
            null_space([adapter(Q1, seed=1), adapter(Q2, seed=2, name="style")], protect, mu=mu, energy=energy)

    def test_adapters_of_different_models_are_an_error(self):
        narrow = QRLoRA({"x": Layer.single(Q1, torch.ones(RANK, WIDTH - 1))})
        with pytest.raises(AdapterError, match=r"layer x: the adapters do not fit together: .*\(9, 12\).*\(9, 11\)"):
            null_space([adapter(Q1, seed=1), narrow], 1, mu=1.0)

    def test_nan_in_the_protected_adapter_is_an_error_that_names_it(self):
        style = adapter(Q1, seed=1, name="style")
        style.layers["x"].terms[0].delta_r[0, 0] = math.nan
        with pytest.raises(AdapterError, match=r"style: layer x: expected finite numbers"):
            null_space([adapter(Q1, seed=2), style], 1, mu=1.0)


def coefficients(sources, path="x"):
    """``Q_c, [tau_i]`` by the dense deltas: the orthonormal basis that all share, or their common principal axes.

    A direction that an adapter does not have must be 0, not rounding: an entry of 1e-17 would halve the others' mean.
    """
    qs = [term.q.double().numpy() for source in sources for term in source.layers[path].terms]
    deltas = [dense(source, path).numpy() for source in sources]
    if all(np.array_equal(q, qs[0]) for q in qs) and np.allclose(qs[0].T @ qs[0], np.eye(qs[0].shape[1]), atol=1e-5):
        Q = qs[0]
    else:
        Q = common_axes(deltas)
    taus = [np.linalg.lstsq(Q, delta, rcond=None)[0] for delta in deltas]
    return Q, [np.where(np.abs(tau) > 1e-6 * np.abs(tau).max(), tau, 0) for tau in taus]


def common_axes(deltas):
    """The left singular vectors of all deltas side by side, each of length 1."""
    U, S, _ = np.linalg.svd(np.hstack([delta / np.linalg.norm(delta) for delta in deltas]))
    return U[:, : int((1e-6 * S[0] < S).sum())]


def paper_ties(taus, density):
    """TIES (arXiv 2306.01708, algorithm 1) of scaled task vectors, lambda = 1, entry by entry."""
    trimmed = []
    for tau in taus:
        order = np.argsort(-np.abs(tau), axis=None, kind="stable")[: int(density * tau.size)]
        kept = np.zeros(tau.size)
        kept[order] = tau.flatten()[order]
        trimmed.append(kept)
    merged = np.zeros(taus[0].size)
    for entry in range(merged.size):
        values = [tau[entry] for tau in trimmed]
        agreeing = [value for value in values if value * sum(values) > 0]
        merged[entry] = sum(agreeing) / len(agreeing) if agreeing else 0
    return merged.reshape(taus[0].shape)


def peft_ties(taus, density):
    tensors = [torch.from_numpy(tau) for tau in taus]
    return merge_utils.ties(tensors, torch.ones(len(taus), dtype=torch.float64), density, "total").numpy()


def merged_delta(sources, scales, path="x"):
    return dense(merge(list(zip(sources, scales, strict=True))), path)


BUNDLES = {
    "one basis": [adapter(Q1, seed=1), adapter(Q1.clone(), seed=2, alpha=6.0), adapter(Q1, seed=3)],
    "a basis that is not orthonormal": [adapter(2 * normal(OUT, 5, seed=5), seed=seed) for seed in (1, 2)],
    "different bases": [adapter(Q1, seed=1), adapter(Q2, seed=2)],
    "as many columns as rows": [adapter(Q1, seed=1), adapter(Q2, seed=2), adapter(Q3, seed=3, alpha=-1.5)],
    "different ranks": [adapter(orthonormal(OUT, 2, seed=6), seed=1), adapter(Q1, seed=2)],
    "one basis of two": [adapter(Q1, seed=1), adapter(Q1, Q2, seed=2), adapter(Q1, Q1, seed=3)],
    "twice the same basis": [adapter(Q1, Q1, seed=1), adapter(Q1, seed=2)],
    "convolution": [adapter(Q1, seed=seed, kernel=(3, 2, 2)) for seed in (1, 2)],
    "convolution, different bases": [adapter(q, seed=1, kernel=(3, 2, 2)) for q in (Q1, Q2)],
}
SCALES = (0.7, -1.3, 1.0)


class TestTies:
    @pytest.mark.parametrize("sources", BUNDLES.values(), ids=BUNDLES)
    @pytest.mark.parametrize("density", [0.1, 0.5, 0.77, 1.0])
    @pytest.mark.filterwarnings("ignore:The density")
    def test_is_the_paper_and_peft(self, sources, density):
        scales = SCALES[: len(sources)]
        Q, taus = coefficients(sources)
        scaled = [scale * tau for scale, tau in zip(scales, taus, strict=True)]
        expected = peft_ties(scaled, density)
        np.testing.assert_allclose(paper_ties(scaled, density), expected, atol=1e-12)
        found = merged_delta(ties(sources, scales, density=density), scales)
        assert oracle.error(found, torch.from_numpy(Q @ expected)) < FLOAT32

    def test_gives_each_adapter_its_share_of_the_mean(self):
        """Entries by hand: agree, disagree, trimmed, alone."""
        first = torch.tensor([[4.0, 3.0, 0.1, 2.0]])
        second = torch.tensor([[2.0, -5.0, 3.0, 0.1]])
        sources = [
            QRLoRA({"x": Layer.single(torch.eye(2, 1), d, alpha=alpha)}) for d, alpha in ((first, 1), (second, 2))
        ]
        left, right = (found.layers["x"].terms[0] for found in ties(sources, (1.0, 1.0), density=0.75))
        assert left.delta_r.tolist() == [[2.0, 0.0, 0.0, 2.0]]
        assert right.delta_r.tolist() == [[1.0, -5.0, 3.0, 0.0]]
        assert (left.alpha, right.alpha) == (1, 2)

    def test_a_scale_decides_the_sign_but_is_not_folded_in(self):
        sources = [QRLoRA({"x": Layer.single(torch.eye(2, 1), torch.tensor([[d]]))}) for d in (3.0, -2.0)]
        for scales, expected in (
            ((1.0, 1.0), [3.0, 0.0]),
            ((1.0, 2.0), [0.0, -2.0]),
            ((1.0, -0.5), [1.5, -1.0]),
            ((2.0, 3.0), [0.0, 0.0]),  # they cancel: sgn(0) is nobody's sign
        ):
            found = [a.layers["x"].terms[0].delta_r.item() for a in ties(sources, scales, density=1.0)]
            assert found == expected, scales

    def test_a_shared_basis_keeps_q_alpha_and_base_r(self):
        layers = [Layer.single(Q1, normal(RANK, WIDTH, seed=s), alpha=s + 0.5, base_r=BASE_R) for s in (1, 2)]
        sources = [QRLoRA({"x": layer}, {"k": "v"}, name=f"a{i}") for i, layer in enumerate(layers)]
        found = ties(sources, (1.0, 0.5), density=0.5)
        for before, after in zip(sources, found, strict=True):
            (old,), (new,) = before.layers["x"].terms, after.layers["x"].terms
            assert (new.q is old.q, new.base_r is old.base_r, new.alpha) == (True, True, old.alpha)
            assert new.delta_r.dtype == torch.float32
            assert after.metadata == before.metadata
        assert len(merge([(a, 1.0) for a in found]).layers["x"].terms) == 1

    def test_different_bases_become_one(self):
        found = ties([adapter(Q1, seed=1), adapter(Q2, seed=2)], (1.0, 1.0), density=0.5)
        (left,), (right,) = (a.layers["x"].terms for a in found)
        assert left.q is right.q
        assert left.q.dtype == left.delta_r.dtype == torch.float32
        assert left.alpha == left.rank == 2 * RANK
        for q in (Q1, Q2):
            assert oracle.error(left.q @ (left.q.T @ q), q) < FLOAT32

    def test_one_space_in_two_bases_has_its_rank(self):
        left, right = ties([adapter(Q1, seed=1), adapter(-Q1, seed=2)], (1.0, 1.0), density=0.5)
        assert left.layers["x"].rank == right.layers["x"].rank == RANK

    def test_what_a_change_of_basis_rounds_has_no_vote(self):
        """Of spaces that are at right angles: where an adapter has nothing, the other one's entries are not halved."""
        whole = orthonormal(OUT, 7, seed=8)
        sources = [adapter(whole[:, :4], seed=1), adapter(whole[:, 4:] @ orthonormal(3, 3, seed=9), seed=2)]
        found = merged_delta(ties(sources, (0.7, -1.3), density=1.0), (0.7, -1.3))
        assert oracle.error(found, 0.7 * dense(sources[0]) - 1.3 * dense(sources[1])) < FLOAT32

    def test_entries_of_one_size_stay_together(self):
        """Which of them are among the largest would be chance."""
        d = torch.tensor([[3.0, -2.0, 2.0, 2.0, 1.0, 0.0]])
        (found,) = ties([QRLoRA({"x": Layer.single(torch.eye(2, 1), d)})], (1.0,), density=0.34)
        assert found.layers["x"].terms[0].delta_r.tolist() == [[3.0, -2.0, 2.0, 2.0, 0.0, 0.0]]

    def test_what_is_undone_is_gone(self):
        """An adapter and its opposite, in one basis or written differently."""
        source = adapter(Q1, seed=1)
        for other in (source, QRLoRA({"x": Layer.single(2 * Q1, source.layers["x"].terms[0].delta_r / 2, alpha=2.5)})):
            found = merged_delta(ties([source, other], (0.7, -0.7), density=0.5), (0.7, -0.7))
            assert oracle.error(found, torch.zeros(1), dense(source)) < FLOAT32

    @pytest.mark.parametrize("part", ["q", "delta_r"])
    def test_nan_is_an_error_that_names_the_layer(self, part):
        source = adapter(Q2.clone(), seed=2)
        getattr(source.layers["x"].terms[0], part)[0, 0] = math.nan
        with pytest.raises(AdapterError, match=r"layer x: expected finite numbers"):
            ties([adapter(Q1, seed=1), source], (1.0, 1.0), density=0.5)

    def test_a_scale_of_zero_has_no_vote(self):
        sources = [adapter(Q1, seed=1), adapter(Q2, seed=2), adapter(Q1, seed=3)]
        found = ties(sources, (0.7, 0.0, -0.4), density=0.5)
        assert found[1] is sources[1]
        alone = ties([sources[0], sources[2]], (0.7, -0.4), density=0.5)
        for with_it, without in zip((found[0], found[2]), alone, strict=True):
            assert torch.equal(with_it.layers["x"].terms[0].delta_r, without.layers["x"].terms[0].delta_r)
        assert found[0].layers["x"].terms[0].q is Q1

    def test_a_layer_of_one_adapter_alone_is_trimmed_only(self):
        left = QRLoRA({"x": layer_of(Q1, seed=1), "y": layer_of(Q1, seed=2)})
        right = QRLoRA({"x": layer_of(Q2, seed=3), "z": layer_of(Q2, seed=4)})
        found, other = ties([left, right], (-0.8, 1.0), density=0.5)
        assert (list(found.layers), list(other.layers)) == (["x", "y"], ["x", "z"])
        old, new = left.layers["y"].terms[0].delta_r, found.layers["y"].terms[0].delta_r
        kept = old.abs() >= old.abs().flatten().sort(descending=True).values[old.numel() // 2 - 1]
        assert oracle.error(new, old * kept) < FLOAT32

    @pytest.mark.parametrize("alphas", [(0.0, 2.0), (2.0, 0.0), (0.0, 0.0)])
    def test_an_alpha_of_zero_adds_nothing(self, alphas):
        sources = [adapter(Q1, seed=seed, alpha=alpha) for seed, alpha in zip((1, 2), alphas, strict=True)]
        found = merged_delta(ties(sources, (1.0, 1.0), density=1.0), (1.0, 1.0))
        assert oracle.error(found, dense(sources[0]) + dense(sources[1]), torch.ones(1)) < FLOAT32

    def test_a_density_too_small_for_one_entry_keeps_none(self):
        found = ties([adapter(Q1, seed=1)], (1.0,), density=0.001)
        assert not found[0].layers["x"].delta_weight().any()

    def test_no_adapters(self):
        assert ties([], [], density=0.5) == []

    @pytest.mark.parametrize("density", [0.0, -0.5, 1.1, math.nan])
    def test_density_out_of_range_is_an_error(self, density):
        with pytest.raises(AdapterError, match=r"ties: expected density above 0 and up to 1, found"):
            ties([adapter(Q1, seed=1)], (1.0,), density=density)

    def test_scales_that_do_not_fit_are_errors(self):
        with pytest.raises(AdapterError, match=r"ties: expected one scale per adapter, 1, found 2"):
            ties([adapter(Q1, seed=1)], (1.0, 1.0), density=0.5)
        with pytest.raises(AdapterError, match=r"cat: expected a finite scale, found nan"):
            ties([adapter(Q1, seed=1, name="cat")], (math.nan,), density=0.5)

    def test_adapters_of_different_models_are_an_error(self):
        narrow = QRLoRA({"x": Layer.single(Q1, torch.ones(RANK, WIDTH - 1))})
        with pytest.raises(AdapterError, match=r"layer x: the adapters do not fit together: .*\(9, 12\).*\(9, 11\)"):
            ties([adapter(Q1, seed=1), narrow], (1.0, 1.0), density=0.5)


def test_inputs_are_not_changed():
    sources = [adapter(Q1, seed=1), adapter(Q2, Q1, seed=2)]
    parts = [part for source in sources for _, term in source.terms() for part in (term.q, term.delta_r)]
    copies = [part.clone() for part in parts]
    null_space(sources, 0, mu=1.0)
    ties(sources, (1.0, -0.5), density=0.5)
    assert all(torch.equal(part, copy) for part, copy in zip(parts, copies, strict=True))
