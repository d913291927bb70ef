"""The adapter: its delta against the float64 oracle, its checks and their messages."""

import math
import re

import pytest
import torch

from comfyui_qr_lora.qrlora_core import AdapterError, Layer, QRLoRA, Term
from comfyui_qr_lora.qrlora_core.term import largest
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal, orthonormal

FLOAT32 = 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("alpha", [4.0, 1.0, 10.0, -3.0, 0.1])
@pytest.mark.parametrize(("out", "width"), [(12, 7), (7, 12), (9, 9)])
def test_delta_weight_is_scaling_times_q_delta_r(out, width, alpha, dtype):
    q, delta_r = orthonormal(out, 4, seed=1, dtype=dtype), normal(4, width, seed=2, dtype=dtype)
    delta = Term(q, delta_r, alpha).delta_weight()
    assert delta.dtype == torch.float32
    assert delta.shape == (out, width)
    assert oracle.error(delta, oracle.delta_weight(q, delta_r, alpha)) < FLOAT32


def test_alpha_is_the_rank_unless_given():
    q, delta_r = orthonormal(8, 4, seed=1), normal(4, 6, seed=2)
    assert (Term(q, delta_r).alpha, Term(q, delta_r).scaling) == (4.0, 1.0)
    assert Term(q, delta_r, 2.0).scaling == 0.5
    assert oracle.error(Term(q, delta_r).delta_weight(), oracle.delta_weight(q, delta_r)) < FLOAT32


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3, 1), (5,), (2, 3, 3)])
def test_a_convolution_keeps_its_kernel(kernel):
    q, delta_r = orthonormal(8, 3, seed=1), normal(3, 5, *kernel, seed=2)
    layer = Layer.single(q, delta_r, alpha=6.0)
    assert layer.shape == layer.delta_weight().shape == (8, 5, *kernel)
    assert oracle.error(layer.delta_weight(), oracle.delta_weight(q, delta_r, 6.0)) < FLOAT32


def test_a_convolution_adds_what_two_convolutions_add():
    """``conv(x, scaling Q dR)`` is ``dR`` as a convolution, then ``Q`` on the channels."""
    q, delta_r, x = orthonormal(8, 3, seed=1), normal(3, 5, 3, 3, seed=2), normal(2, 5, 6, 6, seed=3)
    inner = torch.nn.functional.conv2d(x.double(), delta_r.double())
    expected = 2.0 * torch.einsum("or,brhw->bohw", q.double(), inner)
    delta = Layer.single(q, delta_r, alpha=6.0).delta_weight()
    assert oracle.error(torch.nn.functional.conv2d(x, delta), expected) < 1e-5


def test_the_terms_of_a_layer_add_up():
    parts = [(orthonormal(9, rank, seed=rank), normal(rank, 7, seed=10 + rank), 1.5 * rank) for rank in (1, 3, 4)]
    layer = Layer(tuple(Term(*part) for part in parts))
    assert layer.rank == 8
    assert oracle.error(layer.delta_weight(), sum(oracle.delta_weight(*part) for part in parts)) < FLOAT32


def test_q_is_taken_as_stored():
    """A q that is far from orthonormal still means ``scaling * q @ delta_r``."""
    q, delta_r = 3.0 * normal(9, 4, seed=1), normal(4, 7, seed=2)
    assert oracle.error(Term(q, delta_r).delta_weight(), oracle.delta_weight(q, delta_r)) < FLOAT32


def test_delta_weight_leaves_the_factors_alone():
    q, delta_r, base_r = orthonormal(9, 4, seed=1), normal(4, 7, seed=2), normal(4, 7, seed=3)
    copies = q.clone(), delta_r.clone(), base_r.clone()
    Layer.single(q, delta_r, alpha=2.0, base_r=base_r).delta_weight().zero_()
    assert all(torch.equal(*pair) for pair in zip((q, delta_r, base_r), copies, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta_r": torch.ones(3, 7)}, "rank mismatch: q (9, 4) has rank 4, delta_r (3, 7) has rank 3"),
        ({"q": torch.ones(9, 4, 1)}, "expected q (out, rank) and delta_r (rank, in), found q (9, 4, 1)"),
        ({"q": torch.ones(9)}, "found q (9,)"),
        ({"delta_r": torch.ones(4)}, "delta_r (4,)"),
        ({"delta_r": torch.tensor(1.0)}, "delta_r ()"),
        ({"q": torch.ones(9, 4, dtype=torch.int8)}, "q: expected a floating dtype, found torch.int8"),
        ({"delta_r": torch.ones(4, 7, dtype=torch.int64)}, "delta_r: expected a floating dtype, found torch.int64"),
        ({"base_r": torch.ones(4, 7, dtype=torch.bool)}, "base_r: expected a floating dtype, found torch.bool"),
        ({"delta_r": torch.ones(4, 7, dtype=torch.complex64)}, "delta_r: expected a floating dtype"),
        ({"base_r": torch.ones(4, 6)}, "base_r (4, 6) and delta_r (4, 7) differ in shape"),
        ({"base_r": torch.ones(28)}, "base_r (28,) and delta_r (4, 7) differ in shape"),
        ({"base_r": torch.tensor(1.0)}, "base_r () and delta_r (4, 7) differ in shape"),
        ({"alpha": math.inf}, "alpha: expected a finite number, found inf"),
        ({"alpha": -math.inf}, "alpha: expected a finite number, found -inf"),
        ({"q": torch.ones(9, 0), "delta_r": torch.ones(0, 7)}, "a dimension is zero: q (9, 0), delta_r (0, 7)"),
        ({"delta_r": torch.ones(4, 0)}, "a dimension is zero"),
    ],
)
def test_a_term_that_does_not_fit_together_is_refused(change, message):
    with pytest.raises(AdapterError, match=re.escape(message)):
        Term(**{"q": torch.ones(9, 4), "delta_r": torch.ones(4, 7), **change})


@pytest.mark.parametrize("other", [torch.ones(4, 8), torch.ones(4, 7, 1, 1)])
def test_terms_for_different_weights_are_refused(other):
    with pytest.raises(AdapterError, match=r"different shapes: .*\(9, 7\)"):
        Layer((Term(torch.ones(9, 4), torch.ones(4, 7)), Term(torch.ones(9, 4), other)))


def test_a_layer_without_terms_is_refused():
    with pytest.raises(AdapterError, match="at least one term"):
        Layer(())


@pytest.mark.parametrize("part", ["q", "delta_r", "base_r"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_require_finite_names_the_layer(part, poison, dtype):
    good = {"q": torch.ones(9, 4), "delta_r": torch.ones(4, 7), "base_r": torch.ones(4, 7)}
    bad = {**good, part: good[part].to(dtype).clone()}
    bad[part][1, 2] = poison
    adapter = QRLoRA({"blocks.0.to_q": Layer.single(**good), "blocks.1.to_q": Layer.single(**bad)})
    assert not adapter.layers["blocks.1.to_q"].terms[0].is_finite()
    with pytest.raises(AdapterError, match=re.escape("layer blocks.1.to_q: NaN or infinity")):
        adapter.require_finite()


class TestTheLargestMagnitude:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_of_every_number_of_16_bits_alone(self, dtype):
        numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
        expected = numbers.float().abs()
        found = torch.tensor([largest(number) for number in numbers])
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found.nan_to_num(), expected.nan_to_num())

    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize(
        "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn]
    )
    def test_of_random_ones(self, dtype, seed):
        numbers = normal(1 + seed % 7, 1 + 13 * seed, seed=seed).mul(10.0 ** (seed % 5 - 2))
        numbers = (numbers.abs(), -numbers.abs(), numbers)[seed % 3].to(dtype)
        poison = (None, math.nan, math.inf, -math.inf)[seed % 4]
        if poison is not None and dtype != torch.float8_e4m3fn:
            numbers[-1, -1] = poison
        for some in (numbers, numbers.T, numbers[:, ::2]):
            expected = float(some.double().abs().amax())
            assert largest(some) == pytest.approx(expected, rel=0, abs=0, nan_ok=True)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_of_none(self, dtype):
        assert largest(torch.empty(0, 4, dtype=dtype)) == 0


def test_require_finite_accepts_what_is_finite():
    big = torch.full((4, 7), torch.finfo(torch.float32).max / 4)
    for alpha in (4.0, 7.9):  # the bound that is looked at first is passed, the delta is not too large
        QRLoRA({"x": Layer.single(orthonormal(9, 4, seed=1), big, alpha=alpha)}).require_finite()


def test_require_finite_refuses_factors_whose_product_is_not():
    up, down = normal(9, 4, seed=1) * 1e30, normal(4, 7, seed=2) * 1e30
    with pytest.raises(AdapterError, match="layer x: NaN or infinity"):
        QRLoRA({"x": Layer.single(up, down)}).require_finite()


class TestBasisId:
    """Equal if and only if bits, shape and dtype of q are equal: then, and only then, delta_r's may be summed."""

    @staticmethod
    def of(q: torch.Tensor, seed: int = 0) -> str:
        return Term(q, normal(q.shape[1], 5, seed=seed)).basis_id

    @pytest.mark.parametrize(
        "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]
    )
    def test_depends_on_the_bits_of_q_alone(self, dtype):
        q = orthonormal(8, 4, seed=1).to(dtype)
        assert self.of(q, seed=2) == self.of(q.clone(), seed=3)
        one_bit_off = q.clone(memory_format=torch.contiguous_format)
        one_bit_off.view(torch.uint8)[3, 1] ^= 1
        assert self.of(one_bit_off) != self.of(q)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_a_view_is_the_same_basis(self, dtype):
        q = orthonormal(8, 4, seed=1, dtype=dtype)
        transposed, sliced = q.T.contiguous().T, torch.cat([q, q], dim=1)[:, 4:]
        assert not transposed.is_contiguous()
        assert not sliced.is_contiguous()
        assert self.of(q) == self.of(transposed) == self.of(sliced) == self.of(q.clone().requires_grad_())

    def test_the_transposed_numbers_are_another_basis(self):
        square = orthonormal(4, 4, seed=1)
        assert self.of(square) != self.of(square.T)

    def test_shape_and_dtype_count(self):
        zeros = [torch.zeros(8, 4), torch.zeros(4, 8), torch.zeros(8, 4, dtype=torch.float64)]
        halves = [torch.zeros(8, 4, dtype=torch.bfloat16), torch.zeros(8, 4, dtype=torch.float16)]
        assert len({self.of(q) for q in zeros + halves}) == 5

    def test_a_flipped_sign_is_another_basis(self):
        q = orthonormal(8, 4, seed=1)
        assert self.of(q) != self.of(-q)


class TestMappings:
    layer = Layer.single(torch.ones(3, 2), torch.ones(2, 4))

    def test_are_read_only(self):
        adapter = QRLoRA({"x": self.layer}, name="cat")
        with pytest.raises(TypeError):
            adapter.layers["y"] = self.layer
        with pytest.raises(TypeError):
            adapter.metadata["name"] = "dog"
        with pytest.raises(AttributeError):
            adapter.layers = {}
        with pytest.raises(AttributeError):
            self.layer.terms[0].alpha = 3.0

    def test_are_copies(self):
        layers, metadata = {"x": self.layer}, {"triggers": "a cat"}
        adapter = QRLoRA(layers, metadata)
        layers["y"], metadata["triggers"] = self.layer, "a dog"
        assert list(adapter.layers) == ["x"]
        assert adapter.metadata == {"triggers": "a cat"}

    @pytest.mark.parametrize("metadata", [{"rank": 4}, {4: "rank"}, {"rank": None}, {"rank": b"4"}])
    def test_metadata_is_text(self, metadata):
        with pytest.raises(AdapterError, match="metadata: names and values must be text"):
            QRLoRA({"x": self.layer}, metadata)

    def test_terms_ranks_and_name(self):
        two = Layer((self.layer.terms[0], Term(torch.ones(3, 1), torch.ones(1, 4))))
        adapter = QRLoRA({"x": self.layer, "y": two})
        assert [(path, term.rank) for path, term in adapter.terms()] == [("x", 2), ("y", 2), ("y", 1)]
        assert adapter.ranks == [2, 3]
        assert adapter.name == "unsaved adapter"
