"""Learning rates, AdamW, clipping, the moving average, and the optional optimizers."""

import math
import sys

import pytest
import torch

from comfyui_qr_lora.qrlora_core import (
    Factors,
    OptimizerSettings,
    TrainableDelta,
    Trainer,
    TrainingError,
    TrainingState,
    load_training,
    save_training,
)
from comfyui_qr_lora.qrlora_core.train.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    MovingAverage,
    make_optimizer,
    rate_factor,
)
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.diffusers_source import diffusers_functions
from comfyui_qr_lora.tests.support.oracle import normal, orthonormal
from comfyui_qr_lora.tests.support.regression import ALPHA, RANK, TARGET, WIDTH, W, X, factors, regression

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 12
PACKAGES = {"prodigy": "prodigyopt", "adamw8bit": "bitsandbytes"}
SCHEDULERS = diffusers_functions(
    "optimization.py",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_linear_schedule_with_warmup",
)


def train(steps, *, start=0, variant="full", **settings):
    """(delta, trainer) after so many steps, from zero or from seeded numbers."""
    delta = TrainableDelta(factors(), variant=variant)
    if start:
        delta.delta_r.data = normal(RANK, WIDTH, seed=start)
    trainer = Trainer({"x": delta}, OptimizerSettings(**{"learning_rate": 0.05, **settings}), steps=STEPS)
    for _ in range(steps):
        trainer.step([lambda: regression(delta)] * trainer.settings.grad_accumulation)
    return delta, trainer


def plain_gradient(value):
    value = value.clone().requires_grad_()
    oracle.loss(W, factors().q, value, ALPHA / RANK, X, TARGET).backward()
    return value.grad


def plain_adamw(value, rates, decay, max_norm=math.inf):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) in float64; yields the value after every step."""
    mean, square = torch.zeros_like(value), torch.zeros_like(value)
    for t, rate in enumerate(rates, start=1):
        gradient = plain_gradient(value)
        gradient = gradient * min(1.0, max_norm / float(torch.linalg.vector_norm(gradient)))
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        step = (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        value = value - rate * decay * value - rate * step
        yield value


class TestLearningRate:
    @pytest.mark.parametrize("warmup", [0, 1, 3, 11, 12, 20])
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_is_that_of_diffusers(self, schedule, warmup):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        make = getattr(SCHEDULERS, f"get_{schedule}_schedule_with_warmup")
        scheduler = make(optimizer, warmup) if schedule == "constant" else make(optimizer, warmup, STEPS)
        settings = OptimizerSettings(schedule=schedule, warmup_steps=warmup)
        for step in range(STEPS):
            assert rate_factor(settings, step, STEPS) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-15)
            optimizer.step()
            scheduler.step()

    @pytest.mark.parametrize("warmup", [0, 4])
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_is_what_the_optimizer_gets(self, schedule, warmup):
        delta, trainer = train(0, schedule=schedule, warmup_steps=warmup)
        for step in range(STEPS):
            trainer.step([lambda: regression(delta)])
            (group,) = trainer.optimizer.param_groups
            assert group["lr"] == 0.05 * rate_factor(trainer.settings, step, STEPS)

    def test_is_never_negative(self):
        """A training may go on past its planned end."""
        for schedule in SCHEDULES:
            assert all(rate_factor(OptimizerSettings(schedule=schedule), step, STEPS) >= 0 for step in range(40))


class TestAdamW:
    @pytest.mark.parametrize("weight_decay", [0.0, 0.3])
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_is_the_plain_one_in_float64(self, schedule, weight_decay):
        settings = {"schedule": schedule, "warmup_steps": 3, "weight_decay": weight_decay}
        delta, trainer = train(0, start=4, **settings)
        rates = [0.05 * rate_factor(trainer.settings, step, STEPS) for step in range(STEPS)]
        start = delta.delta_r.detach().double()
        for expected in plain_adamw(start, rates, weight_decay):
            trainer.step([lambda: regression(delta)])
            assert float((delta.delta_r.detach() - expected).abs().max()) < 1e-5
        assert float((expected - start).abs().max()) > 0.1

    def test_without_the_fused_form_is_the_same(self, monkeypatch):
        """A device without it raises when the optimizer is made."""
        expected, _ = train(STEPS)
        original = torch.optim.AdamW.__init__

        def refuses(self, *arguments, fused=None, **options):
            if fused:
                raise RuntimeError("`fused=True` requires all the params to be floating point Tensors of ...")
            original(self, *arguments, **options)

        monkeypatch.setattr(torch.optim.AdamW, "__init__", refuses)
        actual, trainer = train(STEPS)
        assert not trainer.optimizer.defaults["fused"]
        assert oracle.error(actual.delta_r.detach(), expected.delta_r.detach()) < 1e-5


class TestClipping:
    @staticmethod
    def gradients(max_grad_norm, **limit):
        """Of two layers, as the optimizer saw them in the first step."""
        deltas = {"a": TrainableDelta(factors(), variant="full"), "b": TrainableDelta(factors(seed=8), variant="qr")}
        trainer = Trainer(deltas, OptimizerSettings(max_grad_norm=max_grad_norm))
        trainer.step([lambda: regression(lambda x: deltas["a"](x) + deltas["b"](x))])
        return [parameter.grad.clone() for delta in deltas.values() for parameter in delta.parameters()]

    @pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
    def test_is_that_of_torch_over_all_layers(self, share):
        free = self.gradients(0.0)
        total = torch.cat([gradient.flatten() for gradient in free]).double().norm()
        parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in free]
        for parameter, gradient in zip(parameters, free, strict=True):
            parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(parameters, share * float(total))
        clipped = self.gradients(share * float(total))
        for ours, parameter in zip(clipped, parameters, strict=True):
            assert oracle.error(ours, parameter.grad) < 1e-5
        assert float(torch.cat([gradient.flatten() for gradient in clipped]).norm() / total) == pytest.approx(share)

    @pytest.mark.parametrize("limit", [1e3, 1e30])
    def test_leaves_what_is_shorter(self, limit):
        free = self.gradients(0.0)
        assert all(torch.equal(*pair) for pair in zip(self.gradients(limit), free, strict=True))

    def test_is_what_the_optimizer_steps_with(self):
        """Every step's own norm: AdamW would not see one common factor."""
        delta, trainer = train(0, start=4, max_grad_norm=0.5, weight_decay=0.0)
        start = delta.delta_r.detach().double()
        assert float(plain_gradient(start).norm()) > 1
        *_, expected = plain_adamw(start, [0.05] * STEPS, 0.0, max_norm=0.5)
        *_, unclipped = plain_adamw(start, [0.05] * STEPS, 0.0)
        for _ in range(STEPS):
            trainer.step([lambda: regression(delta)])
        assert oracle.error(delta.delta_r.detach(), expected, expected - unclipped) < 1e-2

    def test_goes_with_accumulation(self):
        """The mean is clipped, not each of the gradients."""
        one, _ = train(1, max_grad_norm=0.3)
        several, _ = train(1, max_grad_norm=0.3, grad_accumulation=3)
        assert oracle.error(several.delta_r.grad, one.delta_r.grad) < 1e-5
        assert float(several.delta_r.grad.norm()) == pytest.approx(0.3, rel=1e-5)


class TestMovingAverage:
    @pytest.mark.parametrize("decay", [0.05, 0.5, 0.99, 0.9999])
    def test_is_the_plain_recurrence(self, decay):
        value = torch.zeros(3, 4)
        average = MovingAverage({"a": value}, decay)
        expected = torch.zeros(3, 4, dtype=torch.float64)
        for t in range(30):
            value.copy_(normal(3, 4, seed=t))
            average.update(t)
            d = min(decay, (1 + t) / (10 + t))
            expected = d * expected + (1 - d) * value.double()
            assert float((average.means["a"] - expected).abs().max()) < 1e-6

    def test_of_what_stands_still_is_that(self):
        value = normal(3, 4, seed=1)
        average = MovingAverage({"a": value}, 0.9)
        for t in range(5):
            average.update(t)
        assert oracle.error(average.means["a"], value) < 1e-6

    @pytest.mark.parametrize("variant", ["triu", "full", "qr"])
    def test_is_what_the_adapter_holds(self, variant):
        """dQ and dR are averaged each, and the training does not feel it."""
        delta, trainer = train(0, variant=variant, ema_decay=0.6)
        plain, other = train(0, variant=variant)
        expected = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in delta.named_parameters()}
        for t in range(STEPS):
            trainer.step([lambda: regression(delta)])
            other.step([lambda: regression(plain)])
            d = min(0.6, (1 + t) / (10 + t))
            for name, value in delta.named_parameters():
                expected[name] = d * expected[name] + (1 - d) * value.detach().double()
        terms = trainer.adapter({}).layers["x"].terms
        assert oracle.error(terms[0].delta_r, expected["delta_r"]) < 1e-6
        assert oracle.error(terms[0].delta_r, delta.delta_r.detach()) > 0.01
        if variant == "qr":
            assert oracle.error(terms[1].q, expected["delta_q"]) < 1e-6
            assert oracle.error(terms[1].delta_r, factors().base_r + expected["delta_r"]) < 1e-6
        if variant == "triu":
            assert torch.count_nonzero(terms[0].delta_r.tril(-1)) == 0
        assert all(torch.equal(*pair) for pair in zip(delta.parameters(), plain.parameters(), strict=True))

    def test_without_one_the_adapter_is_what_is_trained(self):
        delta, trainer = train(5)
        assert torch.equal(trainer.adapter({}).layers["x"].terms[0].delta_r, delta.delta_r.detach())


OPTIONAL = [("prodigy", 1.0), ("adamw8bit", 0.02)]


class Problem:
    """Two layers: one whose states are 8-bit in AdamW8bit, which takes 4096 entries, and a small one."""

    out, rank, width = 40, 32, 160

    def __init__(self, optimizer, learning_rate, **settings):
        shapes = {"large": (self.rank, self.width), "small": (4, self.width)}
        self.deltas = {
            name: TrainableDelta(
                Factors(orthonormal(self.out, rank, seed=rank), normal(rank, width, seed=1), rank, float(rank), 0.9),
                variant="full",
            )
            for name, (rank, width) in shapes.items()
        }
        options = OptimizerSettings(learning_rate, optimizer=optimizer, **settings)
        self.trainer = Trainer(self.deltas, options, steps=40)

    def step(self, seed=None):
        """On data that depend on the number of the step, or on the seed."""
        x = normal(24, self.width, seed=self.trainer.updates if seed is None else seed)
        target = x @ normal(self.width, self.out, seed=1000) / self.width**0.5
        return self.trainer.step([lambda: (sum(delta(x) for delta in self.deltas.values()) - target).square().mean()])

    def bits(self):
        return {name: delta.delta_r.detach().clone() for name, delta in self.deltas.items()}


@pytest.mark.parametrize(("name", "learning_rate"), OPTIONAL)
class TestOptionalOptimizers:
    @pytest.fixture(autouse=True)
    def package(self, name):
        pytest.importorskip(PACKAGES[name])

    def test_train(self, name, learning_rate):
        problem = Problem(name, learning_rate)
        losses = [problem.step(seed=0) for _ in range(40)]
        assert losses[-1] < 0.5 * losses[0]

    @pytest.mark.parametrize("warmup", [0, 2])
    def test_go_on_as_if_never_interrupted(self, name, learning_rate, warmup, tmp_path):
        settings = {"warmup_steps": warmup, "schedule": "cosine", "ema_decay": 0.9, "max_grad_norm": 1.0}
        whole, states = Problem(name, learning_rate, **settings), {}
        losses = []
        for step in range(9):
            if step in (0, 1, 2, 6):
                state = TrainingState(whole.trainer.adapter({}), *whole.trainer.state())
                states[step] = save_training(state, tmp_path / f"{step}.safetensors")
            losses.append(whole.step())
        assert all(torch.count_nonzero(value) for value in whole.bits().values())
        for step, path in states.items():
            resumed, state = Problem(name, learning_rate, **settings), load_training(path)
            resumed.trainer.restore(state.tensors, state.record)
            assert [resumed.step() for _ in range(9 - step)] == losses[step:]
            assert all(torch.equal(resumed.bits()[layer], value) for layer, value in whole.bits().items())

    def test_state_matters(self, name, learning_rate):
        """The same parameters with a fresh optimizer go another way, so the test above can fail."""
        whole, fresh = Problem(name, learning_rate), Problem(name, learning_rate)
        for _ in range(6):
            whole.step()
        fresh.trainer.updates = whole.trainer.updates
        for layer, value in whole.bits().items():
            fresh.deltas[layer].delta_r.data = value
        whole.step()
        fresh.step()
        assert not any(torch.equal(fresh.bits()[layer], value) for layer, value in whole.bits().items())

    def test_missing_package_is_named(self, name, learning_rate, monkeypatch):
        package = PACKAGES[name]
        for module in [module for module in sys.modules if module.split(".")[0] == package] or [package]:
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(TrainingError, match=rf"optimizer {name} needs the package {package}.*") as caught:
            Problem(name, learning_rate)
        assert f"pip install {package}" in str(caught.value)
        assert "choose adamw" in str(caught.value)
        Problem("adamw", learning_rate).step()


class TestEightBits:
    """AdamW8bit stores the states of large tensors in 8 bits, and comes close to AdamW."""

    @pytest.fixture(autouse=True)
    def package(self):
        pytest.importorskip("bitsandbytes")

    def test_are_eight_in_large_tensors_and_stay_so_in_a_state(self):
        problem = Problem("adamw8bit", 0.02)
        problem.step()
        tensors, _ = problem.trainer.state()
        kinds = {name: tensor.dtype for name, tensor in tensors.items() if name.endswith(("state1", "state2"))}
        assert set(kinds.values()) == {torch.uint8, torch.float32}
        assert {name for name, kind in kinds.items() if kind == torch.uint8} == {
            "optimizer.0.state1",
            "optimizer.0.state2",
        }

    def test_are_close_to_adamw(self):
        ours, plain = Problem("adamw8bit", 0.02, weight_decay=0.1), Problem("adamw", 0.02, weight_decay=0.1)
        for _ in range(10):
            ours.step()
            plain.step()
        assert oracle.error(ours.bits()["small"], plain.bits()["small"]) < 0.05
        assert oracle.error(ours.bits()["large"], plain.bits()["large"]) < 0.15


class TestProdigy:
    def test_finds_its_own_rate(self):
        """d starts at 1e-6, far too small, and grows; the settings' rate is a factor alone."""
        pytest.importorskip("prodigyopt")
        problem = Problem("prodigy", 1.0)
        for _ in range(40):
            problem.step()
        (group,) = problem.trainer.optimizer.param_groups
        assert group["lr"] == 1.0
        assert group["d"] > 100 * group["d0"]


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("learning_rate", [0.0, -1e-4, math.nan, math.inf]),
            ("grad_accumulation", [0, -1]),
            ("optimizer", ["sgd", "", "AdamW"]),
            ("schedule", ["step", "", "Cosine"]),
            ("weight_decay", [-1e-9, math.nan, math.inf]),
            ("warmup_steps", [-1]),
            ("max_grad_norm", [-0.1, math.nan, math.inf]),
            ("ema_decay", [-0.1, 1.0, 1.5, math.nan, math.inf]),
        ],
    )
    def test_out_of_range_are_refused_by_name(self, name, values):
        for value in values:
            with pytest.raises(TrainingError, match=f"{name}.*{value}"):
                OptimizerSettings(**{name: value})

    def test_that_are_unknown_are_told_the_known_ones(self):
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            with pytest.raises(TrainingError, match=", ".join(known)):
                OptimizerSettings(**{name: "none"})

    def test_at_the_ends_of_their_ranges_work(self):
        smallest = {"learning_rate": 1e-30, "weight_decay": 0.0, "warmup_steps": 0, "max_grad_norm": 0.0}
        for settings in (smallest, {"ema_decay": 0.999999, "weight_decay": 10.0, "warmup_steps": 10**6}):
            delta, _ = train(2, **settings)
            assert torch.isfinite(delta.delta_r).all()

    def test_reach_the_optimizer(self):
        optimizer = make_optimizer([torch.nn.Parameter(torch.ones(2))], OptimizerSettings(0.3, weight_decay=0.7))
        assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.3, 0.7)
