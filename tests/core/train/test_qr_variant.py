"""The variant qr, which trains Q and R both: its equation, gradients, and files."""

import math
import re

import pytest
import torch
from safetensors.torch import save_file

from comfyui_qr_lora.qrlora_core import (
    AdapterFileError,
    Layer,
    OptimizerSettings,
    QRLoRA,
    Term,
    TrainableDelta,
    Trainer,
    load_adapter,
    merge,
    save_adapter,
)
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal
from comfyui_qr_lora.tests.support.regression import (
    ALPHA,
    OUT,
    RANK,
    TARGET,
    WIDTH,
    W,
    X,
    assert_same_bits,
    factors,
    regression,
    stored,
)

pytestmark = pytest.mark.usefixtures("one_thread")

MODULE = "transformer.transformer_blocks.0.attn.to_q"
SCALING = ALPHA / RANK


def delta_with(size=0.3, *, seed=4, **options):
    """A `TrainableDelta` away from zero."""
    delta = TrainableDelta(factors(), variant="qr", **options)
    delta.delta_q.data = size * normal(OUT, RANK, seed=seed)
    delta.delta_r.data = size * normal(RANK, WIDTH, seed=seed + 1)
    return delta


def plain_delta(Q, R, dQ, dR, scaling=SCALING):
    """``scaling ((Q + dQ) (R + dR) - Q R)`` in float64, as it is written."""
    Q, R, dQ, dR = (tensor.double() for tensor in (Q, R, dQ, dR))
    return scaling * ((Q + dQ) @ (R + dR) - Q @ R)


def expected_delta(delta):
    parts = delta.factors
    return plain_delta(parts.q, parts.base_r, delta.delta_q.detach(), delta.delta_r.detach(), parts.scaling)


def plain_loss(dQ, dR, x=X, target=TARGET):
    output = x.double() @ (W.double() + plain_delta(factors().q, factors().base_r, dQ, dR)).T
    return (output - target.double()).square().mean()


def plain_gradients(delta):
    dQ, dR = (value.detach().double().requires_grad_() for value in (delta.delta_q, delta.delta_r))
    return torch.autograd.grad(plain_loss(dQ, dR), (dQ, dR))


def train(delta, steps, loss=regression, **settings):
    trainer = Trainer({MODULE: delta}, OptimizerSettings(**{"learning_rate": 0.05, **settings}), steps=steps)
    return trainer, [trainer.step([lambda: loss(delta)]) for _ in range(steps)]


def trained_adapter(variant="qr", steps=10, **options):
    delta = TrainableDelta(factors(**options), variant=variant)
    return train(delta, steps)[0].adapter({})


class TestEquation:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_starts_as_the_base_bit_for_bit(self, dtype):
        delta = TrainableDelta(factors(), variant="qr", compute_dtype=dtype)
        base = (X @ W.T).to(dtype)
        assert torch.equal(base + delta(X.to(dtype)), base)
        assert torch.count_nonzero(delta.layer().delta_weight()) == 0
        assert (delta.delta_q.shape, delta.delta_r.shape) == ((OUT, RANK), (RANK, WIDTH))

    @pytest.mark.parametrize("batch", [(), (4,), (2, 3, 4)])
    def test_of_forward_is_the_plain_one(self, batch):
        delta, x = delta_with(), normal(*batch, WIDTH, seed=5)
        assert oracle.error(delta(x).detach(), x.double() @ expected_delta(delta).T) < 1e-6

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_runs_in_the_dtype_of_its_input(self, dtype):
        delta = delta_with(compute_dtype=dtype)
        output = delta(X.to(dtype))
        assert (output.dtype, delta.q.dtype) == (dtype, dtype)
        assert delta.delta_q.dtype == delta.delta_r.dtype == torch.float32
        assert oracle.error(output.detach(), X.double() @ expected_delta(delta).T) < 4 * torch.finfo(dtype).eps

    @pytest.mark.parametrize("size", [1e-6, 1e-3, 0.3, 10.0])
    @pytest.mark.parametrize("alpha", [RANK, ALPHA, 0.1])
    def test_of_the_layer_is_the_plain_one(self, size, alpha):
        """To 1e-5 of its own norm, however small it is beside Q R: nothing cancels."""
        delta = TrainableDelta(factors(alpha=alpha), variant="qr")
        delta.delta_q.data, delta.delta_r.data = (
            size * normal(*shape, seed=6) for shape in ((OUT, RANK), (RANK, WIDTH))
        )
        assert oracle.error(delta.layer().delta_weight(), expected_delta(delta)) < 1e-5

    def test_in_forward_and_in_the_adapter_is_one(self):
        delta = TrainableDelta(factors(), variant="qr")
        trainer, _ = train(delta, 20)
        weight = trainer.adapter({}).layers[MODULE].delta_weight()
        assert oracle.error(X @ weight.T, delta(X).detach()) < 1e-5
        assert oracle.error(weight, expected_delta(delta)) < 1e-5

    def test_shares_its_first_term_with_an_adapter_of_another_variant(self):
        q, other = delta_with().layer().terms[0], TrainableDelta(factors()).layer().terms[0]
        assert q.basis_id == other.basis_id
        assert torch.equal(q.base_r, other.base_r)


class TestGradient:
    @pytest.mark.parametrize("size", [0.0, 0.3])
    def test_is_that_of_the_plain_equation(self, size):
        delta = delta_with(size)
        regression(delta).backward()
        for ours, plain in zip((delta.delta_q.grad, delta.delta_r.grad), plain_gradients(delta), strict=True):
            assert oracle.error(ours, plain) < 1e-5

    def test_is_that_of_central_differences(self):
        """Exact but for rounding: the loss is quadratic in either factor."""
        delta = delta_with()
        regression(delta).backward()
        values = [value.detach().double() for value in (delta.delta_q, delta.delta_r)]
        for which, parameter in enumerate((delta.delta_q, delta.delta_r)):
            differences = torch.zeros_like(values[which])
            for index in torch.cartesian_prod(*map(torch.arange, parameter.shape)).tolist():
                ahead, behind = ([value.clone() for value in values] for _ in range(2))
                ahead[which][tuple(index)] += 1e-3
                behind[which][tuple(index)] -= 1e-3
                differences[tuple(index)] = (plain_loss(*ahead) - plain_loss(*behind)) / 2e-3
            assert oracle.error(differences, plain_gradients(delta)[which]) < 1e-8
            assert oracle.error(parameter.grad, differences) < 1e-5

    def test_of_the_input_is_that_of_the_plain_equation(self):
        delta, x, plain = delta_with(), X.clone().requires_grad_(), X.double().requires_grad_()
        regression(delta, x).backward()
        plain_loss(delta.delta_q.detach(), delta.delta_r.detach(), plain).backward()
        assert oracle.error(x.grad, plain.grad) < 1e-5

    def test_reaches_the_two_deltas_alone(self):
        delta = delta_with()
        regression(delta).backward()
        assert {name for name, _ in delta.named_parameters()} == {"delta_q", "delta_r"}
        assert delta.q.grad is delta.base_r.grad is None
        assert not delta.q.requires_grad
        assert not delta.base_r.requires_grad


class TestTraining:
    @pytest.mark.parametrize("weight_decay", [0.0, 0.3])
    def test_is_adamw_on_the_plain_equation(self, weight_decay):
        """The factors' columns lie apart in memory, which a fused optimizer must not mix up."""
        delta = TrainableDelta(factors(), variant="qr")
        assert not delta.factors.q.is_contiguous()
        train(delta, 20, weight_decay=weight_decay)
        plain = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((OUT, RANK), (RANK, WIDTH))]
        optimizer = torch.optim.AdamW(plain, lr=0.05, weight_decay=weight_decay, fused=False, foreach=False)
        for _ in range(20):
            optimizer.zero_grad()
            plain_loss(*plain).backward()
            optimizer.step()
        for ours, expected in zip((delta.delta_q, delta.delta_r), plain, strict=True):
            assert oracle.error(ours.detach(), expected.detach()) < 1e-4

    def test_ends_at_the_best_weight_of_its_rank(self):
        """``W_res + scaling Q' R'`` by Eckart and Young; dR alone can at best project the shift onto Q."""
        parts = factors()
        shift = normal(OUT, 1, seed=8).double() @ normal(1, WIDTH, seed=9).double()
        target = X @ (W + shift.float()).T
        wanted = shift + SCALING * parts.q.double() @ parts.base_r.double()
        # The loss of a weight M is |(M - wanted) A|^2 / (64 OUT), with A A^T = X^T X.
        A = torch.linalg.cholesky(X.double().T @ X.double())
        best = float(torch.linalg.svdvals(wanted @ A)[RANK:].square().sum()) / (len(X) * OUT)
        outside = shift - parts.q.double() @ (parts.q.double().T @ shift)
        projected = float((X.double() @ outside.T).square().mean())
        assert best < 0.5 * projected
        for variant, floor in (("qr", best), ("full", projected)):
            delta = TrainableDelta(parts, variant=variant)
            _, losses = train(delta, 300, lambda delta: regression(delta, target=target), weight_decay=0.0)
            assert losses[-1] == pytest.approx(floor, rel=1e-3), variant

    def test_changes_no_bit_of_the_base(self):
        parts = factors()
        copies = parts.q.clone(), parts.base_r.clone()
        delta = TrainableDelta(parts, variant="qr")
        train(delta, 10, weight_decay=0.5)
        for kept in ((parts.q, parts.base_r), (delta.q, delta.base_r)):
            assert all(torch.equal(*pair) for pair in zip(kept, copies, strict=True))

    def test_layer_is_a_snapshot(self):
        delta = TrainableDelta(factors(), variant="qr")
        trainer, _ = train(delta, 3)
        layer = delta.layer()
        then = layer.delta_weight()
        trainer.step([lambda: regression(delta)])
        assert torch.equal(layer.delta_weight(), then)
        assert not torch.equal(delta.layer().delta_weight(), then)
        assert not any(term.q.requires_grad or term.delta_r.requires_grad for term in layer.terms)


PARTS = ("q", "delta_q", "delta_r", "base_r")


def file_tensors(**parts):
    """The tensors of a qr file, some replaced, or with None removed."""
    delta = delta_with()
    values = {
        "q": delta.factors.q,
        "delta_q": delta.delta_q,
        "delta_r": delta.delta_r,
        "base_r": delta.factors.base_r,
        "alpha": torch.tensor(ALPHA),
        **parts,
    }
    name = lambda part: f"{MODULE}.lora_qr.{part}" + ("" if part == "alpha" else ".weight")  # noqa: E731
    return {name(part): value.detach().contiguous() for part, value in values.items() if value is not None}


def refuses(path, tensors, *words):
    save_file(tensors, path)
    with pytest.raises(AdapterFileError) as caught:
        load_adapter(path)
    for word in (path.name, f"layer {MODULE}:", *words):
        assert word in str(caught.value)


class TestFile:
    def test_round_trip_is_exact_to_the_bit(self, tmp_path):
        original = trained_adapter()
        path = save_adapter(original, tmp_path / "a.safetensors")
        assert_same_bits(load_adapter(path), original)

    def test_holds_the_trained_factors_under_names_of_their_own(self, tmp_path):
        delta = TrainableDelta(factors(), variant="qr")
        trainer, _ = train(delta, 10)
        tensors, _ = stored(save_adapter(trainer.adapter({}), tmp_path / "a.safetensors"))
        expected = file_tensors(delta_q=delta.delta_q, delta_r=delta.delta_r, alpha=torch.tensor(ALPHA).double())
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[key], value) for key, value in expected.items())

    def test_has_no_key_that_another_reader_takes_for_its_own(self, tmp_path):
        """Neither the published ``.lora.q``, nor the up and down of ordinary LoRAs of any dialect."""
        tensors, _ = stored(save_adapter(trained_adapter(), tmp_path / "a.safetensors"))
        foreign = r"\.lora\.|lora[._](up|down|A|B|mid)|\.(up|down)\.weight|_lora\.|hada_|lokr_|\.diff|dora_scale"
        assert tensors
        assert not [key for key in tensors if re.search(foreign, key)]

    def test_saved_again_is_the_same_file(self, tmp_path):
        first = save_adapter(trained_adapter(), tmp_path / "a.safetensors")
        second = save_adapter(load_adapter(first), tmp_path / "sub" / "a.safetensors")
        (tensors, metadata), (again, same_metadata) = stored(first), stored(second)
        assert metadata == same_metadata
        assert tensors.keys() == again.keys()
        assert all(torch.equal(tensors[key], again[key]) for key in tensors)

    def test_stands_beside_layers_of_other_variants(self, tmp_path):
        layers = {
            "a": trained_adapter().layers[MODULE],
            "b": trained_adapter("triu").layers[MODULE],
            "c": Layer((*trained_adapter("triu").layers[MODULE].terms, *trained_adapter("full").layers[MODULE].terms)),
        }
        loaded = load_adapter(save_adapter(QRLoRA(layers), tmp_path / "a.safetensors"))
        assert_same_bits(loaded, QRLoRA(layers))

    def test_of_an_untrained_one_is_exact(self, tmp_path):
        original = QRLoRA({MODULE: TrainableDelta(factors(), variant="qr").layer()})
        loaded = load_adapter(save_adapter(original, tmp_path / "a.safetensors"))
        assert_same_bits(loaded, original)
        assert torch.count_nonzero(loaded.layers[MODULE].delta_weight()) == 0

    @pytest.mark.parametrize("alpha", [torch.tensor(ALPHA, dtype=torch.bfloat16), None])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_cast_by_another_tool_loads_and_saves(self, tmp_path, dtype, alpha):
        parts = {key.split(".")[-2]: value.to(dtype) for key, value in file_tensors(alpha=None).items()}
        save_file(file_tensors(**parts, alpha=alpha), tmp_path / "cast.safetensors")
        loaded = load_adapter(tmp_path / "cast.safetensors")
        scaling = 1.0 if alpha is None else SCALING
        expected = plain_delta(*(parts[name] for name in ("q", "base_r", "delta_q", "delta_r")), scaling)
        assert oracle.error(loaded.layers[MODULE].delta_weight(), expected) < 2 * torch.finfo(dtype).eps
        again = load_adapter(save_adapter(loaded, tmp_path / "again.safetensors"))
        assert_same_bits(again, loaded)
        assert f"{MODULE}.lora_qr.delta_q.weight" in stored(tmp_path / "again.safetensors")[0]

    @pytest.mark.parametrize("changed", range(2))
    def test_of_terms_cast_one_by_one_is_exact(self, tmp_path, changed):
        """Then the second term is no longer that of the factors to the bit, and both are saved as they are."""
        terms = list(delta_with().layer().terms)
        half = {name: getattr(terms[changed], name).bfloat16() for name in ("q", "delta_r")}
        terms[changed] = Term(half["q"], half["delta_r"], ALPHA, terms[changed].base_r)
        original = QRLoRA({MODULE: Layer(tuple(terms))})
        assert_same_bits(load_adapter(save_adapter(original, tmp_path / "a.safetensors")), original)

    @pytest.mark.parametrize(("factor", "alpha"), [(1 + 2**-23, ALPHA), (1.0, 2 * ALPHA)])
    def test_of_two_terms_that_only_look_alike_is_exact(self, tmp_path, factor, alpha):
        """A second delta_r one bit beside R + dR, or an alpha of its own."""
        first, second = delta_with().layer().terms
        original = QRLoRA({MODULE: Layer((first, Term(second.q, second.delta_r * factor, alpha)))})
        assert_same_bits(load_adapter(save_adapter(original, tmp_path / "a.safetensors")), original)

    def test_of_a_zero_cast_to_another_dtype_keeps_the_dtype(self, tmp_path):
        """Equal in value, not in dtype."""
        q, zero = factors().q, torch.zeros(RANK, WIDTH)
        original = QRLoRA({MODULE: Layer((Term(q, zero, ALPHA, zero), Term(q, zero.bfloat16(), ALPHA)))})
        assert_same_bits(load_adapter(save_adapter(original, tmp_path / "a.safetensors")), original)


class TestMerge:
    @pytest.mark.parametrize("scales", [(1.0, 1.0), (0.7, -0.4), (1.0, 0.5), (0.3, 1.0)])
    @pytest.mark.parametrize("order", [1, -1])
    @pytest.mark.parametrize("seed", [1, 8])
    def test_with_another_variant_is_exact(self, tmp_path, scales, order, seed):
        """On one basis (seed 1), and on two."""
        ours, other = trained_adapter(), trained_adapter("triu", seed=seed, alpha=2.0)
        first, second = ours.layers[MODULE].terms
        (term,) = other.layers[MODULE].terms
        qr_delta = plain_delta(first.q, first.base_r, second.q, first.delta_r)
        expected = scales[0] * qr_delta + scales[1] * oracle.delta_weight(term.q, term.delta_r, 2.0)
        merged = merge([(ours, scales[0]), (other, scales[1])][::order])
        assert oracle.error(merged.layers[MODULE].delta_weight(), expected) < 1e-5
        assert len(merged.layers[MODULE].terms) == (2 if seed == 1 else 3)
        loaded = load_adapter(save_adapter(merged, tmp_path / "a.safetensors"))
        assert_same_bits(loaded, merged)

    @pytest.mark.parametrize("scale", [1.0, 0.5, -1.0, 1e-3])
    def test_alone_is_the_scaled_delta(self, tmp_path, scale):
        ours = trained_adapter()
        first, second = ours.layers[MODULE].terms
        merged = merge([(ours, scale)])
        expected = scale * plain_delta(first.q, first.base_r, second.q, first.delta_r)
        assert oracle.error(merged.layers[MODULE].delta_weight(), expected) < 1e-5
        path = save_adapter(merged, tmp_path / "a.safetensors")
        assert_same_bits(load_adapter(path), merged)
        assert any(".lora_qr." in key for key in stored(path)[0]) == (scale == 1.0)

    def test_of_two_is_the_sum_of_both(self):
        pairs = [(trained_adapter(), 0.6), (trained_adapter(steps=25), 0.8)]
        expected = sum(
            scale * plain_delta(first.q, first.base_r, second.q, first.delta_r)
            for (first, second), scale in ((adapter.layers[MODULE].terms, scale) for adapter, scale in pairs)
        )
        assert oracle.error(merge(pairs).layers[MODULE].delta_weight(), expected) < 1e-5


class TestFilesThatDoNotFit:
    @pytest.mark.parametrize("part", PARTS)
    def test_a_missing_part_is_named(self, tmp_path, part):
        refuses(tmp_path / "a.safetensors", file_tensors(**{part: None}), f"found no {part}")

    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            ({"delta_q": torch.ones(OUT, RANK + 1)}, ["rank mismatch", "(6, 4)", "(3, 5)"]),
            ({"delta_q": torch.ones(OUT + 1, RANK)}, ["different shapes", "(6, 5)", "(7, 5)"]),
            ({"delta_q": torch.ones(OUT)}, ["(6,)"]),
            ({"delta_q": torch.ones(OUT, RANK, dtype=torch.int32)}, ["floating dtype", "torch.int32"]),
            ({"delta_r": torch.ones(RANK + 1, WIDTH)}, ["rank mismatch", "(6, 3)", "(4, 5)"]),
            ({"delta_r": torch.tensor(1.0)}, ["delta_r ()"]),
            ({"base_r": torch.ones(RANK, WIDTH + 1)}, ["base_r (3, 6)", "delta_r (3, 5)"]),
            ({"base_r": torch.ones(1, WIDTH)}, ["base_r (1, 5)", "delta_r (3, 5)"]),
            ({"base_r": torch.ones(RANK)}, ["base_r (3,)"]),
            ({"alpha": torch.ones(2)}, ["alpha: expected one number", "(2,)"]),
            ({"alpha": torch.tensor(math.nan)}, ["alpha: expected a finite number"]),
            *(({part: torch.full(shape, math.nan)}, ["NaN or infinity"]) for part, shape in (
                ("q", (OUT, RANK)), ("delta_q", (OUT, RANK)), ("delta_r", (RANK, WIDTH)), ("base_r", (RANK, WIDTH)),
            )),
        ],
    )  # fmt: skip
    def test_tensors_that_do_not_fit(self, tmp_path, parts, words):
        refuses(tmp_path / "a.safetensors", file_tensors(**parts), *words)

    @pytest.mark.parametrize("index", ["", "1."])
    @pytest.mark.parametrize("part", ["q.weight", "delta_r.weight", "alpha"])
    def test_a_layer_of_two_kinds(self, tmp_path, index, part):
        mixed = {**file_tensors(), f"{MODULE}.lora.{index}{part}": torch.ones(RANK, RANK)}
        refuses(tmp_path / "a.safetensors", mixed, "both '.lora.' and '.lora_qr.'")

    def test_an_unknown_part_is_named(self, tmp_path):
        save_file({**file_tensors(), f"{MODULE}.lora_qr.other.weight": torch.ones(1)}, tmp_path / "a.safetensors")
        loaded = load_adapter(tmp_path / "a.safetensors")
        assert f"{MODULE}.lora_qr.other.weight" in loaded.origin.not_loaded

    def test_a_kernel_that_one_part_keeps_apart(self, tmp_path):
        """As in `.lora.` files, base_r may be the flat form of delta_r."""
        dR, R = 0.3 * normal(RANK, 2, 3, 3, seed=1), normal(RANK, 18, seed=2)
        save_file(file_tensors(delta_r=dR, base_r=R), tmp_path / "a.safetensors")
        weight = load_adapter(tmp_path / "a.safetensors").layers[MODULE].delta_weight()
        delta = delta_with()
        expected = plain_delta(delta.factors.q, R, delta.delta_q.detach(), dR.flatten(1))
        assert weight.shape == (OUT, 2, 3, 3)
        assert oracle.error(weight.flatten(1), expected) < 1e-5
