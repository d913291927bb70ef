"""Latents of several parts, a video and its sound: packed as the host's samplers do, and learned alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.train.batches import BatchSampler
from comfyui_qr_lora.nodes.host.train.dataset import TrainingSet, collect, collect_examples
from comfyui_qr_lora.nodes.host.train.objective import objective_loss
from comfyui_qr_lora.nodes.host.train.samples import SampleSettings
from comfyui_qr_lora.nodes.host.train.settings import RunSettings
from comfyui_qr_lora.qrlora_core import ObjectiveSettings, TrainingError
from devtools import tiny_models
from devtools.tiny_models.registry import ARCHITECTURES

from ...support.models import models
from ...support.training_task import train
from .test_objective import Network, make_sampling

VIDEO, SOUND = (4, 2, 3, 3), (2, 5, 2)
NUMBERS = 4 * 2 * 3 * 3 + 2 * 5 * 2


def nested(*parts: Tensor) -> Any:
    from comfy.nested_tensor import NestedTensor

    return NestedTensor(parts)


def latent(seed: int, batch: int = 1, sound: tuple[int, ...] = SOUND, **masks: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"samples": nested(*(torch.randn(batch, *shape, generator=generator) for shape in (VIDEO, sound))), **masks}


def caption() -> list[Any]:
    return [[torch.zeros(1, 3, 4), {}]]


def test_a_batch_of_latents_is_taken_apart_and_packed_in_the_order_of_the_host() -> None:
    given = latent(0, batch=2)
    examples = collect_examples([given], [caption()])
    video, sound = given["samples"].unbind()
    assert len(examples) == 2
    for index, example in enumerate(examples):
        assert example.parts == (torch.Size((1, *VIDEO)), torch.Size((1, *SOUND)))
        assert example.latent.shape == (1, 1, NUMBERS)
        assert torch.equal(example.latent.flatten(), torch.cat([video[index].flatten(), sound[index].flatten()]))
        assert example.mask is None


def test_sounds_of_two_lengths_stand_in_no_batch_together() -> None:
    # As long packed, and still other latents.
    other = {"samples": nested(torch.randn(1, *VIDEO), torch.randn(1, 5, 2, 2))}
    data = collect([latent(0), other, latent(1), other], [caption()])
    sampler = BatchSampler(data, 2, 0, ObjectiveSettings(), make_sampling("flow"))
    for _ in range(8):
        (batch,) = sampler.next()
        assert len({example.parts for example in batch.examples}) == 1
        assert batch.noise.shape == (2, 1, NUMBERS)


def test_a_mask_is_of_the_video_alone_or_of_both() -> None:
    area = torch.zeros(1, 1, 1, 3, 3)
    area[..., 0] = 1
    (alone,) = collect_examples([latent(0, noise_mask=area)], [caption()])
    (both,) = collect_examples([latent(0, noise_mask=nested(area, torch.zeros(1, 1, 5, 2)))], [caption()])
    video = NUMBERS - 2 * 5 * 2
    assert float(alone.mask[..., :video].mean()) == pytest.approx(1 / 3)
    assert float(alone.mask[..., video:].mean()) == 1
    assert torch.equal(both.mask[..., :video], alone.mask[..., :video])
    assert not both.mask[..., video:].any()
    (batch,) = BatchSampler(TrainingSet((both,)), 2, 0, ObjectiveSettings(), make_sampling("flow")).next()
    mask = batch.mask(batch.noise)
    assert mask is not None
    assert torch.equal(mask, both.mask.expand(2, 1, NUMBERS))


@pytest.mark.parametrize("sides", [(3, 6), (7, 3)])
def test_a_mask_of_another_aspect_ratio_than_the_video_is_refused(sides: tuple[int, int]) -> None:
    area = torch.ones(1, 1, 1, *sides)
    for mask in (area, nested(area, torch.zeros(1, 1, 5, 2))):
        with pytest.raises(TrainingError, match=rf"latents: its mask is {sides[1]} x {sides[0]}, of another aspect"):
            collect_examples([latent(0, noise_mask=mask)], [caption()])


@pytest.mark.parametrize("silent", [False, True])
def test_both_parts_count_alike_however_large_they_are(silent: bool) -> None:
    (example,) = collect_examples([latent(0)], [caption()])
    error = torch.cat([torch.full((1, 1, NUMBERS - 20), 2.0), torch.full((1, 1, 20), 4.0)], dim=-1)
    network: Any = Network("flow", example.latent, error)
    mask = None
    if silent:
        mask = torch.ones(1, 1, NUMBERS)
        mask[..., NUMBERS - 20 :] = 0
    noise, sigma = torch.randn_like(example.latent), torch.tensor([0.5])
    loss = objective_loss(network, example.latent, [{}], sigma, noise, {}, mask=mask, parts=example.parts)
    assert float(loss) == pytest.approx(4.0 if silent else (4 + 16) / 2)


def test_what_is_trained_on_is_told_apart() -> None:
    first, same, longer = latent(0), latent(0), latent(0, sound=(2, 10, 1))
    prints = [collect([given], [caption()]).fingerprint() for given in (first, same, longer)]
    assert prints[0] == prints[1] != prints[2]


WITH_SOUND = [name for name, architecture in ARCHITECTURES.items() if architecture.sound]


@pytest.mark.parametrize("name", models(WITH_SOUND))
def test_the_layers_of_the_sound_learn_and_samples_show_the_video(name: str) -> None:
    patcher = tiny_models.build(name)
    examples = [tiny_models.example(name, patcher, seed=seed) for seed in (1, 2)]
    latents, captions = [given for given, _ in examples], [text for _, text in examples]
    run = RunSettings(samples=SampleSettings(every=2, steps=2))
    result = train(patcher, latents, captions, run=run, steps=2, batch_size=2, gradient_checkpointing=True)
    assert all(term.delta_r.any() for _, term in result.adapter.terms())
    ((_, picture),) = result.pictures["own"]
    assert picture.shape[-1] == 3
    assert picture.shape[:2] != (1, 1)


@pytest.mark.parametrize("name", models(["ltxav"]))
def test_a_video_without_sound_trains_the_video(name: str) -> None:
    patcher = tiny_models.build(name)
    given, text = tiny_models.example(name, patcher)
    result = train(patcher, [{"samples": given["samples"].unbind()[0]}], [text], steps=2)
    idle = {path for path, term in result.adapter.terms() if not term.delta_r.any()}
    assert idle
    assert all("audio" in path for path in idle)
