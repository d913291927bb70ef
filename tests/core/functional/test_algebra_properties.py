"""Properties of the algebra on random adapters: merging, files, rebasing, reducing and the merge modes.

A property holds whatever the adapter: any number of terms, bases that are shared, apart or not orthonormal, ranks above
what a weight can hold, layers that some adapters lack. Expected values come from dense float64 deltas.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from comfyui_qr_lora.qrlora_core import Layer, QRLoRA, Term, decompose, load_adapter, merge, save_adapter
from comfyui_qr_lora.qrlora_core.functional.compare import compare
from comfyui_qr_lora.qrlora_core.functional.null_space import null_space
from comfyui_qr_lora.qrlora_core.functional.rebase import overall_energy, rebase_layer, reduce_layer
from comfyui_qr_lora.qrlora_core.functional.ties import ties
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal, orthonormal

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT32 = 4e-6
OUT, WIDTH = 7, 6
BASES = [
    *(orthonormal(OUT, 3, seed=seed) for seed in (1, 2)),
    orthonormal(OUT, 5, seed=3),
    normal(OUT, 2, seed=4),
    normal(OUT, 3, seed=5, dtype=torch.bfloat16),
]
SHAPES = {"a": (WIDTH,), "b": (WIDTH,), "c": (3, 2, 1)}

SCALES = st.sampled_from([1.0, -1.0]) | st.floats(0.01, 3) | st.floats(-3, -0.01)
SEEDS = st.integers(0, 2**16)
properties = settings(max_examples=25, deadline=None, derandomize=True)


@st.composite
def terms(draw, kernel=(WIDTH,)):
    q = draw(st.sampled_from(BASES))
    delta_r = normal(q.shape[1], *kernel, seed=draw(SEEDS))
    if draw(st.booleans()):
        delta_r[draw(st.integers(0, q.shape[1] - 1))] = 0
    base_r = normal(q.shape[1], *kernel, seed=draw(SEEDS)) if draw(st.booleans()) else None
    return Term(q, delta_r, draw(st.floats(0.25, 8) | st.just(-2.0)), base_r)


@st.composite
def layers(draw, kernel=(WIDTH,)):
    return Layer(tuple(draw(st.lists(terms(kernel), min_size=1, max_size=3))))


@st.composite
def adapters(draw):
    paths = draw(st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, unique=True))
    return QRLoRA({path: draw(layers(SHAPES[path])) for path in paths}, name=draw(st.sampled_from("xyz")))


SOURCES = st.lists(st.tuples(adapters(), SCALES), min_size=1, max_size=3)


def dense(layer):
    return sum(oracle.delta_weight(term.q, term.delta_r, term.alpha) for term in layer.terms).flatten(1)


def size(*parts):
    """What errors are measured by: all terms, before any of them cancel."""
    return sum(
        torch.linalg.vector_norm(oracle.delta_weight(term.q, term.delta_r, term.alpha))
        for layer in parts
        for term in layer.terms
    )


def total(sources):
    """Path to ``sum_i scale_i delta_i`` and to the size of what was added."""
    deltas, sizes = {}, {}
    for source, scale in sources:
        for path, layer in source.layers.items():
            deltas[path] = deltas.get(path, 0) + scale * dense(layer)
            sizes[path] = sizes.get(path, 0) + abs(scale) * size(layer)
    return deltas, sizes


def assert_total(adapter, sources):
    deltas, sizes = total(sources)
    assert adapter.layers.keys() == deltas.keys()
    for path, layer in adapter.layers.items():
        assert oracle.error(dense(layer), deltas[path], sizes[path]) < FLOAT32, path


def assert_same(left, right):
    """Bit for bit the same adapter."""
    assert left.layers.keys() == right.layers.keys()
    for path, layer in left.layers.items():
        for a, b in zip(layer.terms, right.layers[path].terms, strict=True):
            assert a.alpha == b.alpha
            for x, y in ((a.q, b.q), (a.delta_r, b.delta_r), (a.base_r, b.base_r)):
                assert (x is y is None) or (x.dtype == y.dtype and torch.equal(x, y))


class TestMerge:
    @properties
    @given(SOURCES, st.randoms(use_true_random=False))
    def test_order_does_not_matter(self, sources, random):
        shuffled = random.sample(sources, len(sources))
        assert_total(merge(shuffled), sources)

    @properties
    @given(SOURCES, SCALES, SCALES)
    def test_is_linear_in_each_scale(self, sources, x, y):
        """``delta(x + y) = delta(x) + delta(y) - delta(0)`` in the scale of the first, the others standing by."""
        (source, _), *others = sources
        deltas, sizes = total([(source, abs(x) + abs(y)), *others])
        at = {scale: merge([(source, scale), *others]).layers for scale in (x + y, x, y, 0.0)}
        for path in deltas:
            both, left, right, none = (
                dense(at[scale][path]) if path in at[scale] else torch.zeros(OUT, WIDTH) for scale in (x + y, x, y, 0.0)
            )
            assert oracle.error(both, left + right - none, sizes[path]) < FLOAT32

    @properties
    @given(SOURCES, SCALES)
    def test_scales_compose(self, sources, factor):
        """A merge at a scale is the merge at the products of the scales."""
        assert_total(merge([(merge(sources), factor)]), [(source, factor * scale) for source, scale in sources])

    @properties
    @given(adapters())
    def test_of_one_at_scale_one_keeps_every_delta(self, adapter):
        assert_total(merge([(adapter, 1.0)]), [(adapter, 1.0)])


class TestFiles:
    @properties
    @given(adapters())
    def test_an_adapter_comes_back_bit_for_bit(self, tmp_path_factory, adapter):
        path = save_adapter(adapter, tmp_path_factory.mktemp("files") / "a.safetensors")
        assert_same(load_adapter(path), in_qr_form(adapter))

    @properties
    @given(SOURCES)
    def test_a_merge_comes_back_bit_for_bit(self, tmp_path_factory, sources):
        merged = merge(sources)
        path = save_adapter(merged, tmp_path_factory.mktemp("files") / "a.safetensors")
        assert_same(load_adapter(path), in_qr_form(merged))


def in_qr_form(adapter):
    """As `full` has it: what is not orthonormal, as the factors of an ordinary LoRA are not, becomes so."""
    layers = {
        path: layer.with_terms(term.orthonormal for term in layer.terms)
        for path, layer in adapter.layers.items()
        if not layer.is_vector and all(term.base_r is None for term in layer.terms)
    }
    return replace(adapter, layers={**adapter.layers, **layers})


@st.composite
def bases(draw):
    rank = draw(st.integers(1, min(OUT, WIDTH)))
    return decompose(normal(OUT, WIDTH, seed=draw(SEEDS)), rank, alpha=draw(st.floats(0.25, 8)))


class TestRebase:
    @properties
    @given(bases(), SEEDS)
    def test_onto_its_own_basis_is_the_identity(self, factors, seed):
        layer = Layer.single(factors.q, normal(factors.rank, WIDTH, seed=seed), alpha=factors.alpha)
        result = rebase_layer(layer, factors)
        assert oracle.error(result.layer.terms[0].delta_r, layer.terms[0].delta_r) < FLOAT32
        assert result.captured_energy == pytest.approx(1, abs=1e-6)

    @properties
    @given(layers(), bases())
    def test_is_a_projection(self, layer, factors):
        """Again it changes nothing, what is lost is orthogonal to what is kept, and no energy is won."""
        assume(torch.linalg.vector_norm(dense(layer)) > 1e-3 * size(layer))
        once = rebase_layer(layer, factors)
        twice = rebase_layer(once.layer, factors)
        kept, all_of_it = dense(once.layer), dense(layer)
        assert oracle.error(dense(twice.layer), kept, size(layer)) < FLOAT32
        assert abs(float((kept * (all_of_it - kept)).sum())) < FLOAT32 * float(size(layer)) ** 2
        assert 0 <= once.captured_energy <= 1
        assert once.energy == pytest.approx(float(all_of_it.square().sum()), rel=1e-9, abs=1e-9)
        share = float(kept.square().sum() / all_of_it.square().sum())
        assert once.captured_energy == pytest.approx(share, abs=1e-5)
        assert overall_energy([once]) == pytest.approx(once.captured_energy)

    @properties
    @given(layers(), layers(), bases(), SCALES)
    def test_is_linear(self, left, right, factors, scale):
        merged = merge([(QRLoRA({"a": left}), 1.0), (QRLoRA({"a": right}), scale)]).layers["a"]
        moved, first, second = (dense(rebase_layer(layer, factors).layer) for layer in (merged, left, right))
        assert oracle.error(moved, first + scale * second, size(left) + abs(scale) * size(right)) < FLOAT32


class TestReduce:
    @properties
    @given(layers(SHAPES["c"]))
    def test_at_full_rank_is_the_identity(self, layer):
        result = reduce_layer(layer, min(OUT, WIDTH))
        assert oracle.error(dense(result.layer), dense(layer), size(layer)) < FLOAT32
        assert result.captured_energy == pytest.approx(1)

    @properties
    @given(layers(), st.integers(1, WIDTH))
    def test_is_the_best_of_all_of_its_rank(self, layer, rank):
        assume(torch.linalg.vector_norm(dense(layer)) > 1e-3 * size(layer))
        result = reduce_layer(layer, rank)
        values = torch.linalg.svdvals(dense(layer))
        assert result.layer.rank <= rank
        assert torch.linalg.matrix_rank(dense(result.layer), rtol=1e-5) <= rank
        lost = torch.linalg.vector_norm(dense(layer) - dense(result.layer))
        assert float(lost) == pytest.approx(float(values[rank:].norm()), abs=FLOAT32 * float(size(layer)))
        assert 1 - result.captured_energy == pytest.approx(
            float(values[rank:].square().sum() / values.square().sum()), abs=1e-9
        )

    @properties
    @given(layers(), st.integers(1, 4))
    def test_again_changes_nothing(self, layer, rank):
        once = reduce_layer(layer, rank).layer
        assert oracle.error(dense(reduce_layer(once, rank).layer), dense(once), size(layer)) < FLOAT32


def principal_inputs(layer, energy):
    """V_k by the dense SVD; None where a gap in the spectrum, or in the shares, is too small to tell the rank."""
    _, S, Vh = torch.linalg.svd(dense(layer))
    shares = S.square().cumsum(0) / S.square().sum()
    k = int((shares < energy).sum()) + 1
    following = float(S[k]) if k < len(S) else 0.0
    clear = bool((shares - energy).abs().min() > 1e-6) and float(S[k - 1]) - following > 1e-3 * float(S[0])
    return Vh[:k].T if clear else None


class TestNullSpace:
    @properties
    @given(layers(), layers(), st.floats(0.1, 0.99))
    def test_hard_leaves_nothing_on_the_protected_directions(self, style, content, energy):
        V = principal_inputs(style, energy)
        assume(V is not None)
        found, _ = null_space([QRLoRA({"a": content}), QRLoRA({"a": style})], 1, mu=math.inf, energy=energy)
        assert torch.linalg.vector_norm(dense(found.layers["a"]) @ V) < FLOAT32 * size(content)
        assert oracle.error(dense(found.layers["a"]), dense(content) @ (torch.eye(WIDTH) - V @ V.T), size(content)) < (
            FLOAT32
        )

    @properties
    @given(layers(), layers(), st.floats(0.1, 1), st.floats(0.01, 100))
    def test_twice_is_once_for_hard_and_composes_for_soft(self, style, content, energy, mu):
        """Soft twice keeps ``(1 / (1 + mu))^2`` of what lies on the directions, which is once at another mu."""
        protected = QRLoRA({"a": style})
        for strength, again in ((math.inf, math.inf), (mu, (1 + mu) ** 2 - 1)):
            given_one = QRLoRA({"a": content})
            once, _ = null_space([given_one, protected], 1, mu=strength, energy=energy)
            twice, _ = null_space([once, protected], 1, mu=strength, energy=energy)
            direct, _ = null_space([given_one, protected], 1, mu=again, energy=energy)
            assert oracle.error(dense(twice.layers["a"]), dense(direct.layers["a"]), size(content)) < FLOAT32

    @properties
    @given(st.lists(adapters(), min_size=1, max_size=3), st.integers(0, 2), st.floats(0, 50), st.floats(0.1, 1))
    def test_the_protected_one_is_untouched_and_no_other_gains(self, given_adapters, protect, mu, energy):
        protect %= len(given_adapters)
        found = null_space(given_adapters, protect, mu=mu, energy=energy)
        assert found[protect] is given_adapters[protect]
        for before, after in zip(given_adapters, found, strict=True):
            assert after.metadata == before.metadata
            for path, layer in before.layers.items():
                norm, bound = (torch.linalg.vector_norm(dense(x)) for x in (after.layers[path], layer))
                assert norm <= bound + FLOAT32 * size(layer)
                if path not in given_adapters[protect].layers:
                    assert after.layers[path] is layer

    @properties
    @given(st.lists(adapters(), min_size=1, max_size=3), st.integers(0, 2))
    def test_mu_zero_is_the_identity(self, given_adapters, protect):
        found = null_space(given_adapters, protect % len(given_adapters), mu=0.0)
        assert all(a is b for a, b in zip(found, given_adapters, strict=True))


class TestTies:
    @properties
    @given(adapters(), SCALES)
    def test_of_one_adapter_at_density_one_is_the_identity(self, adapter, scale):
        (found,) = ties([adapter], [scale], density=1.0)
        assert_total(found, [(adapter, 1.0)])
        assert all(len(layer.terms) == 1 for layer in found.layers.values())

    @properties
    @given(
        st.sampled_from(BASES[:3]),
        st.floats(0.25, 8),
        st.lists(st.tuples(SEEDS, SCALES), min_size=1, max_size=4),
        st.floats(0.05, 1),
    )
    def test_the_mean_lies_between_the_voters(self, q, alpha, voters, density):
        """Every entry of the merge is 0 or between the smallest and the largest scaled entry of one sign."""
        sources = [QRLoRA({"a": Layer.single(q, normal(q.shape[1], WIDTH, seed=s), alpha=alpha)}) for s, _ in voters]
        scales = [scale for _, scale in voters]
        found = ties(sources, scales, density=density)
        merged = merge(list(zip(found, scales, strict=True))).layers["a"].terms
        entries = torch.stack(
            [scale * a.layers["a"].terms[0].delta_r for a, scale in zip(sources, scales, strict=True)]
        )
        mean = (merged[0].delta_r * merged[0].alpha / alpha).double()
        assert (mean <= entries.amax(0).clamp_min(0) + 1e-5).all()
        assert (mean >= entries.amin(0).clamp_max(0) - 1e-5).all()

    @properties
    @given(st.lists(st.tuples(adapters(), SCALES), min_size=1, max_size=3), st.floats(0.05, 1), st.floats(0.1, 8))
    def test_a_common_factor_of_the_scales_changes_no_vote(self, sources, density, factor):
        given_adapters, scales = [source for source, _ in sources], [scale for _, scale in sources]
        found = ties(given_adapters, scales, density=density)
        scaled = ties(given_adapters, [factor * scale for scale in scales], density=density)
        for left, right in zip(found, scaled, strict=True):
            assert_same(left, right)

    @properties
    @given(adapters(), st.integers(1, 4), st.floats(0.05, 1))
    def test_copies_of_one_adapter_merge_to_one(self, adapter, count, density):
        """The mean of equal votes is one of them, however many vote."""
        copies = ties([adapter] * count, [1.0] * count, density=density)
        (alone,) = ties([adapter], [1.0], density=density)
        merged = merge([(copy, 1.0) for copy in copies])
        for path, layer in alone.layers.items():
            assert oracle.error(dense(merged.layers[path]), dense(layer), size(adapter.layers[path])) < FLOAT32


class TestCompare:
    @properties
    @given(adapters(), adapters())
    def test_numbers_stay_in_their_ranges_and_swap_with_the_adapters(self, first, second):
        there, back = compare(first, second), compare(second, first)
        assert -1 - 1e-9 <= there.totals.interference <= 1 + 1e-9
        assert there.totals.interference == pytest.approx(back.totals.interference, abs=1e-9)
        for layer in there.layers:
            for share in (layer.column_overlap, layer.row_overlap):
                assert share is None or -1e-9 <= share <= 1 + 1e-9
            a, b = dense(first.layers[layer.path]), dense(second.layers[layer.path])
            gained = float(2 * (a * b).sum() / (a.square().sum() + b.square().sum()).clamp_min(1e-300))
            assert layer.interference == pytest.approx(gained, abs=1e-7)
        energy = sum(float(dense(layer).square().sum()) for layer in first.layers.values())
        assert sum(block.energy_first for block in there.blocks) == pytest.approx(energy, rel=1e-9, abs=1e-9)
