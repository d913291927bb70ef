"""Ordinary LoRA in QR form and back: the same deltas to rounding, against float64 and the host's own formula."""

import math
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from comfyui_qr_lora.qrlora_core import AdapterError, Factors, Layer, QRLoRA, Term, merge
from comfyui_qr_lora.qrlora_core.functional.lora import from_lora, is_nearly_orthonormal, subtract_cores, to_lora
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal, orthonormal

OUT, RANK, WIDTH = 24, 5, 17
EXACT = 1e-6


def stock_delta(up, down, alpha=None, mid=None):
    """What ComfyUI's own LoRA patch adds to a weight (comfy/weight_adapter/lora.py), in float64."""
    mat1, mat2 = up.double(), down.double()
    scale = 1.0 if alpha is None else alpha / mat2.shape[0]
    if mid is not None:
        mat3 = mid.double()
        final_shape = [mat2.shape[1], mat2.shape[0], *mat3.shape[2:]]
        columns, kernels = mat2.transpose(0, 1).flatten(start_dim=1), mat3.transpose(0, 1).flatten(start_dim=1)
        mat2 = torch.mm(columns, kernels).reshape(final_shape).transpose(0, 1)
    product = torch.mm(mat1.flatten(start_dim=1), mat2.flatten(start_dim=1))
    return scale * product.reshape(mat1.shape[0], *mat2.shape[1:])


def delta64(term):
    """The term's delta without the rounding of a float32 product."""
    return oracle.delta_weight(term.q, term.delta_r, term.alpha)


def assert_orthonormal(q):
    gram = q.double().T @ q.double()
    assert torch.linalg.matrix_norm(gram - torch.eye(len(gram)), 2) < 1e-6


class TestFromLora:
    @pytest.mark.parametrize(
        "dtype",
        [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2],
    )
    @pytest.mark.parametrize("alpha", [math.nan, 1.0, 16.0, 0.3])
    def test_is_exact(self, dtype, alpha):
        up, down = normal(OUT, RANK, seed=1, dtype=dtype), normal(RANK, WIDTH, seed=2, dtype=dtype)
        expected = stock_delta(up, down, None if math.isnan(alpha) else alpha)
        term = from_lora(up, down, alpha)
        assert term.scaling == (1.0 if math.isnan(alpha) else alpha / RANK)
        for form in (term, term.orthonormal):
            assert oracle.error(delta64(form), expected) < EXACT
            assert oracle.error(form.delta_weight(), expected) < EXACT
            assert (form.base_r, form.rank) == (None, RANK)
        assert_orthonormal(term.orthonormal.q)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_decomposes_and_copies_nothing(self, dtype):
        up, down = normal(OUT, RANK, 1, 1, seed=1, dtype=dtype), normal(RANK, WIDTH, 3, 3, seed=2, dtype=dtype)
        with Operators() as used:
            term = from_lora(up, down, 2.0)
        assert not {"linalg_qr", "mm", "_to_copy", "clone"} & used.names
        assert (term.q.data_ptr(), term.delta_r.data_ptr()) == (up.data_ptr(), down.data_ptr())

    @pytest.mark.parametrize("size", [1e-12, 1e-4, 1e4, 1e12])
    def test_of_any_size(self, size):
        """Factors of a trained LoRA differ in size: up begins at zero."""
        up, down = size * normal(OUT, RANK, seed=1), normal(RANK, WIDTH, seed=2) / size
        term = from_lora(up, down, 2.0)
        for form in (term, term.orthonormal):
            assert oracle.error(delta64(form), stock_delta(up, down, 2.0)) < EXACT

    def test_of_columns_that_nearly_agree(self):
        """An ill-conditioned up loses nothing: the product is exact, not each factor."""
        up = normal(OUT, 1, seed=1) + 1e-6 * normal(OUT, RANK, seed=2)
        down = normal(RANK, WIDTH, seed=3)
        assert oracle.error(delta64(from_lora(up, down).orthonormal), stock_delta(up, down)) < EXACT

    def test_of_columns_that_depend_on_each_other(self):
        up = normal(OUT, 2, seed=1)[:, [0, 1, 0, 1, 0]]
        down = normal(RANK, WIDTH, seed=3)
        term = from_lora(up, down).orthonormal
        assert oracle.error(delta64(term), stock_delta(up, down)) < EXACT
        assert_orthonormal(term.q)

    @pytest.mark.parametrize(("out", "rank", "width"), [(4, 9, 7), (1, 3, 6), (4, 9, 2), (6, 6, 6)])
    def test_a_rank_above_out_shrinks_to_it_in_qr_form(self, out, rank, width):
        up, down = normal(out, rank, seed=1), normal(rank, width, seed=2)
        assert from_lora(up, down, 3.0).rank == rank
        term = from_lora(up, down, 3.0).orthonormal
        assert (term.rank, term.alpha) == (out, out)
        assert oracle.error(delta64(term), stock_delta(up, down, 3.0)) < EXACT
        assert_orthonormal(term.q)

    def test_is_the_unique_qr(self):
        """``diag(Rb) >= 0``, as everywhere: two machines that read one file have one basis."""
        up, down = normal(OUT, RANK, seed=1), normal(RANK, WIDTH, seed=2)
        q, triangle = torch.linalg.qr(up.double())
        signs = triangle.diagonal().sign()
        term = from_lora(up, down).orthonormal
        assert oracle.error(term.q, q * signs) < EXACT
        assert oracle.error(term.delta_r, signs[:, None] * triangle @ down.double()) < EXACT

    def test_qr_form_is_made_once_and_leaves_what_has_it(self):
        term = from_lora(normal(OUT, RANK, seed=1), normal(RANK, WIDTH, seed=2), 3.0)
        assert term.orthonormal is term.orthonormal
        assert term.orthonormal.orthonormal is term.orthonormal
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            stored = Term(orthonormal(OUT, RANK, seed=3).to(dtype), normal(RANK, WIDTH, seed=2))
            assert stored.orthonormal is stored
        base = normal(RANK, WIDTH, seed=4)
        trained = Term(normal(OUT, RANK, seed=1), normal(RANK, WIDTH, seed=2), base_r=base)
        assert trained.orthonormal is trained

    @pytest.mark.parametrize("up", [torch.zeros(OUT, RANK), torch.zeros(OUT, RANK, dtype=torch.bfloat16)])
    def test_an_untrained_one_adds_nothing(self, up):
        term = from_lora(up, normal(RANK, WIDTH, seed=2), 4.0)
        for form in (term, term.orthonormal):
            assert form.is_finite()
            assert not bool(form.delta_weight().any())
        assert_orthonormal(term.orthonormal.q)

    @pytest.mark.parametrize("alpha", [0.0, -0.0])
    def test_alpha_zero_adds_nothing(self, alpha):
        term = from_lora(normal(OUT, RANK, seed=1), normal(RANK, WIDTH, seed=2), alpha)
        assert not bool(term.delta_weight().any())

    def test_a_negative_alpha_subtracts(self):
        up, down = normal(OUT, RANK, seed=1), normal(RANK, WIDTH, seed=2)
        assert oracle.error(delta64(from_lora(up, down, -3.0)), -3.0 / RANK * up.double() @ down.double()) < EXACT

    def test_leaves_the_factors_as_they_were(self):
        up, down = normal(OUT, RANK, seed=1).requires_grad_(), normal(RANK, WIDTH, seed=2).requires_grad_()
        kept = up.detach().clone(), down.detach().clone()
        term = from_lora(up, down, 2.0)
        assert torch.equal(up, kept[0])
        assert torch.equal(down, kept[1])
        assert not term.q.requires_grad
        assert not term.delta_r.requires_grad


class TestConvolutions:
    @pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3,), (5, 1), (3, 3, 3)])
    @pytest.mark.parametrize("is_flat", [True, False], ids=["up (out, rank)", "up with a kernel of ones"])
    def test_is_exact(self, kernel, is_flat):
        up, down = normal(OUT, RANK, seed=1), normal(RANK, WIDTH, *kernel, seed=2)
        term = from_lora(up if is_flat else up.reshape(OUT, RANK, *(1 for _ in kernel)), down, 7.0)
        expected = stock_delta(up, down, 7.0)
        assert term.delta_weight().shape == (OUT, WIDTH, *kernel)
        assert oracle.error(delta64(term), expected) < EXACT

    def test_convolves_as_the_two_convolutions_of_the_trainer(self):
        up, down, x = normal(OUT, RANK, 1, 1, seed=1), normal(RANK, WIDTH, 3, 3, seed=2), normal(2, WIDTH, 8, 8, seed=3)
        expected = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x.double(), down.double()), up.double())
        found = torch.nn.functional.conv2d(x.double(), delta64(from_lora(up, down)))
        assert oracle.error(found, expected) < EXACT

    @pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (1, 1), (3,), (2, 3, 2)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("alpha", [None, 2.5])
    def test_in_tucker_form_is_the_hosts_formula(self, kernel, dtype, alpha):
        ones = tuple(1 for _ in kernel)
        up, down = normal(OUT, RANK, *ones, seed=1, dtype=dtype), normal(RANK, WIDTH, *ones, seed=2, dtype=dtype)
        mid = normal(RANK, RANK, *kernel, seed=3, dtype=dtype)
        term = from_lora(up, down, math.nan if alpha is None else alpha, mid)
        expected = stock_delta(up, down, alpha, mid)
        assert term.delta_r.shape == (RANK, WIDTH, *kernel)
        assert oracle.error(delta64(term), expected) < EXACT
        swapped = stock_delta(up, down, alpha, mid.transpose(0, 1))
        assert oracle.error(swapped, expected) > 0.5  # the order of mid's first two sides is not free

    def test_in_tucker_form_convolves_as_the_three_convolutions(self):
        conv = torch.nn.functional.conv2d
        up, mid, down = (
            normal(OUT, RANK, 1, 1, seed=1),
            normal(RANK, RANK, 3, 3, seed=2),
            normal(RANK, WIDTH, 1, 1, seed=3),
        )
        x = normal(2, WIDTH, 8, 8, seed=4).double()
        expected = conv(conv(conv(x, down.double()), mid.double()), up.double())
        assert oracle.error(conv(x, delta64(from_lora(up, down, mid=mid))), expected) < EXACT

    def test_in_tucker_form_with_a_rank_above_out(self):
        up, down, mid = (
            normal(3, RANK, 1, 1, seed=1),
            normal(RANK, WIDTH, 1, 1, seed=2),
            normal(RANK, RANK, 3, 3, seed=3),
        )
        term = from_lora(up, down, 2.0, mid)
        assert (term.rank, term.orthonormal.rank) == (RANK, 3)
        for form in (term, term.orthonormal):
            assert oracle.error(delta64(form), stock_delta(up, down, 2.0, mid)) < EXACT

    def test_a_kernel_of_hostile_size_is_refused_before_it_exists(self):
        """Small factors, an enormous product."""
        up, down, mid = torch.ones(1, 1), torch.ones(1, 2**12, 1, 1), torch.ones(1, 1, 2**6, 2**6)
        message = "at most 4194304 entries, found 16777216"
        with Sizes() as sizes, pytest.raises(AdapterError, match=message):
            from_lora(up, down, mid=mid)
        assert max(sizes.seen, default=0) < 2**24


class Operators(TorchDispatchMode):
    """The names of all operations within the context."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Sizes(TorchDispatchMode):
    """Entries of everything that operations give within the context."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen += [leaf.numel() for leaf in tree_leaves(result) if torch.is_tensor(leaf)]
        return result


class TestShapesThatDoNotFit:
    @pytest.mark.parametrize(
        ("up", "down", "mid", "words"),
        [
            ((4, 2), (3, 5), None, ["of one rank", "(4, 2)", "(3, 5)"]),
            ((4, 2, 3, 3), (2, 5, 3, 3), None, ["up (out, rank)", "(4, 2, 3, 3)"]),
            ((4,), (4, 5), None, ["expected up (out, rank)", "(4,)"]),
            ((4, 2), (2,), None, ["expected up (out, rank)", "(2,)"]),
            ((), (), None, ["expected up (out, rank)", "()"]),
            ((4, 0), (0, 5), None, ["(4, 0)"]),
            ((4, 2), (2, 0), None, ["(2, 0)"]),
            ((4, 2), (2, 5, 3, 0), None, ["(2, 5, 3, 0)"]),
            ((4, 2), (2, 5, 1, 1), (3, 2, 3, 3), ["mid (2, 2, ...)", "(3, 2, 3, 3)"]),
            ((4, 2), (2, 5, 1, 1), (2, 2), ["mid (2, 2, ...)", "(2, 2)"]),
            ((4, 2), (2, 5, 3, 3), (2, 2, 3, 3), ["down of kernel 1"]),
            ((4, 2), (2, 5, 1, 1), (2, 2, 0, 3), ["a dimension is zero"]),
        ],
    )
    def test_are_named(self, up, down, mid, words):
        tensors = [None if shape is None else torch.ones(shape) for shape in (up, down, mid)]
        with pytest.raises(AdapterError) as caught:
            from_lora(tensors[0], tensors[1], mid=tensors[2])
        for word in words:
            assert word in str(caught.value)


def trained_term(seed, alpha, *, kernel=(), rank=RANK, dtype=torch.float32):
    return Term(
        orthonormal(OUT, rank, seed=seed).to(dtype), normal(rank, WIDTH, *kernel, seed=seed + 50, dtype=dtype), alpha
    )


class TestToLora:
    @pytest.mark.parametrize("kernel", [(), (3, 3), (3,)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_of_several_terms_is_exact(self, kernel, dtype):
        terms = [
            trained_term(1, 8.0, kernel=kernel, dtype=dtype),
            trained_term(2, -0.5, rank=3, kernel=kernel, dtype=dtype),
        ]
        up, down = to_lora(Layer(tuple(terms)))
        assert up.shape == (OUT, RANK + 3, *(1 for _ in kernel))
        assert down.shape == (RANK + 3, WIDTH, *kernel)
        assert oracle.error(stock_delta(up, down), sum(map(delta64, terms))) < EXACT

    def test_of_a_merge_is_what_the_merge_adds(self):
        one, two = (QRLoRA({"a": Layer((trained_term(seed, 8.0),))}) for seed in (1, 2))
        merged = merge([(one, 0.7), (two, -1.3)])
        expected = 0.7 * delta64(one.layers["a"].terms[0]) - 1.3 * delta64(two.layers["a"].terms[0])
        assert oracle.error(stock_delta(*to_lora(merged.layers["a"])), expected) < EXACT

    def test_and_back_is_the_same_delta(self):
        layer = Layer((trained_term(1, 8.0), trained_term(2, 3.0)))
        again = from_lora(*to_lora(layer))
        assert oracle.error(delta64(again), sum(map(delta64, layer.terms))) < EXACT

    def test_a_scaling_of_zero(self):
        up, down = to_lora(Layer((trained_term(1, 0.0),)))
        assert not bool(down.any())
        assert bool(up.any())


class TestSubtractCores:
    """Published files of the variant ``qr``: factors that replace the core of their layer."""

    @staticmethod
    def files(alpha=None, rank=RANK, kernel=()):
        """W, factors by (path, rank), and (up, down) that start at the core and were trained a little."""
        W = normal(OUT, WIDTH * math.prod(kernel), seed=9)
        parts = oracle.split(W, rank, alpha)
        up = parts.Q + 0.01 * normal(OUT, rank, seed=3).double()
        down = parts.scaling * parts.R + 0.01 * normal(rank, W.shape[1], seed=4).double()
        asked = []

        def factors(path, wanted):
            asked.append((path, wanted))
            return Factors(parts.Q.float(), parts.R.float(), rank, alpha or rank, 0.9)

        return W, parts, (up.float(), down.float().reshape(rank, WIDTH, *kernel)), factors, asked

    @pytest.mark.parametrize("alpha", [None, 2.0])
    @pytest.mark.parametrize("kernel", [(), (3, 3)])
    def test_the_weight_is_the_residual_and_the_factors(self, alpha, kernel):
        """``W' = W_res + up down``, the published layer, and so ``delta = up down - scaling * Q R``."""
        W, parts, (up, down), factors, asked = self.files(alpha, kernel=kernel)
        whole = subtract_cores(QRLoRA({"a": Layer((from_lora(up, down),))}, {"note": "x"}), factors)
        expected = parts.W_res + up.double() @ down.double().flatten(1) - W.double()
        found = sum(map(delta64, whole.layers["a"].terms))
        assert found.shape == (OUT, WIDTH, *kernel)
        # The factors are as large as the core, of which the delta is what is left.
        core = parts.scaling * parts.Q @ parts.R
        assert oracle.error(found.flatten(1), expected, effect=core) < EXACT
        assert oracle.error(expected, core) > 0.5  # not what the factors alone add
        assert asked == [("a", RANK)]
        assert whole.metadata == {"note": "x"}

    def test_of_factors_as_they_began_is_nothing(self):
        _, parts, _, factors, _ = self.files()
        layer = Layer((from_lora(parts.Q.float(), parts.R.float()),))
        whole = subtract_cores(QRLoRA({"a": layer}), factors)
        assert oracle.error(whole.layers["a"].delta_weight(), torch.zeros(1), effect=parts.Q @ parts.R) < EXACT

    def test_another_shape_is_refused(self):
        _, _, (up, down), factors, _ = self.files()
        adapter = QRLoRA({"a": Layer((from_lora(up, down[:, :-1]),))})
        with pytest.raises(
            AdapterError, match=re.escape("layer a: expected factors for a weight of (24, 17), found (24, 16)")
        ):
            subtract_cores(adapter, factors)


class TestNearlyOrthonormal:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("shape", [(3072, 64), (64, 64), (24, 1)])
    def test_a_basis_and_what_a_little_training_leaves_of_it(self, dtype, shape):
        q = orthonormal(*shape, seed=1)
        assert is_nearly_orthonormal(q.to(dtype))
        trained = q + 0.01 / math.sqrt(shape[0]) * normal(*shape, seed=2)
        assert is_nearly_orthonormal(trained.to(dtype))
        assert is_nearly_orthonormal(q.reshape(*shape, 1, 1).to(dtype))

    @pytest.mark.parametrize(
        "up",
        [
            torch.zeros(24, 4),
            normal(24, 4, seed=1),
            normal(24, 4, seed=1) / math.sqrt(24),
            orthonormal(24, 4, seed=1) * 1.1,
            orthonormal(24, 4, seed=1)[:, [0, 1, 2, 2]],
            orthonormal(24, 4, seed=1).T,
            torch.full((24, 4), math.nan),
            torch.full((24, 4), math.inf),
        ],
        ids=["zero", "normal", "normal of size 1", "longer", "one twice", "rows", "nan", "inf"],
    )
    def test_no_other(self, up):
        assert not is_nearly_orthonormal(up)
