"""Training dR: gradients, the triangle, AdamW, determinism, and that forward adds what the adapter says."""

import math

import pytest
import torch

from comfyui_qr_lora.qrlora_core import Layer, OptimizerSettings, TrainableDelta, TrainableLoRA, Trainer, TrainingError
from comfyui_qr_lora.qrlora_core.train.trainable import linear_branch
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal
from comfyui_qr_lora.tests.support.regression import ALPHA, RANK, SHIFT, TARGET, WIDTH, W, X, factors, regression

pytestmark = pytest.mark.usefixtures("one_thread")


def train(delta, steps, loss=regression, **settings):
    trainer = Trainer({"x": delta}, OptimizerSettings(**{"learning_rate": 0.05, **settings}))
    batches = trainer.settings.grad_accumulation
    return trainer, [trainer.step([lambda: loss(delta)] * batches) for _ in range(steps)]


def with_delta_r(seed, variant="full"):
    delta = TrainableDelta(factors(), variant=variant)
    delta.delta_r.data = normal(RANK, WIDTH, seed=seed)
    return delta


class TestZeroed:
    @pytest.mark.parametrize("variant", ["full", "triu", "qr", "lora"])
    def test_is_the_base_bit_for_bit_and_everything_comes_back(self, variant):
        if variant == "lora":
            delta = TrainableLoRA(W.shape, RANK, ALPHA, generator=torch.Generator().manual_seed(0))
        else:
            delta = TrainableDelta(factors(), variant=variant)
        trainer, _ = train(delta, 3, lambda delta: delta(X).square().mean() + delta(X).sum())
        trained = {name: value.detach().clone() for name, value in delta.named_parameters()}
        assert torch.count_nonzero(delta(X))
        with trainer.zeroed():
            assert torch.equal(X @ W.T + delta(X), X @ W.T)
        assert all(torch.equal(value, trained[name]) for name, value in delta.named_parameters())


class TestForward:
    @pytest.mark.parametrize("alpha", [RANK, ALPHA, 0.1])
    @pytest.mark.parametrize("batch", [(), (4,), (2, 3, 4)])
    def test_adds_scaling_q_delta_r(self, alpha, batch):
        parts, delta_r, x = factors(alpha=alpha), normal(RANK, WIDTH, seed=4), normal(*batch, WIDTH, seed=5)
        expected = x.double() @ oracle.delta_weight(parts.q, delta_r, alpha).T
        assert oracle.error(linear_branch(x, parts.q, delta_r, alpha / RANK), expected) < 1e-6

    def test_on_the_residual_is_the_published_layer(self):
        """``W_res x + scaling Q (R + dR) x = W x + scaling Q dR x``."""
        parts, delta = oracle.split(W, RANK, ALPHA), with_delta_r(seed=4)
        published = X.double() @ oracle.adapted_weight(parts, delta.delta_r.detach()).T
        base = X.double() @ W.double().T
        assert oracle.error(base + delta(X).detach(), published, published - base) < 1e-6

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_runs_in_the_dtype_of_its_input(self, dtype):
        delta = TrainableDelta(factors(), variant="full", compute_dtype=dtype)
        delta.delta_r.data = normal(RANK, WIDTH, seed=4)
        output = delta(X.to(dtype))
        expected = X.double() @ oracle.delta_weight(factors().q, delta.delta_r.detach(), ALPHA).T
        assert (output.dtype, delta.q.dtype, delta.delta_r.dtype) == (dtype, dtype, torch.float32)
        assert oracle.error(output.detach(), expected) < 4 * torch.finfo(dtype).eps

    @pytest.mark.parametrize("variant", ["full", "triu"])
    def test_starts_as_the_base_bit_for_bit(self, variant):
        delta = TrainableDelta(factors(), variant=variant)
        base = X @ W.T
        assert torch.equal(base + delta(X), base)
        assert torch.count_nonzero(delta.delta_r) == 0
        assert delta.delta_r.shape == (RANK, WIDTH)


class TestGradient:
    @pytest.mark.parametrize("seed", [0, 4])
    def test_is_that_of_the_plain_equation(self, seed):
        """By central differences and by autograd in float64, away from zero and (seed 0) at the start."""
        delta = with_delta_r(seed) if seed else TrainableDelta(factors(), variant="full")
        regression(delta).backward()
        plain = delta.delta_r.detach().double().requires_grad_()
        arguments = (W, factors().q, plain, ALPHA / RANK, X, TARGET)
        oracle.loss(*arguments).backward()
        differences = oracle.finite_differences(W, factors().q, plain.detach(), ALPHA / RANK, X, TARGET)
        assert oracle.error(differences, plain.grad) < 1e-9
        assert oracle.error(delta.delta_r.grad, plain.grad) < 1e-5

    def test_of_triu_is_the_upper_triangle_of_the_full_one(self):
        full, triu = with_delta_r(4), with_delta_r(4, "triu")
        regression(full).backward()
        regression(triu).backward()
        assert torch.equal(triu.delta_r.grad, full.delta_r.grad.triu())
        assert torch.count_nonzero(full.delta_r.grad.tril(-1)) == RANK * (RANK - 1) // 2

    def test_of_the_input_is_that_of_the_plain_equation(self):
        """Layers before this one learn through it."""
        delta, x = with_delta_r(4), X.clone().requires_grad_()
        regression(delta, x).backward()
        plain = X.double().requires_grad_()
        oracle.loss(W, factors().q, delta.delta_r.detach(), ALPHA / RANK, plain, TARGET).backward()
        assert oracle.error(x.grad, plain.grad) < 1e-5

    def test_reaches_delta_r_alone(self):
        parts = factors()
        delta = TrainableDelta(parts)
        regression(delta).backward()
        assert [name for name, _ in delta.named_parameters()] == ["delta_r"]
        assert not delta.q.requires_grad
        assert delta.q.grad is parts.q.grad is parts.base_r.grad is None


class TestTriangle:
    def test_keeps_the_entries_below_the_diagonal_at_zero(self):
        delta = TrainableDelta(factors(), variant="triu")
        for _ in range(3):
            train(delta, 10, weight_decay=0.1)
        assert torch.count_nonzero(delta.delta_r.tril(-1)) == 0
        assert torch.count_nonzero(delta.delta_r) == RANK * WIDTH - RANK * (RANK - 1) // 2

    def test_full_does_not(self):
        delta = TrainableDelta(factors(), variant="full")
        train(delta, 10)
        assert torch.count_nonzero(delta.delta_r) == RANK * WIDTH

    @pytest.mark.parametrize("weight_decay", [0.0, 0.3])
    def test_is_masked_training(self, weight_decay):
        """AdamW on P with ``dR = triu(P)`` in every forward."""
        delta = TrainableDelta(factors(), variant="triu")
        train(delta, 20, weight_decay=weight_decay)
        free = torch.zeros(RANK, WIDTH, requires_grad=True)
        optimizer = torch.optim.AdamW([free], lr=0.05, weight_decay=weight_decay)
        for _ in range(20):
            optimizer.zero_grad()
            regression(lambda x: linear_branch(x, factors().q, free.triu(), ALPHA / RANK)).backward()
            optimizer.step()
        assert oracle.error(delta.delta_r.detach(), free.detach().triu()) < 1e-6


class TestSteps:
    @pytest.mark.parametrize("variant", ["full", "triu"])
    def test_lower_the_loss(self, variant):
        _, losses = train(TrainableDelta(factors(), variant=variant), 60)
        assert losses[-1] < 0.5 * losses[0]

    def test_full_finds_a_shift_that_lies_in_its_basis(self):
        delta = TrainableDelta(factors(), variant="full")
        _, losses = train(delta, 150, learning_rate=0.1, weight_decay=0.0)
        assert losses[-1] < 1e-3 * losses[0]
        assert oracle.error(delta.layer().delta_weight(), SHIFT) < 0.02

    def test_return_the_loss_before_the_update(self):
        delta = TrainableDelta(factors())
        expected = float(oracle.loss(W, factors().q, delta.delta_r.detach(), ALPHA / RANK, X, TARGET))
        _, losses = train(delta, 2)
        assert losses[0] == pytest.approx(expected, rel=1e-5)
        assert losses[1] < losses[0]

    def test_are_adamw(self):
        """The first step in float64 by hand: decay, then lr * g / (|g| + eps)."""
        delta, lr, decay = with_delta_r(4), 0.05, 0.3
        plain = delta.delta_r.detach().double().requires_grad_()
        oracle.loss(W, factors().q, plain, ALPHA / RANK, X, TARGET).backward()
        before = plain.detach()
        train(delta, 1, learning_rate=lr, weight_decay=decay)
        expected = before * (1 - lr * decay) - lr * plain.grad / (plain.grad.abs() + 1e-8)
        assert oracle.error(delta.delta_r.detach(), expected, expected - before) < 1e-5

    def test_twice_are_the_same_to_the_bit(self):
        def run():
            torch.manual_seed(7)
            delta = TrainableDelta(factors())
            noisy = lambda d: regression(d, X[torch.randperm(64)[:8]], TARGET[:8])  # noqa: E731
            _, losses = train(delta, 25, noisy)
            return delta.delta_r.detach(), losses

        (first, losses), (second, same_losses) = run(), run()
        assert torch.equal(first, second)
        assert losses == same_losses

    @pytest.mark.parametrize("count", [2, 4])
    def test_of_accumulated_losses_are_those_of_one_batch(self, count):
        whole, parts = TrainableDelta(factors()), TrainableDelta(factors())
        one = Trainer({"x": whole}, OptimizerSettings(0.05))
        several = Trainer({"x": parts}, OptimizerSettings(0.05, grad_accumulation=count))
        chunks = list(zip(X.chunk(count), TARGET.chunk(count), strict=True))
        for _ in range(10):
            expected = one.step([lambda: regression(whole)])
            actual = several.step([lambda x=x, y=y: regression(parts, x, y) for x, y in chunks])
            assert actual == pytest.approx(expected, rel=1e-5)
        assert oracle.error(parts.delta_r.detach(), whole.delta_r.detach()) < 1e-4

    def test_ask_for_one_loss_at_a_time(self):
        """So that one graph at a time is in memory: the next loss is computed after the last one's backward."""
        delta, events = TrainableDelta(factors()), []
        delta.delta_r.register_hook(lambda _: events.append("backward"))

        def losses():
            for _ in range(3):
                events.append("loss")
                yield lambda: regression(delta)

        Trainer({"x": delta}, OptimizerSettings(grad_accumulation=3)).step(losses())
        assert events == ["loss", "backward"] * 3

    def test_train_all_layers_together(self):
        deltas = {"a": TrainableDelta(factors()), "b": TrainableDelta(factors(seed=8))}
        trainer = Trainer(deltas, OptimizerSettings(0.05))
        losses = [trainer.step([lambda: regression(lambda x: deltas["a"](x) + deltas["b"](x))]) for _ in range(20)]
        assert losses[-1] < losses[0]
        assert all(torch.count_nonzero(delta.delta_r) for delta in deltas.values())

    @pytest.mark.parametrize("variant", ["full", "triu"])
    def test_change_no_bit_of_the_base(self, variant):
        parts = factors()
        copies = parts.q.clone(), parts.base_r.clone()
        delta = TrainableDelta(parts, variant=variant)
        train(delta, 10, weight_decay=0.5)
        assert torch.equal(delta.q, copies[0])
        assert torch.equal(parts.q, copies[0])
        assert torch.equal(parts.base_r, copies[1])


class TestAdapter:
    @pytest.mark.parametrize("variant", ["full", "triu"])
    def test_adds_what_forward_adds(self, variant):
        delta = TrainableDelta(factors(), variant=variant)
        trainer, _ = train(delta, 20)
        adapter = trainer.adapter({"triggers": "a cat"})
        (term,) = adapter.layers["x"].terms
        assert oracle.error(X @ adapter.layers["x"].delta_weight().T, delta(X).detach()) < 1e-5
        assert oracle.error(delta(X).detach(), X.double() @ oracle.delta_weight(term.q, term.delta_r, ALPHA).T) < 1e-5
        assert adapter.metadata["triggers"] == "a cat"

    def test_holds_the_factors_of_the_base(self):
        trainer, _ = train(TrainableDelta(factors()), 1)
        (term,) = trainer.adapter({}).layers["x"].terms
        assert (term.alpha, term.rank) == (ALPHA, RANK)
        assert oracle.error(term.scaling * term.base_r, factors().q.double().T @ W.double()) < 1e-5

    def test_keeps_the_full_basis_when_computing_in_half_precision(self):
        """Adapters trained on one base share it, whatever the dtype they were trained in."""
        deltas = [TrainableDelta(factors(), compute_dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
        assert len({delta.layer().terms[0].basis_id for delta in deltas}) == 1

    def test_is_a_snapshot(self):
        delta = TrainableDelta(factors())
        trainer, _ = train(delta, 3)
        layer = delta.layer()
        then = layer.terms[0].delta_r.clone()
        trainer.step([lambda: regression(delta)])
        assert isinstance(layer, Layer)
        assert not layer.terms[0].delta_r.requires_grad
        assert torch.equal(layer.terms[0].delta_r, then)
        assert not torch.equal(delta.delta_r, then)


class TestErrors:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("position", [0, 1])
    def test_a_loss_that_is_not_finite_leaves_delta_r_as_it_was(self, value, position):
        delta = TrainableDelta(factors())
        trainer, _ = train(delta, 3, grad_accumulation=2)
        before = delta.delta_r.detach().clone()
        losses = [lambda: regression(delta), lambda: regression(delta)]
        losses[position] = lambda: regression(delta) * value
        with pytest.raises(TrainingError, match=r"the loss became (nan|inf).*learning_rate"):
            trainer.step(losses)
        assert torch.equal(delta.delta_r, before)

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_another_number_of_losses_leaves_delta_r_as_it_was(self, count):
        delta = TrainableDelta(factors())
        trainer, _ = train(delta, 3, grad_accumulation=2)
        before = delta.delta_r.detach().clone()
        with pytest.raises(TrainingError, match=f"expected 2 losses per update, found {count}"):
            trainer.step([lambda: regression(delta)] * count)
        assert torch.equal(delta.delta_r, before)

    def test_a_gradient_that_is_not_finite_leaves_delta_r_as_it_was(self):
        delta = TrainableDelta(factors())
        trainer, _ = train(delta, 3)
        before = delta.delta_r.detach().clone()
        with pytest.raises(TrainingError, match="the gradient became nan"):
            trainer.step([lambda: (0 * delta.delta_r).abs().sum().sqrt()])  # finite, with an infinite slope at zero
        assert torch.equal(delta.delta_r, before)

    def test_training_goes_on_as_if_the_bad_step_had_not_been(self):
        def run(stumble):
            delta = TrainableDelta(factors())
            trainer, _ = train(delta, 3)
            if stumble:
                with pytest.raises(TrainingError):
                    trainer.step([lambda: regression(delta), lambda: regression(delta) * math.nan])
            trainer.step([lambda: regression(delta)])
            return delta.delta_r.detach()

        assert torch.equal(run(stumble=True), run(stumble=False))

    def test_an_unknown_variant(self):
        with pytest.raises(TrainingError, match="variant: expected one of triu, full, qr, found 'lora'"):
            TrainableDelta(factors(), variant="lora")

    def test_no_layers(self):
        with pytest.raises(TrainingError, match="no layer to train"):
            Trainer({})

    @pytest.mark.parametrize("learning_rate", [0.0, -1e-4, math.nan])
    def test_a_learning_rate_that_is_not_positive(self, learning_rate):
        with pytest.raises(TrainingError, match="expected learning_rate > 0"):
            Trainer({"x": TrainableDelta(factors())}, OptimizerSettings(learning_rate))

    @pytest.mark.parametrize("count", [0, -1])
    def test_no_accumulation(self, count):
        with pytest.raises(TrainingError, match=f"grad_accumulation >= 1, found .* and {count}"):
            Trainer({"x": TrainableDelta(factors())}, OptimizerSettings(grad_accumulation=count))
