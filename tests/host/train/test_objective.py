"""The training objective of every kind of host model: what it predicts, at which noise levels, and where."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling as sampling
import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.train.batches import Batch, BatchSampler
from comfyui_qr_lora.nodes.host.train.dataset import DataSettings, collect, collect_examples
from comfyui_qr_lora.nodes.host.train.objective import check_noise, objective_loss, sample_sigmas
from comfyui_qr_lora.qrlora_core import ObjectiveSettings, TrainingError
from comfyui_qr_lora.qrlora_core.train.objective import TIMESTEPS
from devtools import tiny_models

from ...support.training_task import assert_same, caption, latent, train

# Every parametrization of the host, with a schedule that it is used with.
KINDS: dict[str, tuple[type, ...]] = {
    "epsilon": (sampling.ModelSamplingDiscrete, sampling.EPS),
    "v": (sampling.ModelSamplingDiscrete, sampling.V_PREDICTION),
    "edm": (sampling.ModelSamplingContinuousEDM, sampling.EDM),
    "v edm": (sampling.ModelSamplingContinuousEDM, sampling.V_PREDICTION),
    "flow": (sampling.ModelSamplingDiscreteFlow, sampling.CONST),
    "flux": (sampling.ModelSamplingFlux, sampling.CONST),
    "cosmos flow": (sampling.ModelSamplingCosmosRFlow, sampling.COSMOS_RFLOW),
    "x0": (sampling.ModelSamplingDiscrete, sampling.X0),
}


def make_sampling(kind: str) -> Any:
    made = type("Sampling", KINDS[kind], {})()
    if kind == "cosmos flow":
        made.set_parameters(sigma_min=0.01, sigma_max=200.0, sigma_data=1.0)
    return made


class Network:
    """A model whose network is off from the truth by a known error."""

    def __init__(self, kind: str, clean: Tensor, error: Tensor) -> None:
        self.model_sampling, self._clean, self._error = make_sampling(kind), clean, error

    def apply_model(self, noisy: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        # The true output solves x0 = a x + c F for F, with a and c found by asking with ones and zeros.
        def denoised(output: Tensor, given: Tensor) -> Tensor:
            return self.model_sampling.calculate_denoised(sigma, output, given)

        zeros, ones = torch.zeros_like(noisy), torch.ones_like(noisy)
        true = (self._clean - denoised(zeros, noisy)) / denoised(ones, zeros)
        return denoised(true + self._error, noisy)


class PictureToPicture(sampling.CONST):
    """As FlowRVS, a Wan of newer hosts, makes a mask of a video."""

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        return latent_image


def test_a_model_that_is_never_given_noise_is_refused() -> None:
    for kind in KINDS:
        check_noise(make_sampling(kind))
    patcher = tiny_models.build("wan")
    made = type("Sampling", (sampling.ModelSamplingDiscreteFlow, PictureToPicture), {})(patcher.model.model_config)
    patcher.add_object_patch("model_sampling", made)
    with pytest.raises(TrainingError, match="one picture of another"):
        train(patcher, [{"samples": torch.ones(1, 16, 1, 4, 4)}], [caption(0)])
    with pytest.raises(TrainingError, match="one picture of another"):
        train(tiny_models.build("lotus"), [{"samples": torch.ones(1, 4, 8, 8)}], [caption(0)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_error_of_what_the_network_itself_predicts(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise, error = (torch.randn(3, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    sigma = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    network = Network(kind, clean, error)
    loss = objective_loss(network, clean, [{}] * 3, sigma, noise, {})
    assert float(loss) == pytest.approx(float(error.square().mean()), rel=1e-4)
    assert float(objective_loss(Network(kind, clean, error * 0), clean, [{}] * 3, sigma, noise, {})) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("timesteps", TIMESTEPS)
def test_noise_levels_lie_between_those_that_the_model_knows(kind: str, timesteps: str) -> None:
    made = make_sampling(kind)
    sigmas = sample_sigmas(made, 500, torch.Generator().manual_seed(0), ObjectiveSettings(timesteps))
    assert sigmas.isfinite().all()
    assert sigmas.min() > 0
    assert sigmas.max() <= float(made.percent_to_sigma(0.0)) + 1e-6
    assert len(sigmas.unique()) > 100


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow", "flux"])
def test_content_is_trained_at_higher_noise_than_style(kind: str) -> None:
    medians = {
        timesteps: float(
            sample_sigmas(
                make_sampling(kind), 2000, torch.Generator().manual_seed(0), ObjectiveSettings(timesteps)
            ).median()
        )
        for timesteps in ("content", "uniform", "style")
    }
    assert medians["content"] > 1.5 * medians["uniform"] > 2 * medians["style"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [-2.0, -0.5, 0.5, 2.0])
def test_a_role_bends_the_uniform_levels_and_the_model_maps_them_as_ever(kind: str, bias: float) -> None:
    made = make_sampling(kind)
    found = sample_sigmas(made, 200, torch.Generator().manual_seed(1), ObjectiveSettings(noise_bias=bias))
    u = torch.rand(200, generator=torch.Generator().manual_seed(1))
    t = u ** (1 + bias) if bias > 0 else 1 - (1 - u) ** (1 - bias)
    if isinstance(made, sampling.CONST):
        wanted = t.clamp(1e-3, 1 - 2**-24)
    else:
        percents = (1 - t).clamp(1e-3, 1 - 1e-3)
        wanted = torch.tensor([float(made.percent_to_sigma(float(percent))) for percent in percents])
    assert torch.allclose(found, wanted, rtol=1e-5)
    plain = sample_sigmas(made, 200, torch.Generator().manual_seed(1))
    assert bool(((found - plain).sign() * bias <= 0).all())


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_shifted_visits_what_the_sampler_visits(shift: float) -> None:
    """sigma = s t / (1 + (s - 1) t) for the time-shift of SD3 (arXiv 2403.03206, eq. 23)."""
    made = make_sampling("flow")
    made.set_parameters(shift=shift)
    found = sample_sigmas(made, 4000, torch.Generator().manual_seed(0), ObjectiveSettings("shifted"))
    t = torch.rand(4000, generator=torch.Generator().manual_seed(0)).clamp(1e-3, 1 - 1e-3)
    assert torch.allclose(found, shift * t / (1 + (shift - 1) * t), atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow", "flux"])
@pytest.mark.parametrize("timesteps", TIMESTEPS)
@pytest.mark.parametrize(("low", "high"), [(875, 1000), (0, 900), (300, 400)])
def test_one_of_two_experts_sees_its_own_noise_in_the_same_proportions(
    kind: str, timesteps: str, low: int, high: int
) -> None:
    """What is seen is what an unlimited training sees between the two: the same order statistics."""
    made, generator = make_sampling(kind), torch.Generator().manual_seed(0)
    found = sample_sigmas(made, 200, generator, ObjectiveSettings(timesteps, min_timestep=low, max_timestep=high))
    everything = sample_sigmas(made, 6000, torch.Generator().manual_seed(1), ObjectiveSettings(timesteps))
    share = shares(made, everything)
    within = apart(everything[(share >= low / 1000) & (share <= high / 1000)])
    assert (shares(made, found) >= low / 1000 - 2e-3).all()
    assert (shares(made, found) <= high / 1000 + 2e-3).all()
    ranks = torch.searchsorted(within, apart(found)) / len(within)
    bound = 2.2 * (1 / 200 + 1 / len(within)) ** 0.5  # Kolmogorov and Smirnov: one in ten thousand
    assert (ranks - torch.linspace(0, 1, 200)).abs().max() < bound


def apart(sigmas: Tensor) -> Tensor:
    """In order, with equal ones (at the ends of what a model knows) in an order of chance."""
    jitter = 1 + 1e-9 * torch.rand(len(sigmas), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return (sigmas.double() * jitter).sort().values


def shares(made: Any, sigmas: Tensor) -> Tensor:
    """Of all noise, what a timestep is: a flow's sigma, else the place among all timesteps."""
    return sigmas if isinstance(made, sampling.CONST) else made.timestep(sigmas).float() / 1000


def test_a_range_that_is_never_drawn_is_an_error() -> None:
    settings = ObjectiveSettings("content", min_timestep=0, max_timestep=1)
    with pytest.raises(
        TrainingError, match=r"hardly any noise lay between min_timestep 0 and max_timestep 1; choose uniform"
    ):
        sample_sigmas(make_sampling("flow"), 64, torch.Generator().manual_seed(0), settings)


def test_a_weighting_for_flows_on_another_model() -> None:
    patcher = tiny_models.build("sd15")
    text = [[torch.randn(1, 12, 96), {}]]
    with pytest.raises(TrainingError, match=r"weighting cosmap is for flow models.*choose none or min_snr"):
        train(patcher, [{"samples": torch.randn(1, 4, 8, 8)}], [text], objective=ObjectiveSettings(weighting="cosmap"))


def masked(mask: Tensor) -> dict[str, Tensor]:
    return latent(0) | {"noise_mask": mask}


def test_a_mask_of_ones_changes_nothing_and_one_of_a_part_does(model: Any) -> None:
    plain = train(model, steps=3)
    assert_same(train(model, [masked(torch.ones(1, 64, 64))], steps=3).adapter, plain.adapter)
    part = torch.zeros(1, 64, 64)
    part[:, :32] = 1
    assert train(model, [masked(part)], steps=3).losses != plain.losses


def test_what_lies_outside_the_mask_is_not_learned() -> None:
    """The loss is that of the masked half alone, at the size of the latent."""
    generator = torch.Generator().manual_seed(0)
    clean, noise, error = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(3))
    part = torch.zeros(1, 1, 64, 64)
    part[..., :32, :] = 1
    example = collect_examples([{"samples": clean, "noise_mask": part}], [caption(0)])[0]
    mask = Batch([example], list(example.captions), torch.tensor([0.5]), noise).mask(clean)
    assert mask is not None
    assert torch.equal(mask, torch.cat([torch.ones(1, 1, 4, 8), torch.zeros(1, 1, 4, 8)], dim=2))
    loss = objective_loss(Network("flow", clean, error), clean, [{}], torch.tensor([0.5]), noise, {}, mask=mask)
    assert float(loss) == pytest.approx(float(error[:, :, :4].square().mean()), rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 3, 8, 8), (9, 64, 64), (9, 1, 64, 64)])
def test_a_mask_of_a_video_says_in_which_frames_to_learn(shape: tuple[int, ...]) -> None:
    """Of its latent frames, or of its pictures; a given first frame, as image to video has it, is none to learn."""
    mask = torch.ones(shape)
    frames = mask.view(-1, *shape[-2:])
    frames[: len(frames) // 3] = 0
    clean = torch.randn(1, 16, 3, 8, 8)
    examples = collect_examples([{"samples": clean, "noise_mask": mask}, {"samples": clean}], [caption(0)])
    found = Batch(examples, [], torch.tensor([0.5]), clean).mask(clean)
    assert found is not None
    expected = torch.ones(2, 1, 3, 8, 8)
    expected[0, :, 0] = 0
    assert torch.equal(found, expected)


def test_an_empty_mask_is_refused_by_number() -> None:
    with pytest.raises(TrainingError, match="image 2 of latents: its mask is empty"):
        collect_examples([latent(0), masked(torch.zeros(1, 64, 64))], [caption(0)])


def draws(data: Any, batch_size: int = 2) -> BatchSampler:
    return BatchSampler(data, batch_size, 0, ObjectiveSettings(), make_sampling("flow"))


def test_dropped_captions_come_as_often_as_asked() -> None:
    data = collect([latent(0)], [caption(0)], DataSettings(caption_dropout=0.25), [caption(9)])
    source = draws(data)
    seen = [batch.captions for _ in range(1000) for batch in source.next()]
    dropped = sum(entry is data.empty_caption for captions in seen for entry in captions) / 2000
    assert abs(dropped - 0.25) < 0.03


def test_repeats_and_several_captions_are_drawn_as_often_as_asked() -> None:
    data = collect(
        [latent(0), latent(1)], [caption(n) for n in range(4)], DataSettings(captions_per_image=2, repeats=(1, 3))
    )
    source, counts = draws(data), {}
    for _ in range(400):
        (batch,) = source.next()
        for example, entry in zip(batch.examples, batch.captions, strict=True):
            assert any(entry is own for own in example.captions)
            counts[id(entry)] = counts.get(id(entry), 0) + 1
    first, second = ([counts[id(entry)] for entry in example.captions] for example in data.examples)
    assert sum(second) == 3 * sum(first)
    assert min(*first, *second) > 0.35 * min(sum(first), sum(second))


def test_class_images_come_beside_every_batch_with_their_weight(model: Any) -> None:
    prior = tuple(collect_examples([latent(5)], [caption(6)]))
    data = collect([latent(0)], [caption(0)], DataSettings(prior=prior, prior_weight=0.5))
    own, other = draws(data).next()
    assert own.examples[0] is data.examples[0]
    assert other.examples[0] is prior[0]
    plain = train(model, steps=1)
    silent = train(model, steps=1, data=DataSettings(prior=prior, prior_weight=0.0))
    heavy = train(model, steps=1, data=DataSettings(prior=prior, prior_weight=2.0))
    light = train(model, steps=1, data=DataSettings(prior=prior, prior_weight=1.0))
    assert silent.losses == plain.losses
    assert heavy.losses[0] - plain.losses[0] == pytest.approx(2 * (light.losses[0] - plain.losses[0]), rel=1e-4)
    assert light.losses[0] > plain.losses[0]


@pytest.mark.parametrize(
    ("settings", "empty", "message"),
    [
        (DataSettings(captions_per_image=2), [], r"expected 2 captions, or 2 per image \(4\), found 1"),
        (DataSettings(repeats=(1, 2, 3)), [], r"repeats: expected one number, or one per image \(2\), found 3"),
        (DataSettings(caption_dropout=0.1), [], "connect a CLIP Text Encode with an empty text"),
    ],
)
def test_data_that_does_not_match(settings: DataSettings, empty: list[Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        collect([latent(0), latent(1)], [caption(0)], settings, empty)
