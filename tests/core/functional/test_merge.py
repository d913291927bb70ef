"""Merging against the float64 oracle: shared bases, different bases, scales, and what the record says."""

import itertools
import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyui_qr_lora.qrlora_core import AdapterError, Layer, QRLoRA, Term, merge
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal, orthonormal

FLOAT32 = 2e-6
OUT, RANK, WIDTH = 9, 4, 7
Q1, Q2, Q3 = (orthonormal(OUT, RANK, seed=seed) for seed in (1, 2, 3))
BASE_R = normal(RANK, WIDTH, seed=4)


def adapter(q, seed, *, alpha=float(RANK), path="x", name=None, base_r=None):
    layer = Layer.single(q, normal(q.shape[1], WIDTH, seed=seed), alpha=alpha, base_r=base_r)
    return QRLoRA({path: layer}, **({"name": name} if name else {}))


def deltas(sources):
    """``sum_i scale_i * delta_i`` per layer in float64, and the sum of the sizes of what was added."""
    total, size = {}, {}
    for source, scale in sources:
        for path, term in source.terms():
            part = scale * oracle.delta_weight(term.q, term.delta_r, term.alpha)
            total[path] = total.get(path, 0) + part
            size[path] = size.get(path, 0) + torch.linalg.vector_norm(part)
    return total, size


def assert_is_sum(merged, sources, tolerance=FLOAT32):
    """The delta of every layer is the oracle's, relative to the effects that were added."""
    expected, size = deltas([(source, scale) for source, scale in sources if scale != 0])
    assert merged.layers.keys() == expected.keys()
    for path, layer in merged.layers.items():
        assert oracle.error(layer.delta_weight(), expected[path], size[path]) < tolerance, path


def record(merged):
    """What is told of a merge, as plain lists."""
    told = asdict(merged.merge_record)
    sources = [{"name": name, "scale": scale} for name, scale in told.pop("sources")]
    return {"sources": sources, **{kind: list(paths) for kind, paths in told.items()}}


class TestSharedBasis:
    def test_is_one_product_for_any_number_of_adapters(self):
        parts = [(0.9, 4.0, 11), (0.4, 4.0, 12), (-1.3, 2.0, 13), (2.0, 10.0, 14), (0.05, 1.0, 15)]
        merged = merge([(adapter(Q1.clone(), seed, alpha=alpha), scale) for scale, alpha, seed in parts])
        (term,) = merged.layers["x"].terms
        assert torch.equal(term.q, Q1)
        W = normal(OUT, WIDTH, seed=5).double()
        delta = oracle.merged_delta(
            Q1, [(scale, alpha, normal(RANK, WIDTH, seed=seed)) for scale, alpha, seed in parts]
        )
        assert oracle.error(W + merged.layers["x"].delta_weight(), W + delta, delta) < FLOAT32
        assert record(merged)["shared"] == ["x"]

    def test_on_the_published_split_of_a_weight(self):
        """``W_res + scaling Q (R + sum dR) = W + scaling Q sum dR``: the residual need not be stored."""
        W, alpha = normal(OUT, WIDTH, seed=6), 6.0
        parts = oracle.split(W, RANK, alpha)
        q, base_r = parts.Q.float(), parts.R.float()
        sources = [(adapter(q, seed, alpha=alpha, base_r=base_r), scale) for seed, scale in ((1, 0.7), (2, -0.4))]
        (term,) = merge(sources).layers["x"].terms
        summed = sum(scale * source.layers["x"].terms[0].delta_r.double() for source, scale in sources)
        published = oracle.adapted_weight(parts, summed)
        assert oracle.error(W.double() + term.delta_weight(), published, published - W) < 1e-6
        # What is merged keeps its R, in the same scaling as its dR.
        assert oracle.error(term.scaling * term.q @ term.base_r, parts.scaling * parts.Q @ parts.R) < 1e-6

    @pytest.mark.parametrize("alphas", [(4.0, 8.0, 1.0), (0.5, 4.0, -2.0), (0.0, 4.0, 8.0), (4.0, 0.0, 0.0)])
    def test_each_adapter_keeps_its_own_alpha(self, alphas):
        sources = [(adapter(Q1, seed, alpha=alpha), 0.8) for seed, alpha in enumerate(alphas, 1)]
        for ordered in itertools.permutations(sources):
            merged = merge(ordered)
            assert len(merged.layers["x"].terms) == 1
            assert_is_sum(merged, ordered)

    def test_bfloat16_basis_is_taken_as_stored(self):
        """Neither orthonormal nor recomputable: a merge that rebuilds q from anything cannot pass."""
        q = (Q1 + 0.1 * normal(OUT, RANK, seed=7)).bfloat16()
        assert oracle.error(q.double().T @ q.double(), torch.eye(RANK)) > 0.05
        sources = [(adapter(q.clone(), 1), 0.7), (adapter(q.clone(), 2), -0.3)]
        (term,) = merge(sources).layers["x"].terms
        assert term.q.dtype == torch.bfloat16
        assert torch.equal(term.q, q)
        assert_is_sum(merge(sources), sources)

    def test_bfloat16_delta_r_is_summed_without_rounding_it_again(self):
        layers = [Layer.single(Q1, normal(RANK, WIDTH, seed=seed, dtype=torch.bfloat16)) for seed in (1, 2)]
        sources = [(QRLoRA({"x": layers[0]}), 0.7), (QRLoRA({"x": layers[1]}), 1.1)]
        assert_is_sum(merge(sources), sources)

    def test_of_a_convolution(self):
        layers = [Layer.single(Q1, normal(RANK, 5, 3, 3, seed=seed)) for seed in (1, 2)]
        sources = [(QRLoRA({"x": layer}), scale) for layer, scale in zip(layers, (0.3, -2.0), strict=True)]
        assert merge(sources).layers["x"].shape == (OUT, 5, 3, 3)
        assert_is_sum(merge(sources), sources)


class TestDifferentBases:
    def test_are_concatenated_exactly(self):
        sources = [(adapter(Q1, 1, alpha=8.0), 0.7), (adapter(Q2, 2, alpha=2.0), -1.2)]
        merged = merge(sources)
        assert [term.q.data_ptr() for term in merged.layers["x"].terms] == [Q1.data_ptr(), Q2.data_ptr()]
        assert_is_sum(merged, sources)
        assert record(merged)["concatenated"] == ["x"]

    def test_the_first_basis_is_not_used_for_both(self):
        """The fault of the published merge, which this test must notice."""
        sources = [(adapter(Q1, 1), 1.0), (adapter(Q2, 2), 1.0)]
        wrong = oracle.merged_delta(Q1, [(1.0, RANK, source.layers["x"].terms[0].delta_r) for source, _ in sources])
        right, _ = deltas(sources)
        assert oracle.error(wrong, right["x"]) > 0.5
        assert oracle.error(merge(sources).layers["x"].delta_weight(), right["x"]) < FLOAT32

    def test_one_bit_apart_is_a_different_basis(self):
        near = Q1.clone()
        near[0, 0] = torch.nextafter(near[0, 0], torch.tensor(2.0))
        merged = merge([(adapter(Q1, 1), 1.0), (adapter(near, 2), 1.0)])
        assert len(merged.layers["x"].terms) == 2

    def test_signs_or_dtype_apart_is_a_different_basis(self):
        for other in (-Q1, Q1.bfloat16(), Q1.double()):
            sources = [(adapter(Q1, 1), 0.5), (adapter(other, 2), 0.5)]
            assert len(merge(sources).layers["x"].terms) == 2
            assert_is_sum(merge(sources), sources)

    def test_different_ranks(self):
        sources = [(adapter(Q1, 1), 0.7), (adapter(orthonormal(OUT, 2, seed=9), 2, alpha=5.0), 1.4)]
        assert merge(sources).layers["x"].rank == RANK + 2
        assert_is_sum(merge(sources), sources)

    def test_of_one_basis_among_several_are_still_summed(self):
        sources = [(adapter(Q1, 1), 0.7), (adapter(Q2, 2), 1.4), (adapter(Q1.clone(), 3), -0.2)]
        assert [term.rank for term in merge(sources).layers["x"].terms] == [RANK, RANK]
        assert_is_sum(merge(sources), sources)


class TestLayers:
    def test_adapters_that_cover_different_layers(self):
        left = QRLoRA({path: adapter(Q1, seed).layers["x"] for seed, path in enumerate(("a", "b"), 1)})
        right = QRLoRA({"b": adapter(Q1, 3).layers["x"], "c": adapter(Q2, 4).layers["x"]})
        sources = [(left, 0.6), (right, 1.7)]
        assert_is_sum(merge(sources), sources)
        how = record(merge(sources))
        assert (how["single"], how["shared"], how["concatenated"]) == (["a", "c"], ["b"], [])

    @pytest.mark.parametrize("shape", [(RANK, WIDTH + 1), (RANK, WIDTH, 1, 1)])
    def test_one_basis_with_delta_r_of_different_shapes_names_the_layer(self, shape):
        other = QRLoRA({"ok": adapter(Q1, 3).layers["x"], "blocks.1.to_q": Layer.single(Q1, torch.ones(shape))})
        with pytest.raises(AdapterError, match=r"layer blocks\.1\.to_q: .*\(9, 7\).*\(9, [78]"):
            merge([(adapter(Q1, 1, path="blocks.1.to_q"), 1.0), (other, 1.0)])

    def test_different_weights_name_the_layer(self):
        narrow = QRLoRA({"blocks.1.to_q": Layer.single(torch.ones(OUT - 1, 2), torch.ones(2, WIDTH))})
        with pytest.raises(AdapterError, match=r"layer blocks\.1\.to_q: .*\(8, 7\)"):
            merge([(adapter(Q1, 1, path="blocks.1.to_q"), 1.0), (narrow, 1.0)])


class TestScales:
    @pytest.mark.parametrize("scale", [1.0, 0.1, -1.0, -3.7, 10.0])
    @pytest.mark.parametrize("alpha", [4.0, 1.0, 12.0])
    def test_one_adapter(self, scale, alpha):
        sources = [(adapter(Q1, 1, alpha=alpha), scale)]
        assert_is_sum(merge(sources), sources)

    def test_scale_one_changes_no_bit(self):
        source = adapter(Q1, 1, alpha=3.0)
        (term,), (original,) = merge([(source, 1.0)]).layers["x"].terms, source.layers["x"].terms
        assert torch.equal(term.delta_r, original.delta_r)
        assert (term.alpha, term.q.data_ptr()) == (original.alpha, original.q.data_ptr())

    @pytest.mark.parametrize("zero", [0, 0.0, -0.0])
    def test_zero_drops_the_adapter(self, zero):
        kept = adapter(Q1, 1, name="kept")
        merged = merge([(adapter(Q2, 2, name="off"), zero), (kept, 0.5)])
        alone = merge([(kept, 0.5)])
        assert torch.equal(merged.layers["x"].delta_weight(), alone.layers["x"].delta_weight())
        assert record(merged)["sources"] == [{"name": "kept", "scale": 0.5}]
        assert record(merged)["single"] == ["x"]

    def test_all_zero_leaves_no_layers(self):
        merged = merge([(adapter(Q1, 1), 0.0), (adapter(Q2, 2), 0.0)])
        assert not merged.layers
        assert record(merged) == {"sources": [], "shared": [], "concatenated": [], "single": []}

    def test_nothing_to_merge(self):
        assert not merge([]).layers
        assert not merge(iter(())).layers

    def test_opposite_scales_cancel(self):
        merged = merge([(adapter(Q1, 1), 0.7), (adapter(Q1, 1), -0.7)])
        assert torch.count_nonzero(merged.layers["x"].delta_weight()) == 0

    @pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
    def test_not_finite_is_an_error_that_names_the_adapter(self, scale):
        with pytest.raises(AdapterError, match=r"cat\.safetensors: expected a finite scale, found -?(nan|inf)"):
            merge([(adapter(Q1, 1, name="cat.safetensors"), scale)])


class TestRecord:
    def test_names_and_scales_of_the_sources(self):
        merged = merge([(adapter(Q1, 1, name="content"), 0.9), (adapter(Q1, 2, name="style"), -0.4)])
        assert record(merged)["sources"] == [{"name": "content", "scale": 0.9}, {"name": "style", "scale": -0.4}]
        assert merged.name == "content + style"

    def test_every_layer_is_in_exactly_one_list(self):
        left = QRLoRA({path: adapter(Q1, 1).layers["x"] for path in "abc"})
        right = QRLoRA({path: adapter(q, 2).layers["x"] for path, q in (("b", Q1), ("c", Q2), ("d", Q2))})
        how = record(merge([(left, 1.0), (right, 1.0)]))
        assert (how["single"], how["shared"], how["concatenated"]) == (["a", "d"], ["b"], ["c"])

    @pytest.mark.parametrize(
        ("left", "right", "kind"),
        [
            ([Q1], [Q1], "shared"),
            ([Q1], [Q2], "concatenated"),
            ([Q1, Q2], [Q2, Q1], "shared"),
            ([Q1, Q2], [Q2], "concatenated"),
            ([Q1, Q2], [Q3], "concatenated"),
            ([Q1, Q2], [Q2, Q3], "concatenated"),
            ([Q1, Q1], [Q2], "concatenated"),
            ([Q1, Q1], [Q1], "shared"),
            ([Q1, Q1], [Q1, Q1], "shared"),
        ],
    )
    def test_of_layers_with_several_terms(self, left, right, kind):
        """Shared: every basis of the result is in every source, whatever the number of terms."""
        seeds = itertools.count()
        layers = [
            Layer(tuple(Term(q, normal(RANK, WIDTH, seed=next(seeds))) for q in bases)) for bases in (left, right)
        ]
        sources = [(QRLoRA({"x": layer}), 0.5) for layer in layers]
        merged = merge(sources)
        assert record(merged)[kind] == ["x"]
        assert_is_sum(merged, sources)

    def test_metadata_keeps_what_all_agree_on_and_nothing_else(self):
        left = QRLoRA(adapter(Q1, 1).layers, {"base": "sd3", "triggers": "a cat", "rank": "4"})
        right = QRLoRA(adapter(Q1, 2).layers, {"base": "sd3", "triggers": "in style", "seed": "1"})
        assert merge([(left, 1.0), (right, 1.0)]).metadata == {"base": "sd3"}
        again = merge([(merge([(left, 1.0)]), 0.5)])
        assert record(again)["sources"] == [{"name": "unsaved adapter", "scale": 0.5}]


def test_inputs_are_not_changed():
    sources = [
        (adapter(Q1.clone(), 1, base_r=BASE_R.clone()), 0.7),
        (adapter(Q1.clone(), 2), -0.5),
        (adapter(Q2.clone(), 3), 2.0),
    ]
    parts = [tensor for source, _ in sources for _, term in source.terms() for tensor in (term.q, term.delta_r)]
    copies = [part.clone() for part in parts]
    given_pairs = list(sources)
    merged = merge(sources)
    merge([(merged, 0.3), *sources])
    assert all(torch.equal(part, copy) for part, copy in zip(parts, copies, strict=True))
    assert sources == given_pairs


# Properties, on small random adapters whose layers share bases, differ in them, or are missing.

SCALES = st.sampled_from([0.0, 1.0, -1.0]) | st.floats(0.001, 3) | st.floats(-3, -0.001)
ALPHAS = st.sampled_from([1.0, 4.0, 8.0]) | st.floats(0.25, 16)
SEEDS = st.integers(0, 2**16)


@st.composite
def adapters(draw):
    layers = {
        path: Layer(
            tuple(
                Term(draw(st.sampled_from([Q1, Q2, Q3])), normal(RANK, WIDTH, seed=draw(SEEDS)), draw(ALPHAS))
                for _ in range(draw(st.integers(1, 2)))
            )
        )
        for path in draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True))
    }
    return QRLoRA(layers)


SOURCES = st.lists(st.tuples(adapters(), SCALES), min_size=1, max_size=4)
properties = settings(max_examples=40, deadline=None, derandomize=True)


@properties
@given(SOURCES)
def test_property_merge_is_the_weighted_sum(sources):
    assert_is_sum(merge(sources), sources)


@properties
@given(SOURCES, st.randoms(use_true_random=False))
def test_property_order_does_not_matter(sources, random):
    shuffled = random.sample(sources, len(sources))
    assert_is_sum(merge(shuffled), sources)
    ours, theirs = record(merge(sources)), record(merge(shuffled))
    assert all(set(ours[kind]) == set(theirs[kind]) for kind in ("shared", "concatenated", "single"))


@properties
@given(SOURCES, SCALES, SCALES)
def test_property_linear_in_each_scale(sources, first, second):
    """``delta(a + b) = delta(a) + delta(b)`` in the scale of one adapter, the others standing by once."""
    (source, _), *others = sources
    apart = merge([(source, first), (source, second), *others])
    assert_is_sum(apart, [(source, first + second), *others] if first + second else sources_of(first, source, others))


def sources_of(scale, source, others):
    """The same adapter forth and back: its layers are there, and they are zero."""
    return [(source, scale), (source, -scale), *others]


@properties
@given(SOURCES, SOURCES, SCALES, SCALES)
def test_property_a_merge_of_merges_is_the_flat_merge(left, right, x, y):
    nested = merge([(merge(left), x), (merge(right), y)])
    flat = [(source, x * scale) for source, scale in left] + [(source, y * scale) for source, scale in right]
    assert_is_sum(nested, flat)
    bases = {path: {term.basis_id for term in layer.terms} for path, layer in merge(flat).layers.items()}
    assert bases == {path: {term.basis_id for term in layer.terms} for path, layer in nested.layers.items()}


@properties
@given(SOURCES)
def test_property_no_basis_stands_twice_in_a_merged_layer(sources):
    for layer in merge(sources).layers.values():
        if len(layer.terms) > 1:
            assert len({term.basis_id for term in layer.terms}) == len(layer.terms)
