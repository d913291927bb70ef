"""Noise levels by their distributions, loss weights by the closed forms of their papers, losses and masks."""

import math
from types import SimpleNamespace

import numpy
import pytest
import scipy.stats
import torch

from comfyui_qr_lora.qrlora_core import ObjectiveSettings, TrainingError
from comfyui_qr_lora.qrlora_core.train.objective import (
    LOSSES,
    TIMESTEPS,
    WEIGHTINGS,
    bent,
    example_losses,
    loss_weight,
    sample_levels,
)
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.diffusers_source import diffusers_functions
from comfyui_qr_lora.tests.support.oracle import normal

pytestmark = pytest.mark.usefixtures("one_thread")

DIFFUSERS = diffusers_functions("training_utils.py", "compute_loss_weighting_for_sd3", "compute_snr")
# Cumulative distribution functions, on (0, 1).
CDF = {
    "uniform": lambda x: x,
    "shifted": lambda x: x,
    "logit_normal": lambda x: scipy.stats.norm.cdf(numpy.log(x / (1 - x))),
    "content": lambda x: 1 - (1 - x) ** (1 / 3),  # P(1 - u^3 <= x)
    "style": lambda x: x ** (1 / 3),
}


def levels(timesteps, count=20000, seed=0):
    return sample_levels(timesteps, count, torch.Generator().manual_seed(seed))


class TestLevels:
    @pytest.mark.parametrize("timesteps", TIMESTEPS)
    def test_have_their_distribution_and_no_other(self, timesteps):
        """Kolmogorov-Smirnov: against their own function, and against all others, which are rejected."""
        values = levels(timesteps).double().numpy().clip(1e-12, 1 - 1e-12)
        assert scipy.stats.kstest(values, CDF[timesteps]).pvalue > 0.01
        same = {"uniform", "shifted"} if timesteps in ("uniform", "shifted") else {timesteps}
        for other in CDF.keys() - same:
            assert scipy.stats.kstest(values, CDF[other]).pvalue < 1e-6

    @pytest.mark.parametrize("timesteps", TIMESTEPS)
    def test_are_float32_in_the_range_of_a_timestep(self, timesteps):
        values = levels(timesteps)
        assert (values.dtype, values.shape) == (torch.float32, (20000,))
        assert 0 <= float(values.min()) < 0.1
        assert 0.9 < float(values.max()) < 1

    @pytest.mark.parametrize("timesteps", TIMESTEPS)
    def test_stay_below_one_at_the_ends_of_the_generators_range(self, timesteps, monkeypatch):
        ends = torch.tensor([0.0, 2**-24, 1e-3, 1 - 2**-24])
        monkeypatch.setattr(torch, "rand", lambda *_, **__: ends)
        monkeypatch.setattr(torch, "randn", lambda *_, **__: torch.tensor([-6.0, 6.0]))
        values = levels(timesteps, count=4)
        assert 0 <= float(values.min()) <= float(values.max()) < 1

    @pytest.mark.parametrize("timesteps", TIMESTEPS)
    def test_come_from_the_generator_alone(self, timesteps):
        torch.manual_seed(0)
        first = levels(timesteps, 9, seed=5)
        torch.manual_seed(1)
        assert torch.equal(levels(timesteps, 9, seed=5), first)
        assert not torch.equal(levels(timesteps, 9, seed=6), first)

    def test_of_content_are_those_of_style_from_the_other_end(self):
        assert oracle.error(1 - levels("content"), levels("style")) < 1e-6


def bent_cdf(bias):
    """P(u^(1 + b) <= x), and for b < 0 the same from the other end."""
    if bias < 0:
        return lambda x: 1 - (1 - x) ** (1 / (1 - bias))
    return lambda x: x ** (1 / (1 + bias))


class TestBentLevels:
    BIASES = (-2.0, -0.5, 0.0, 0.5, 1.0, 2.0)

    @pytest.mark.parametrize("bias", BIASES)
    def test_have_their_distribution_and_no_other(self, bias):
        values = bent(levels("uniform"), bias).double().numpy().clip(1e-12, 1 - 1e-12)
        assert scipy.stats.kstest(values, bent_cdf(bias)).pvalue > 0.01
        for other in set(self.BIASES) - {bias}:
            assert scipy.stats.kstest(values, bent_cdf(other)).pvalue < 1e-6

    @pytest.mark.parametrize("bias", [b for b in BIASES if b])
    def test_have_the_density_that_is_stated(self, bias):
        """``s^(-b / (1 + b)) / (1 + b)`` at s, or at 1 - s with -b, is the derivative of the distribution function."""
        x, step = numpy.linspace(0.05, 0.95, 19), 1e-6
        slope = (bent_cdf(bias)(x + step) - bent_cdf(bias)(x - step)) / (2 * step)
        b, s = abs(bias), x if bias > 0 else 1 - x
        assert numpy.allclose(slope, s ** (-b / (1 + b)) / (1 + b), rtol=1e-5)

    def test_of_zero_are_untouched(self):
        plain = levels("logit_normal")
        assert bent(plain, 0.0) is plain

    @pytest.mark.parametrize("bias", BIASES)
    def test_stay_in_the_range_of_a_timestep_and_in_order(self, bias):
        ends = torch.tensor([0.0, 2**-24, 1e-3, 0.5, 1 - 2**-24])
        found = bent(ends, bias)
        assert 0 <= float(found.min()) <= float(found.max()) < 1
        assert bool((found.diff() >= 0).all())

    def test_towards_low_noise_mirror_those_towards_high_noise(self):
        u = levels("uniform")
        assert oracle.error(1 - bent(1 - u, -2.0), bent(u, 2.0)) < 1e-5


# Noise levels of the host's model samplings: sigma is noise over signal, or the share of noise in a flow.
SIGMA = torch.logspace(-2, 2, 41, dtype=torch.float64)
FLOW_SIGMA = torch.linspace(0.01, 0.99, 41, dtype=torch.float64)
GAMMAS = [0.5, 1.0, 5.0, 20.0]


def min_snr(gamma, sigma, scale, flow):
    return loss_weight(ObjectiveSettings(weighting="min_snr", min_snr_gamma=gamma), sigma, scale, flow=flow)


class TestMinSNR:
    """Hang et al. 2023, arXiv 2303.09556."""

    @pytest.mark.parametrize("gamma", GAMMAS)
    def test_of_epsilon_is_its_closed_form(self, gamma):
        """``x0 = x - sigma eps``."""
        snr = 1 / SIGMA**2
        assert oracle.error(min_snr(gamma, SIGMA, -SIGMA, False), snr.clamp(max=gamma) / snr) < 1e-12

    @pytest.mark.parametrize("gamma", GAMMAS)
    def test_of_v_is_its_closed_form(self, gamma):
        """``x0 = x / (sigma^2 + 1) - v sigma / sqrt(sigma^2 + 1)``."""
        snr = 1 / SIGMA**2
        weight = min_snr(gamma, SIGMA, -SIGMA / (SIGMA**2 + 1).sqrt(), False)
        assert oracle.error(weight, snr.clamp(max=gamma) / (snr + 1)) < 1e-12

    @pytest.mark.parametrize("gamma", GAMMAS)
    def test_of_a_flow_is_its_closed_form(self, gamma):
        """``x0 = x - sigma velocity``, and SNR is ``((1 - sigma) / sigma)^2``."""
        snr = ((1 - FLOW_SIGMA) / FLOW_SIGMA) ** 2
        expected = snr.clamp(max=gamma) * FLOW_SIGMA**2
        assert oracle.error(min_snr(gamma, FLOW_SIGMA, -FLOW_SIGMA, True), expected) < 1e-12

    @pytest.mark.parametrize(("prediction", "added"), [("epsilon", 0.0), ("v_prediction", 1.0)])
    def test_is_that_of_the_scripts_of_diffusers(self, prediction, added):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # Stable Diffusion's
        scheduler = SimpleNamespace(alphas_cumprod=(1 - betas).cumprod(0))
        timesteps = torch.arange(0, 1000, 37)
        snr = DIFFUSERS.compute_snr(scheduler, timesteps)
        expected = snr.clamp(max=5.0) / (snr + added)
        signal = scheduler.alphas_cumprod[timesteps]
        sigma = ((1 - signal) / signal).sqrt()
        scale = -sigma if prediction == "epsilon" else -((1 - signal).sqrt())
        assert oracle.error(min_snr(5.0, sigma, scale, False), expected) < 1e-5

    @pytest.mark.parametrize("flow", [True, False])
    def test_weighs_the_error_of_the_picture_alike_whatever_is_predicted(self, flow):
        """``w(F) |F error|^2 = min(SNR, gamma) |x0 error|^2``, as ``x0 error = c F error``."""
        sigma = FLOW_SIGMA if flow else SIGMA
        scale = normal(len(sigma), seed=1, dtype=torch.float64)
        picture_error = normal(len(sigma), seed=2, dtype=torch.float64)
        snr = (((1 - sigma) / sigma) if flow else (1 / sigma)) ** 2
        weighted = min_snr(5.0, sigma, scale, flow) * (picture_error / scale) ** 2
        assert oracle.error(weighted, snr.clamp(max=5.0) * picture_error**2) < 1e-12

    def test_is_finite_at_the_ends_of_a_flow(self):
        ends = torch.tensor([0.0, 1e-3, 1.0])
        assert torch.isfinite(min_snr(5.0, ends, -ends, True)).all()


class TestFlowWeightings:
    @pytest.mark.parametrize("weighting", ["sigma_sqrt", "cosmap", "none"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_are_those_of_diffusers(self, weighting, dtype):
        sigma = FLOW_SIGMA.to(dtype)
        actual = loss_weight(ObjectiveSettings(weighting=weighting), sigma, -sigma, flow=True)
        assert oracle.error(actual, DIFFUSERS.compute_loss_weighting_for_sd3(weighting, sigma)) < 1e-6

    def test_of_cosmap_is_a_density(self):
        """It is one of noise levels in the paper: its integral over [0, 1] is 1."""
        sigma = torch.linspace(0, 1, 10001, dtype=torch.float64)
        weight = loss_weight(ObjectiveSettings(weighting="cosmap"), sigma, sigma, flow=True)
        assert float(torch.trapezoid(weight, sigma)) == pytest.approx(1, rel=1e-6)

    @pytest.mark.parametrize("weighting", ["sigma_sqrt", "cosmap"])
    def test_are_refused_for_other_models(self, weighting):
        with pytest.raises(TrainingError, match=f"weighting {weighting} is for flow models.*choose none or min_snr"):
            loss_weight(ObjectiveSettings(weighting=weighting), SIGMA, SIGMA, flow=False)

    @pytest.mark.parametrize("weighting", ["none", "min_snr"])
    def test_that_any_model_takes_are_taken(self, weighting):
        for flow, sigma in ((True, FLOW_SIGMA), (False, SIGMA)):
            weight = loss_weight(ObjectiveSettings(weighting=weighting), sigma, -sigma, flow=flow)
            assert weight.shape == sigma.shape
            assert bool((weight > 0).all())
            assert bool((weight == 1).all()) == (weighting == "none")


ERROR = 0.2 * normal(3, 4, 5, 6, seed=1)
HALF = (normal(3, 1, 5, 6, seed=2) > 0).float()
KINDS = [("mse", 0.1), ("huber", 0.01), ("huber", 0.1), ("huber", 10.0)]


def losses(error, mask=None, kind=("mse", 0.1)):
    return example_losses(ObjectiveSettings(loss=kind[0], huber_delta=kind[1]), error, mask)


def plain(error, kind):
    """Every element's loss, in float64."""
    e, delta = error.double(), kind[1]
    if kind[0] == "mse":
        return e**2
    return torch.where(e.abs() <= delta, e**2 / 2, delta * (e.abs() - delta / 2))


@pytest.mark.parametrize("kind", KINDS)
class TestExampleLosses:
    def test_are_those_of_torch(self, kind):
        functions = {
            "mse": torch.nn.functional.mse_loss,
            "huber": lambda a, b: torch.nn.functional.huber_loss(a, b, delta=kind[1]),
        }
        expected = torch.stack([functions[kind[0]](example, torch.zeros_like(example)) for example in ERROR])
        assert losses(ERROR, kind=kind).shape == (3,)
        assert oracle.error(losses(ERROR, kind=kind), expected) < 1e-6
        assert oracle.error(expected, plain(ERROR, kind).flatten(1).mean(1)) < 1e-6

    @pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 1, 5, 6), (1, 1, 5, 6)])
    @pytest.mark.parametrize("value", [1.0, 0.25])
    def test_a_mask_of_one_value_changes_nothing(self, kind, shape, value):
        assert oracle.error(losses(ERROR, torch.full(shape, value), kind), losses(ERROR, kind=kind)) < 1e-6

    def test_are_means_over_the_masked_area(self, kind):
        values = plain(ERROR, kind)
        expected = torch.stack([example[:, mask[0] == 1].mean() for example, mask in zip(values, HALF, strict=True)])
        assert oracle.error(losses(ERROR, HALF, kind), expected) < 1e-6
        assert oracle.error(losses(ERROR, kind=kind), expected) > 1e-3

    def test_a_mask_weighs(self, kind):
        mask = normal(3, 1, 5, 6, seed=3).abs()
        weights = mask.expand_as(ERROR).double().numpy().reshape(3, -1)
        expected = numpy.average(plain(ERROR, kind).numpy().reshape(3, -1), axis=1, weights=weights)
        assert oracle.error(losses(ERROR, mask, kind), torch.from_numpy(expected)) < 1e-6

    def test_what_is_masked_out_has_no_influence(self, kind):
        outside = (HALF == 0).expand_as(ERROR)
        assert 0 < int(outside.sum()) < outside.numel()
        changed = torch.where(outside, 1e6 * normal(*ERROR.shape, seed=4), ERROR)
        assert torch.equal(losses(changed, HALF, kind), losses(ERROR, HALF, kind))
        error = changed.clone().requires_grad_()
        losses(error, HALF, kind).sum().backward()
        assert torch.count_nonzero(error.grad[outside]) == 0
        assert bool((error.grad[~outside] != 0).all())

    @pytest.mark.parametrize("dtype", [torch.bool, torch.float64, torch.uint8])
    def test_a_mask_may_be_of_any_dtype(self, kind, dtype):
        assert torch.equal(losses(ERROR, HALF.to(dtype), kind), losses(ERROR, HALF, kind))

    def test_examples_do_not_mix(self, kind):
        together = losses(ERROR, HALF, kind)
        alone = [losses(ERROR[i : i + 1], HALF[i : i + 1], kind) for i in range(3)]
        assert torch.equal(together, torch.cat(alone))

    @pytest.mark.parametrize("shape", [(3, 7), (3, 4, 2, 5, 6)])
    def test_take_any_shape(self, kind, shape):
        error = normal(*shape, seed=5)
        assert oracle.error(losses(error, kind=kind), plain(error, kind).flatten(1).mean(1)) < 1e-6


class TestSettings:
    @pytest.mark.parametrize(("name", "known"), [("timesteps", TIMESTEPS), ("weighting", WEIGHTINGS), ("loss", LOSSES)])
    def test_that_are_unknown_are_refused_by_name(self, name, known):
        for value in ("", "other", known[0].upper()):
            with pytest.raises(TrainingError, match=f"{name}: expected one of {', '.join(known)}, found '{value}'"):
                ObjectiveSettings(**{name: value})

    @pytest.mark.parametrize("name", ["min_snr_gamma", "huber_delta"])
    @pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
    def test_out_of_range_are_refused_by_name(self, name, value):
        with pytest.raises(TrainingError, match=f"{name}: expected more than 0, found {value}"):
            ObjectiveSettings(**{name: value})

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_bias_that_is_no_number_is_refused_by_name(self, value):
        with pytest.raises(TrainingError, match=f"noise_bias: expected a finite number, found {value}"):
            ObjectiveSettings(noise_bias=value)

    @pytest.mark.parametrize(("low", "high"), [(-1, 1000), (0, 1001), (500, 500), (900, 100)])
    def test_a_range_that_is_none_is_refused(self, low, high):
        with pytest.raises(TrainingError, match=f"found {low} and {high}"):
            ObjectiveSettings(min_timestep=low, max_timestep=high)

    def test_defaults_are_the_published_recipe(self):
        settings = ObjectiveSettings()
        assert torch.equal(levels(settings.timesteps), torch.rand(20000, generator=torch.Generator().manual_seed(0)))
        assert torch.equal(example_losses(settings, ERROR), ERROR.square().flatten(1).mean(1))
        assert bool((loss_weight(settings, SIGMA, SIGMA, flow=False) == 1).all())
