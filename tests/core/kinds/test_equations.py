"""Every kind of adapter against its published equation in float64, from a file on: see `support.adapter_kinds`."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from comfyui_qr_lora.qrlora_core import (
    AdapterError,
    BasisStore,
    Layer,
    QRLoRA,
    Term,
    decompose,
    load_adapter,
    merge,
    save_adapter,
)
from comfyui_qr_lora.qrlora_core.changes.dora import Dora
from comfyui_qr_lora.qrlora_core.functional.compare import compare
from comfyui_qr_lora.qrlora_core.functional.inner_product import inner_product
from comfyui_qr_lora.qrlora_core.functional.null_space import null_space
from comfyui_qr_lora.qrlora_core.functional.rebase import rebase_layer, reduce_layer
from comfyui_qr_lora.qrlora_core.functional.ties import ties
from comfyui_qr_lora.qrlora_core.term import from_difference
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.adapter_kinds import KINDS, kinds_for, made
from comfyui_qr_lora.tests.support.oracle import normal

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = 1e-5  # relative to the effect, of what is stored in float32
SHAPES = [
    (16, 12), (8, 24), (8, 8), (24, 6), (8, 4, 3, 3), (16, 8, 3, 3), (8, 8, 3, 3), (8, 6, 1, 1), (8, 4, 5), (24,),
]  # fmt: skip
CASES = [(kind, shape) for shape in SHAPES for kind in kinds_for(shape)]
SUMS = [(kind, shape) for kind, shape in CASES if KINDS[kind].is_sum]
OTHERS = [(kind, shape) for kind, shape in CASES if not KINDS[kind].is_sum]
MATRICES = [shape for shape in SHAPES if len(shape) > 1]
SEEDS = (1, 2)
PRODUCTS = ("LoRA", "LoHa", "whole difference")  # terms alone
LAYER = "lora_unet_blocks_0_attn_qkv"
properties = settings(max_examples=40, deadline=None, derandomize=True)


def each(cases):
    return pytest.mark.parametrize(("kind", "shape"), cases, ids=[f"{kind} {shape}" for kind, shape in cases])


def weight(shape, seed=100):
    return normal(*shape, seed=seed, dtype=torch.float64)


def as_weight(shape):
    """The shape in which a layer has it: that of a vector is (n, 1)."""
    return (*shape, 1) if len(shape) == 1 else shape


@pytest.fixture
def read(tmp_path):
    """Gives the one layer in a file of these tensors, in the shape of its weight."""

    def layer(tensors, shape):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "a.safetensors")
        loaded = load_adapter(tmp_path / "a.safetensors")
        assert loaded.origin.not_loaded == ""
        (found,) = loaded.layers.values()
        return found.in_shape(as_weight(shape))

    return layer


@pytest.fixture
def generated(read):
    """Gives a layer of a kind, through a file, and its effect on `weight`."""

    def layer(kind, shape, seed=1):
        one = made(kind, shape, seed)
        return read(one.keyed(LAYER), shape), one.effect(weight(shape)).reshape(as_weight(shape))

    return layer


def delta(layer, shape):
    return layer.delta_weight(weight(shape).reshape(as_weight(shape)))


class TestTheEquation:
    @pytest.mark.parametrize("seed", SEEDS)
    @each(CASES)
    def test_is_that_of_the_publication(self, read, kind, shape, seed):
        one, W = made(kind, shape, seed), weight(shape, 100 + seed)
        layer, expected = read(one.keyed(LAYER), shape), one.effect(W).reshape(as_weight(shape))
        found = layer.delta_weight(W.reshape(as_weight(shape)))
        assert found.dtype == torch.float64
        assert oracle.error(found, expected) < EXACT
        assert layer.shape[0] in (0, shape[0])
        assert oracle.error(layer.delta_weight(W.float().reshape(as_weight(shape))), expected) < EXACT

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
    @each([(kind, shape) for kind, shape in CASES if shape in ((16, 12), (8, 8, 3, 3), (24,))])
    def test_is_that_of_the_numbers_as_stored(self, read, kind, shape, dtype):
        one = made(kind, shape, 3, dtype)
        expected = one.effect(weight(shape)).reshape(as_weight(shape))
        assert oracle.error(delta(read(one.keyed(LAYER), shape), shape), expected) < EXACT

    @each(SUMS)
    def test_needs_no_weight_where_it_is_a_sum(self, generated, kind, shape):
        layer, expected = generated(kind, shape)
        assert layer.contains_base == ""
        assert oracle.error(layer.delta_weight(), expected) < EXACT
        terms = layer.as_terms()
        assert terms.changes == ()
        assert oracle.error(delta(terms, shape), expected) < EXACT
        assert terms.rank >= torch.linalg.matrix_rank(expected.flatten(1), rtol=1e-6)
        assert layer.rank >= torch.linalg.matrix_rank(expected.flatten(1), rtol=1e-6)

    @each(OTHERS)
    def test_needs_the_weight_elsewhere_and_says_of_what_kind_it_is(self, generated, kind, shape):
        layer, _ = generated(kind, shape)
        name = layer.contains_base
        assert name.split(" of ")[0] == KINDS[kind].name
        for call in (layer.delta_weight, layer.as_terms):
            with pytest.raises(AdapterError, match=f"{name} contains the base weight"):
                call()

    @each(CASES)
    def test_leaves_the_weight_and_the_layer_alone(self, generated, kind, shape):
        layer, _ = generated(kind, shape)
        W = weight(shape).reshape(as_weight(shape))
        before = W.clone()
        first = layer.delta_weight(W)
        first_bits = first.clone()
        first.zero_()
        assert torch.equal(W, before)
        assert torch.equal(layer.delta_weight(W), first_bits)

    @each(CASES)
    def test_of_a_weight_of_zeros_is_finite(self, generated, kind, shape):
        layer, _ = generated(kind, shape)
        assert torch.isfinite(layer.delta_weight(torch.zeros(as_weight(shape)))).all()

    @each([(kind, (8, 4, 3)) for kind in KINDS if "by column" in kind])
    def test_of_a_weight_with_other_columns_is_refused(self, read, kind, shape):
        layer = read(made(kind, shape, 1).keyed(LAYER), shape)
        for other in ((8, 12), (8, 2, 6), (8, 12, 1)):
            with pytest.raises(AdapterError, match="DoRA"):
                layer.in_shape(other).delta_weight(weight(other))


class TestOneKernel:
    """A linear layer and a convolution with a kernel of one are the same weight: files have either."""

    @each([(kind, (8, 6)) for kind in kinds_for((8, 6))])
    def test_a_linear_layer_serves_a_convolution_and_back(self, read, kind, shape):
        W = weight(shape)
        one = made(kind, shape, 1)
        layer = read(one.keyed(LAYER), shape).in_shape((8, 6, 1, 1))
        assert oracle.error(layer.delta_weight(W.reshape(8, 6, 1, 1)), one.effect(W).reshape(8, 6, 1, 1)) < EXACT
        back = layer.in_shape(shape)
        assert oracle.error(back.delta_weight(W), one.effect(W)) < EXACT


class TestFiles:
    @pytest.mark.parametrize("seed", SEEDS)
    @each(CASES)
    def test_full_is_exact_there_and_back(self, tmp_path, kind, shape, seed):
        path = tmp_path / "a.safetensors"
        save_file({key: one.contiguous() for key, one in made(kind, shape, seed).keyed(LAYER).items()}, path)
        adapter = load_adapter(path)
        again = load_adapter(save_adapter(adapter, tmp_path / "b.safetensors"))
        assert again.origin.not_loaded == ""
        assert again.layers.keys() == adapter.layers.keys()
        W = weight(shape).reshape(as_weight(shape))
        for name, layer in adapter.layers.items():
            found = again.layers[name]
            assert (found.is_vector, found.contains_base, found.shape) == (
                layer.is_vector, layer.contains_base, layer.shape,
            )  # fmt: skip
            expected = layer.in_shape(as_weight(shape)).delta_weight(W)
            assert oracle.error(found.in_shape(as_weight(shape)).delta_weight(W), expected) < 1e-6
            assert [type(change) for change in found.changes] == [type(change) for change in layer.changes]
            for mine, theirs in zip(found.changes, layer.changes, strict=True):
                assert (mine.kind, mine.scale, mine.rows) == (theirs.kind, theirs.scale, theirs.rows)
                assert mine.tensors().keys() == theirs.tensors().keys()
                assert all(torch.equal(mine.tensors()[part], own) for part, own in theirs.tensors().items())

    @pytest.mark.parametrize("shape", [(16, 12), (8, 8, 3, 3)])
    def test_a_merge_of_all_kinds_in_rows_is_exact_there_and_back(self, generated, tmp_path, shape):
        layers = [generated(kind, shape)[0].in_rows(8, shape[0], 40) for kind in kinds_for(shape)]
        merged = merge([(QRLoRA({LAYER: layer}), 0.3 + 0.1 * number) for number, layer in enumerate(layers)])
        again = load_adapter(save_adapter(merged, tmp_path / "b.safetensors"))
        W = weight((40, *shape[1:]))
        found, expected = (adapter.layers[LAYER].delta_weight(W) for adapter in (again, merged))
        assert oracle.error(found, expected) < EXACT
        assert [(one.kind, one.scale, one.rows) for one in again.layers[LAYER].changes] == [
            (one.kind, one.scale, one.rows) for one in merged.layers[LAYER].changes
        ]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @each([(kind, shape) for kind, shape in CASES if shape in ((16, 12), (8, 8, 3, 3))])
    def test_in_half_precision_is_as_exact_as_that_is(self, generated, tmp_path, kind, shape, dtype):
        layer, expected = generated(kind, shape)
        path = save_adapter(QRLoRA({LAYER: layer}), tmp_path / "b.safetensors", dtype=dtype)
        assert oracle.error(delta(load_adapter(path).layers[LAYER], shape), expected) < 2e-2

    @each([(kind, shape) for kind, shape in CASES if shape in ((16, 12), (8, 8), (8, 8, 3, 3), (24,))])
    def test_as_an_ordinary_lora_sums_are_exact_and_others_refused_by_name(self, generated, tmp_path, kind, shape):
        layer, expected = generated(kind, shape)
        name = "diffusion_model.blocks.0.norm.weight" if layer.is_vector else "diffusion_model.blocks.0.to_q"
        adapter = QRLoRA({name: layer}, name="mine.safetensors")
        out, inner = shape[0], math.prod(shape[1:])
        is_larger = bool(layer.changes) and layer.rank * (out + inner) > out * inner
        if KINDS[kind].is_sum and not is_larger:
            path = save_adapter(adapter, tmp_path / "b.safetensors", format="lora")
            assert oracle.error(delta(load_adapter(path).layers[name], shape), expected) < EXACT
        else:
            told = "larger than the weight" if is_larger and KINDS[kind].is_sum else "contains the base weight"
            with pytest.raises(AdapterError, match=f"layer {name}: {layer.changes[0].kind}.*{told}"):
                save_adapter(adapter, tmp_path / "b.safetensors", format="lora")
            assert not (tmp_path / "b.safetensors").exists()

    @pytest.mark.parametrize("kind", [kind for kind in kinds_for((8, 6)) if KINDS[kind].name not in PRODUCTS])
    def test_compact_refuses_what_is_no_single_product_by_name(self, generated, tmp_path, kind):
        """Also beside a term that it could hold."""
        layer, _ = generated(kind, (8, 6))
        factors = decompose(weight((8, 6)).float(), 2)
        term = Term(factors.q, normal(2, 6, seed=1), base_r=factors.base_r)
        for own in (layer, layer.with_terms((term,), layer.changes)):
            adapter, bases = QRLoRA({LAYER: own}), BasisStore(tmp_path)
            with pytest.raises(AdapterError, match=f"found {layer.changes[0].kind}"):
                save_adapter(adapter, tmp_path / "b.safetensors", format="compact", bases=bases)


def mixes(draw, shape):
    """Some kinds, each with a seed and a scale."""
    listed = kinds_for(shape)
    return draw(
        st.lists(
            st.tuples(st.sampled_from(listed), st.integers(0, 9), st.floats(-2, 2).filter(lambda scale: scale != 0)),
            min_size=1,
            max_size=4,
        )
    )


@st.composite
def mixed(draw):
    shape = draw(st.sampled_from(MATRICES))
    return shape, mixes(draw, shape)


def adapters(mix, shape, folder):
    """(adapter, scale) of a mix, through files, and ``sum scale (W' - W)`` with the size of what was added."""
    sources, total, size, W = [], torch.zeros(shape).double(), 0.0, weight(shape)
    for number, (kind, seed, scale) in enumerate(mix):
        one = made(kind, shape, seed)
        path = folder / f"{number}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in one.keyed(LAYER).items()}, path)
        loaded = load_adapter(path)
        layers = {name: layer.in_shape(shape) for name, layer in loaded.layers.items()}
        sources.append((QRLoRA(layers, name=kind), scale))
        total = total + scale * one.effect(W)
        size += abs(scale) * float(torch.linalg.vector_norm(one.effect(W)))
    return sources, total, size


class TestMerging:
    @properties
    @given(mixed())
    def test_effects_of_any_mix_add_in_any_order(self, tmp_path_factory, given_mix):
        shape, mix = given_mix
        sources, total, size = adapters(mix, shape, tmp_path_factory.mktemp("mix"))
        for order in itertools.permutations(sources):
            found = merge(order).layers[LAYER].delta_weight(weight(shape))
            assert float(torch.linalg.vector_norm(found - total)) < EXACT * size

    @properties
    @given(mixed(), st.floats(-2, 2), st.floats(-2, 2))
    def test_is_linear_in_each_scale(self, tmp_path_factory, given_mix, x, y):
        shape, mix = given_mix
        sources, _, size = adapters(mix, shape, tmp_path_factory.mktemp("mix"))
        (first, _), *others = sources
        W = weight(shape)

        def at(scale):
            layers = merge([(first, scale), *others]).layers
            return layers[LAYER].delta_weight(W) if LAYER in layers else torch.zeros_like(W)

        own = float(torch.linalg.vector_norm(at(1.0) - at(0.0)))
        assert float(torch.linalg.vector_norm(at(x + y) - at(x) - at(y) + at(0.0))) < EXACT * (size + 4 * own)

    @each(CASES)
    def test_at_scale_zero_is_nothing(self, generated, kind, shape):
        layer, _ = generated(kind, shape)
        adapter = QRLoRA({LAYER: layer})
        other = QRLoRA({LAYER: Layer((from_difference(weight(as_weight(shape), 3)),))})
        assert not merge([(adapter, 0.0)]).layers
        alone = merge([(other, 0.7)]).layers[LAYER]
        beside = merge([(adapter, 0.0), (other, 0.7)]).layers[LAYER]
        assert torch.equal(delta(beside, shape), delta(alone, shape))
        for change in layer.changes:
            assert not change.is_zero
            assert change.scaled(0.0).is_zero
            assert not change.scaled(0.0).delta_weight(weight(shape).reshape(as_weight(shape))).any()

    @each(CASES)
    def test_at_scale_one_is_the_layer_itself(self, generated, kind, shape):
        layer, _ = generated(kind, shape)
        assert merge([(QRLoRA({LAYER: layer}), 1.0)]).layers[LAYER] is layer

    @each(OTHERS)
    def test_half_way_is_half_of_the_effect(self, generated, kind, shape):
        """ComfyUI takes others: OFT's goes with the square, BOFT's with a power, a replaced weight's not at all."""
        layer, expected = generated(kind, shape)
        half = merge([(QRLoRA({LAYER: layer}), 0.5)]).layers[LAYER]
        assert oracle.error(delta(half, shape), 0.5 * expected) < EXACT


class TestRows:
    """Of a weight that holds several of a file's layers side by side."""

    @each([(kind, shape) for kind, shape in CASES if len(shape) > 1])
    def test_act_on_these_rows_alone(self, generated, kind, shape):
        layer, _ = generated(kind, shape)
        W = weight((3 * shape[0], *shape[1:]))
        for start in (0, shape[0], 2 * shape[0]):
            expected = torch.zeros_like(W)
            part = slice(start, start + shape[0])
            expected[part] = made(kind, shape, 1).effect(W[part])
            sliced = layer.in_rows(start, shape[0], len(W))
            assert sliced.shape[0] in (0, len(W))
            assert oracle.error(sliced.delta_weight(W), expected) < EXACT
            inner = layer.in_rows(0, shape[0], 2 * shape[0]).in_rows(shape[0], 2 * shape[0], len(W))
            again = layer.in_rows(shape[0], shape[0], len(W))
            assert torch.equal(inner.delta_weight(W), again.delta_weight(W))
            if KINDS[kind].is_sum:
                assert oracle.error(delta(sliced.as_terms(), W.shape), expected) < EXACT


class TestBoundToOneWeight:
    @each([(kind, shape) for kind, shape in OTHERS if KINDS[kind].name == "DoRA"])
    def test_dora_is_linear_in_the_weight(self, generated, kind, shape):
        layer, expected = generated(kind, shape)
        (change,) = layer.changes
        assert isinstance(change, Dora)
        W = weight(shape)
        bound = layer.bound(W)
        assert not any(isinstance(own, Dora) for own in bound.changes)
        assert oracle.error(bound.delta_weight(W), expected) < EXACT
        half = layer.with_terms((), [change.scaled(0.5)]).bound(W)
        assert oracle.error(half.delta_weight(W), 0.5 * expected) < EXACT
        total = weight((3 * shape[0], *shape[1:]))
        rows = layer.in_rows(shape[0], shape[0], len(total))
        assert oracle.error(rows.bound(total).delta_weight(total), rows.delta_weight(total)) < EXACT


class TestOfSums:
    """What works on deltas alone, on kinds that are no plain product, against the same deltas as dense differences."""

    @pytest.mark.parametrize("shape", MATRICES)
    def test_inner_product_is_that_of_the_dense_deltas(self, generated, shape):
        kinds = [kind for kind in kinds_for(shape) if KINDS[kind].is_sum]
        layers = [generated(kind, shape, seed) for seed, kind in enumerate(kinds)]
        for (first, dense_first), (second, dense_second) in itertools.combinations_with_replacement(layers, 2):
            found = inner_product(QRLoRA({LAYER: first}), QRLoRA({LAYER: second}))
            size = float(torch.linalg.vector_norm(dense_first) * torch.linalg.vector_norm(dense_second))
            assert found == pytest.approx(float((dense_first * dense_second).sum()), abs=EXACT * size)

    @pytest.mark.parametrize("shape", [(16, 12), (8, 8, 3, 3)])
    def test_inner_product_of_merges_and_rows(self, generated, shape):
        kinds = [kind for kind in kinds_for(shape) if KINDS[kind].is_sum]
        layers = [generated(kind, shape, seed)[0].in_rows(8, shape[0], 40) for seed, kind in enumerate(kinds)]
        first = merge([(QRLoRA({LAYER: layer}), 0.5 + number) for number, layer in enumerate(layers[::2])])
        second = merge([(QRLoRA({LAYER: layer}), 0.5 - number) for number, layer in enumerate(layers[1::2])])
        a, b = (delta(one.layers[LAYER], (40, *shape[1:])) for one in (first, second))
        size = float(torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))
        assert inner_product(first, second) == pytest.approx(float((a * b).sum()), abs=EXACT * size)

    @each([(kind, shape) for kind, shape in SUMS if KINDS[kind].name in ("LoKr", "LoHa")])
    def test_modes_equal_those_on_the_dense_difference(self, generated, kind, shape):
        layer, dense = generated(kind, shape)
        own, same = QRLoRA({LAYER: layer}), QRLoRA({LAYER: Layer((from_difference(dense.float()),))})
        other = QRLoRA({LAYER: generated("LoRA", shape, 5)[0]})
        size = torch.linalg.vector_norm(dense)

        def assert_same(found, expected):
            for a, b in zip(found, expected, strict=True):
                difference = delta(a.layers[LAYER], shape) - delta(b.layers[LAYER], shape)
                assert float(torch.linalg.vector_norm(difference)) < 10 * EXACT * float(size)

        assert_same(null_space([own, other], 1, mu=2.0), null_space([same, other], 1, mu=2.0))
        assert_same(null_space([other, own], 1, mu=2.0), null_space([other, same], 1, mu=2.0))
        assert_same(ties([own, other], [1.0, 0.5], density=1.0), ties([same, other], [1.0, 0.5], density=1.0))
        mine, theirs = compare(own, other), compare(same, other)
        assert mine.totals.interference == pytest.approx(theirs.totals.interference, abs=1e-4)
        assert mine.blocks[0].energy_first == pytest.approx(theirs.blocks[0].energy_first, rel=1e-4)

    @each([(kind, shape) for kind, shape in SUMS if KINDS[kind].name in ("LoKr", "LoHa")])
    def test_reducing_and_rebasing_equal_those_of_the_dense_difference(self, generated, kind, shape):
        layer, dense = generated(kind, shape)
        left, values, right = torch.linalg.svd(dense.flatten(1), full_matrices=False)
        rank = 3
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        reduced = reduce_layer(layer, rank)
        kept = float(values[:rank].square().sum() / values.square().sum())
        assert reduced.captured_energy == pytest.approx(kept, abs=1e-5)
        error = torch.linalg.vector_norm(dense.flatten(1) - delta(reduced.layer, shape).flatten(1))
        least = torch.linalg.vector_norm(dense.flatten(1) - best)
        assert float(error) == pytest.approx(float(least), abs=EXACT * float(values.norm()))
        factors = decompose(weight(shape).flatten(1).float(), 4)
        moved = rebase_layer(layer, factors)
        Q = factors.q.double()
        expected = (Q @ (Q.T @ dense.flatten(1))).reshape(dense.shape)
        assert oracle.error(delta(moved.layer, shape), expected, dense) < EXACT

    @each([(kind, shape) for kind, shape in OTHERS if shape in ((16, 12), (8, 8, 3, 3))])
    def test_others_are_refused_by_name(self, generated, kind, shape):
        layer, _ = generated(kind, shape)
        own = QRLoRA({"a.b": layer}, name="mine.safetensors")
        sides = [side or shape[place] for place, side in enumerate(layer.shape)]
        other = QRLoRA({"a.b": Layer((from_difference(torch.ones(*sides, *shape[len(sides) :])),))}, name="other")
        calls = {
            "null_space": lambda: null_space([own, other], 1, mu=1.0),
            "ties": lambda: ties([own, other], [1.0, 1.0], density=0.5),
            "compare": lambda: compare(own, other),
        }
        for name, call in calls.items():
            with pytest.raises(AdapterError) as caught:
                call()
            for word in (name, "mine.safetensors", "a.b", layer.contains_base):
                assert word in str(caught.value)
        factors = decompose(weight(shape).flatten(1).float(), 4)
        alone = (
            lambda: reduce_layer(layer, 2),
            lambda: rebase_layer(layer, factors),
            lambda: inner_product(own, own),
        )
        for call in alone:
            with pytest.raises(AdapterError, match=layer.contains_base):
                call()
