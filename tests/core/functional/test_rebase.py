"""Moving layers onto another basis and down to another rank, against dense float64 projections and SVDs."""

import math

import pytest
import torch

from comfyui_qr_lora.qrlora_core import AdapterError, Layer, QRLoRA, Term, decompose, merge
from comfyui_qr_lora.qrlora_core.functional.decompose import Factors
from comfyui_qr_lora.qrlora_core.functional.rebase import (
    Rebased,
    overall_energy,
    rebase_layer,
    reduce_layer,
    require_captured,
)
from comfyui_qr_lora.qrlora_core.functional.spectrum import orthonormal_columns, orthonormal_form, spectrum
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal, orthonormal

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT32 = 1e-6
OUT, WIDTH = 11, 13


def basis(rank, seed, *, alpha=None, shape=(OUT, WIDTH)):
    return decompose(normal(*shape, seed=seed), rank, alpha=alpha)


def layer_of(*ranks, seed=1, kernel=(WIDTH,), dtype=torch.float32, orthogonal=False):
    """Terms of these ranks, each with an alpha of its own that is not its rank."""
    return Layer(
        tuple(
            Term(
                orthonormal(OUT, rank, seed=seed + i, dtype=dtype)
                if orthogonal
                else normal(OUT, rank, seed=seed + i, dtype=dtype),
                normal(rank, *kernel, seed=seed + 50 + i, dtype=dtype),
                alpha=1.5 + i,
            )
            for i, rank in enumerate(ranks)
        )
    )


def dense(layer):
    """The delta in float64 by the oracle, with a kernel flattened."""
    return sum(oracle.delta_weight(term.q, term.delta_r, term.alpha) for term in layer.terms).flatten(1)


LAYERS = {
    "one term": layer_of(4),
    "several terms": layer_of(3, 2, 4),
    "orthonormal": layer_of(4, orthogonal=True),
    "bfloat16": layer_of(4, 2, dtype=torch.bfloat16),
    "more columns than rows": layer_of(9, 8),
    "one row in": layer_of(5, kernel=(1,)),
    "dependent columns": Layer((Term(torch.ones(OUT, 3), normal(3, WIDTH, seed=2), 7.0),)),
    "equal bases": Layer((layer_of(4).terms[0], layer_of(4).terms[0])),
    "convolution": layer_of(3, 2, kernel=(5, 3, 3)),
}
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


class TestOrthonormalForm:
    @each_layer
    def test_is_the_delta_in_an_orthonormal_basis(self, layer):
        q, d = orthonormal_form(layer)
        expected = dense(layer)
        assert q.dtype == d.dtype == torch.float64
        assert q.shape == (OUT, min(OUT, layer.rank))
        assert oracle.error(q @ d, expected) < 1e-12
        assert oracle.error(q.T @ q, torch.eye(q.shape[1])) < 1e-12

    def test_leaves_an_orthonormal_basis_as_it_is(self):
        q = torch.linalg.qr(normal(OUT, 4, seed=3).double()).Q * torch.tensor([1.0, -1.0, -1.0, 1.0])
        found, d = orthonormal_form(Layer.single(q, normal(4, WIDTH, seed=4), alpha=2.0))
        assert oracle.error(found, q) < 1e-12
        assert oracle.error(d, 0.5 * normal(4, WIDTH, seed=4)) < 1e-12

    def test_in_another_dtype(self):
        q, d = orthonormal_form(LAYERS["several terms"], torch.float32)
        assert q.dtype == d.dtype == torch.float32
        assert oracle.error(q @ d, dense(LAYERS["several terms"])) < FLOAT32

    def test_columns_stand_in_the_order_of_the_matrices(self):
        first, second = orthonormal(OUT, 3, seed=1), orthonormal(OUT, 2, seed=2)
        q, r = orthonormal_columns([first, second])
        assert oracle.error(q[:, :3], first) < FLOAT32
        assert oracle.error(q @ r, torch.cat([first, second], dim=1)) < 1e-12
        assert oracle.error(r, r.triu()) < 1e-12

    @each_layer
    def test_spectrum_is_that_of_the_dense_delta(self, layer):
        found, expected = spectrum(layer), dense(layer)
        values = torch.linalg.svdvals(expected)
        count = int((values > 1e-6 * values[0]).sum())
        assert found.content == count
        assert oracle.error(found.values, values[: len(found.values)], values) < 1e-12
        assert found.energy == pytest.approx(float(expected.square().sum()), rel=1e-12)
        assert oracle.error(found.left @ found.rows, expected) < 1e-12
        assert oracle.error(found.left[:, :count] * found.values[:count] @ found.right.T, expected) < 1e-9
        for side in (found.left, found.right):
            assert oracle.error(side.T @ side, torch.eye(side.shape[1])) < 1e-9

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("part", ["q", "delta_r"])
    def test_what_is_not_finite_is_an_error_that_names_the_layer(self, bad, part):
        parts = {"q": normal(OUT, 2, seed=1), "delta_r": normal(2, WIDTH, seed=2)}
        parts[part][1, 1] = bad
        layer = Layer.single(**parts)
        for work in (orthonormal_form, spectrum):
            with pytest.raises(AdapterError, match=r"blocks\.1: expected finite numbers, found NaN or infinity"):
                work(layer, name="blocks.1")


class TestRebase:
    @each_layer
    @pytest.mark.parametrize(("rank", "alpha"), [(5, None), (3, 7.5)])
    def test_is_the_orthogonal_projection(self, layer, rank, alpha):
        width = math.prod(layer.shape[1:])
        if rank > min(OUT, width):
            rank = 1
        factors = basis(rank, 20, alpha=alpha, shape=(OUT, width))
        result = rebase_layer(layer, factors)
        q = torch.linalg.qr(factors.q.double()).Q
        expected = q @ q.T @ dense(layer)
        assert oracle.error(dense(result.layer), expected) < FLOAT32
        assert result.layer.shape == layer.shape
        energy = dense(layer).square().sum()
        assert result.energy == pytest.approx(float(energy), rel=1e-10)
        assert result.captured_energy == pytest.approx(float(expected.square().sum() / energy), abs=1e-6)
        (term,) = result.layer.terms
        assert term.q is factors.q
        assert term.base_r is factors.base_r
        assert (term.alpha, term.rank, term.delta_r.dtype) == (factors.alpha, rank, torch.float32)

    def test_of_one_term_is_the_equation(self):
        """``dR' = (scaling / scaling') Q'^T Q dR``."""
        layer, factors = layer_of(4, orthogonal=True), basis(6, 21, alpha=2.0)
        (term,) = layer.terms
        expected = (term.alpha / 4) / (2.0 / 6) * factors.q.double().T @ term.q.double() @ term.delta_r.double()
        assert oracle.error(rebase_layer(layer, factors).layer.terms[0].delta_r, expected) < FLOAT32

    def test_onto_its_own_basis_changes_nothing(self):
        factors = basis(4, 22, alpha=3.0)
        layer = Layer.single(factors.q, normal(4, WIDTH, seed=1), alpha=3.0)
        result = rebase_layer(layer, factors)
        assert oracle.error(result.layer.terms[0].delta_r, layer.terms[0].delta_r) < FLOAT32
        assert result.captured_energy == pytest.approx(1, abs=1e-6)

    def test_onto_an_orthogonal_basis_keeps_nothing(self):
        q = orthonormal(OUT, 8, seed=23)
        layer = Layer.single(q[:, :4], normal(4, WIDTH, seed=1))
        result = rebase_layer(layer, Factors(q[:, 4:], torch.zeros(4, WIDTH), 4, 4.0, 1.0))
        assert result.captured_energy < 1e-12
        assert result.energy == pytest.approx(float(layer.terms[0].delta_r.square().sum()), rel=1e-5)

    def test_of_nothing_captures_all_of_it(self):
        result = rebase_layer(Layer.single(normal(OUT, 4, seed=1), torch.zeros(4, WIDTH)), basis(5, 24))
        assert (result.captured_energy, result.energy) == (1.0, 0.0)
        assert not result.layer.terms[0].delta_r.any()

    def test_a_shared_basis_stays_shared(self):
        factors = basis(5, 25)
        sources = [(QRLoRA({"x": rebase_layer(layer_of(4, seed=seed), factors).layer}), 0.5) for seed in (1, 2)]
        assert len(merge(sources).layers["x"].terms) == 1

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((OUT + 1, WIDTH), r"blocks\.1: expected a basis of a weight of shape \(11, 13\), found one of \(12, 13\)"),
            ((OUT, WIDTH + 1), r"blocks\.1: expected a basis of a weight of shape \(11, 13\), found one of \(11, 14\)"),
        ],
    )
    def test_a_basis_of_another_shape_is_an_error(self, shape, message):
        with pytest.raises(AdapterError, match=message):
            rebase_layer(layer_of(4), basis(3, 26, shape=shape), name="blocks.1")

    @pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
    def test_a_basis_without_a_scaling_is_an_error(self, alpha):
        factors = Factors(orthonormal(OUT, 2, seed=1), torch.zeros(2, WIDTH), 2, alpha, 1.0)
        with pytest.raises(AdapterError, match=r"blocks\.1: expected a positive alpha of the basis, found"):
            rebase_layer(layer_of(4), factors, name="blocks.1")


class TestReduce:
    @each_layer
    @pytest.mark.parametrize("rank", [1, 2, 4, 40])
    def test_is_the_best_of_its_rank(self, layer, rank):
        result = reduce_layer(layer, rank)
        expected = dense(layer)
        U, S, Vh = torch.linalg.svd(expected, full_matrices=False)
        possible = min(rank, OUT, expected.shape[1], layer.rank)
        best = U[:, :possible] * S[:possible] @ Vh[:possible]
        (term,) = result.layer.terms
        assert oracle.error(dense(result.layer), best) < FLOAT32
        assert (term.rank, term.alpha, term.base_r) == (possible, float(possible), None)
        assert term.q.dtype == term.delta_r.dtype == torch.float32
        assert result.layer.shape == layer.shape
        assert oracle.error(term.q.double().T @ term.q.double(), torch.eye(possible)) < FLOAT32
        assert result.energy == pytest.approx(float(S.square().sum()), rel=1e-10)
        assert result.captured_energy == pytest.approx(float(S[:possible].square().sum() / S.square().sum()), abs=1e-9)

    def test_signs_are_fixed(self):
        term = reduce_layer(layer_of(4, 3), 5).layer.terms[0]
        assert (term.q.gather(0, term.q.abs().argmax(0, keepdim=True)) > 0).all()
        turned = Layer(tuple(Term(-part.q, -part.delta_r, part.alpha) for part in layer_of(4, 3).terms[::-1]))
        assert oracle.error(reduce_layer(turned, 5).layer.terms[0].q, term.q) < FLOAT32

    def test_of_nothing(self):
        result = reduce_layer(Layer.single(normal(OUT, 4, seed=1), torch.zeros(4, WIDTH)), 2)
        assert (result.captured_energy, result.energy, result.layer.rank) == (1.0, 0.0, 2)
        assert not result.layer.delta_weight().any()

    def test_brings_a_concatenated_merge_back_to_one_term(self):
        sources = [(QRLoRA({"x": layer_of(4, seed=seed)}), scale) for seed, scale in ((1, 0.7), (2, -1.2))]
        layer = merge(sources).layers["x"]
        assert len(layer.terms) == 2
        result = reduce_layer(layer, 8)
        assert len(result.layer.terms) == 1
        assert oracle.error(dense(result.layer), dense(layer)) < FLOAT32

    @pytest.mark.parametrize("rank", [0, -1, 1.5])
    def test_a_rank_below_one_is_an_error(self, rank):
        with pytest.raises(AdapterError, match=r"blocks\.1: expected a rank .* found"):
            reduce_layer(layer_of(4), rank, name="blocks.1")


def results(*pairs):
    return {f"blocks.{i}": Rebased(layer_of(1), captured, energy) for i, (captured, energy) in enumerate(pairs)}


class TestOverall:
    def test_weights_by_energy(self):
        assert overall_energy(results((1.0, 1.0), (0.2, 3.0)).values()) == pytest.approx(0.4)

    def test_of_results_is_that_of_the_whole_adapter(self):
        layers = [layer_of(4, seed=seed) for seed in (1, 2, 3)]
        moved = [rebase_layer(layer, basis(5, 30)) for layer in layers]
        kept = sum(float(dense(result.layer).square().sum()) for result in moved)
        assert overall_energy(moved) == pytest.approx(
            kept / sum(float(dense(x).square().sum()) for x in layers), abs=1e-6
        )

    @pytest.mark.parametrize("listed", [(), ((1.0, 0.0),)])
    def test_of_nothing_is_all_of_it(self, listed):
        assert overall_energy(iter(results(*listed).values())) == 1.0

    def test_enough_passes(self):
        require_captured("cat", results((0.95, 1.0), (0.85, 1.0)), 0.9)
        require_captured("cat", results((1 - 1e-7, 1.0)), 1.0)
        require_captured("cat", results((0.0, 1.0)), 0.0)

    def test_too_little_names_the_shares_the_worst_layers_and_what_to_do(self):
        shares = results((0.9, 1.0), (0.25, 1.0), (0.5, 1.0), (0.125, 1.0), (0.75, 1.0))
        with pytest.raises(
            AdapterError,
            match=r"^cat\.safetensors: .* 50\.50 % .* at least 80\.00 %\. Worst layers: blocks\.3 12\.50 %, "
            r"blocks\.1 25\.00 %, blocks\.2 50\.00 % and 2 more\. .*another base.*larger rank.*own basis",
        ):
            require_captured("cat.safetensors", shares, 0.8)
        with pytest.raises(AdapterError, match=r"Worst layers: blocks\.0 79\.99 %\. "):
            require_captured("cat", results((0.79989, 1.0)), 0.8)

    @pytest.mark.parametrize("minimum", [-0.1, 1.1, math.nan])
    def test_a_minimum_that_is_no_share_is_an_error(self, minimum):
        with pytest.raises(AdapterError, match=r"cat: expected a minimum of captured energy from 0 to 1, found"):
            require_captured("cat", results((1.0, 1.0)), minimum)


def test_inputs_are_not_changed():
    layer, factors = layer_of(4, 3), basis(5, 40)
    parts = [part for term in layer.terms for part in (term.q, term.delta_r)] + [factors.q, factors.base_r]
    copies = [part.clone() for part in parts]
    rebase_layer(layer, factors)
    reduce_layer(layer, 3)
    assert all(torch.equal(part, copy) for part, copy in zip(parts, copies, strict=True))
