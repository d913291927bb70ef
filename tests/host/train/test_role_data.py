"""A role with all that a training can have: videos, sizes, masks, class images, captions, quantized bases, memory."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.train import loop
from comfyui_qr_lora.nodes.host.train import train as training
from comfyui_qr_lora.nodes.host.train.batches import BatchSampler
from comfyui_qr_lora.nodes.host.train.dataset import DataSettings, Example, TrainingSet, collect, collect_examples
from comfyui_qr_lora.nodes.host.train.role.settings import CONTENT, STYLE
from comfyui_qr_lora.nodes.host.train.role.vary import varied
from comfyui_qr_lora.nodes.role import Role
from comfyui_qr_lora.nodes.train import Train
from comfyui_qr_lora.qrlora_core import ObjectiveSettings
from devtools import tiny_models

from ...support.encoders import BLOCK, BlockMeans, pictures
from ...support.roles import ROLES, encoded, recipe, seen_with, square
from ...support.training_task import SETTINGS, assert_same, assert_unchanged, caption, latent, snapshot, train


def drawn(model: Any, data: TrainingSet, batches: int, batch_size: int = 1) -> Iterator[list[Any]]:
    """The batches that a training would see: of the pictures, and of class images."""
    sampler = BatchSampler(data, batch_size, 0, ObjectiveSettings(), model.model.model_sampling)
    return (sampler.next() for _ in range(batches))


def picture_of(data: TrainingSet) -> dict[int, int]:
    """Which picture a variant is of, by its identity."""
    return {id(variant): n for n, one in enumerate(data.examples) for variant in one.variants or (one,)}


@contextmanager
def seen_latents() -> Iterator[list[Tensor]]:
    """Within the context, every latent that a loss is computed of is noted."""
    seen: list[Tensor] = []
    original = loop.objective_loss

    def noted(model: Any, clean: Tensor, *rest: Any) -> Tensor:
        seen.append(clean.detach().clone())
        return original(model, clean, *rest)

    with mock.patch.object(loop, "objective_loss", noted):
        yield seen


# Videos


def bright_where(masks: Tensor) -> Tensor:
    """Grey pictures (frames, height, width, 3), brighter where a mask (frames, height, width) is 1."""
    return (0.2 + 0.6 * masks)[..., None].expand(*masks.shape, 3)


def brightness(vae: BlockMeans, latent: Tensor) -> Tensor:
    """Of each cell, back from its channels: 0 for a mean of 0.5."""
    mix = vae.encode(torch.eye(3)[:, None, None].expand(3, BLOCK, BLOCK, 3) + 0.5)
    mix = mix[0, :, :, 0, 0] if mix.ndim == 5 else mix[..., 0, 0].T
    return torch.einsum("kc,bc...->bk...", torch.linalg.pinv(mix), latent).mean(1)


def test_a_mask_of_each_frame_is_moved_with_its_frame() -> None:
    vae = BlockMeans(video=True)
    masks = torch.zeros(3, 64, 64)
    for frame in range(3):
        masks[frame, 16 * frame : 16 * frame + 24, 8:48] = 1
    frames = bright_where(masks)
    data = collect([encoded(frames, vae, noise_mask=masks)], [caption(0)], pixels=[frames])
    (one,) = varied(data, recipe(STYLE, "strong", variants=12), vae, 0).examples
    places = set()
    for variant in one.variants[1:]:
        assert variant.mask is not None
        learned = variant.mask_at(variant.latent.shape[2:])
        assert learned.shape == (1, 1, 3, 8, 8)
        assert (brightness(vae, variant.latent)[learned[:, 0] > 0.99] > 0.2).all()
        places.add(tuple(map(int, learned.sum((0, 1, 3, 4)))))
    assert len(places) > 6


@pytest.mark.parametrize("ground", ["kept", "replaced", "varied"])
def test_a_mask_of_each_frame_says_where_its_ground_is(ground: str) -> None:
    vae = BlockMeans(video=True)
    masks = torch.zeros(2, 64, 64)
    masks[0, :, :32], masks[1, :, 32:] = 1, 1
    frames = pictures(2)
    data = collect([encoded(frames, vae, noise_mask=masks)], [caption(0)], pixels=[frames])
    own, variant = varied(data, recipe(CONTENT, ground=ground, variants=2), vae, 0).examples[0].variants
    assert variant.mask is own.mask
    change = (variant.latent - own.latent).abs().amax(1)[0]
    thing, rest = masks.bool()[:, ::BLOCK, ::BLOCK], ~masks.bool()[:, ::BLOCK, ::BLOCK]
    assert (change[thing] > 1e-3).all()
    assert (change[rest] < 1e-5).all() == (ground == "kept")


def test_pictures_and_videos_of_one_training_get_their_own_pixels() -> None:
    patcher, video, still = tiny_models.build("wan"), BlockMeans(video=True), BlockMeans()
    _, text = tiny_models.example("wan", patcher)
    frames, stills = pictures(3, 32, 32), pictures(2, 32, 32, seed=5)

    class Both(BlockMeans):
        def encode(self, pixel_samples: Tensor) -> Tensor:
            return (video if len(pixel_samples) > 1 else still).encode(pixel_samples)

    latents = [encoded(stills, still), encoded(frames, video)]
    for role in ROLES:
        for pixels in ([stills, frames], [stills[:1], stills[1:], frames]):
            result = train(
                patcher, latents, [text], pixels=pixels, run=seen_with(Both()), role=recipe(role), steps=3, batch_size=2
            )
            assert any("5 variants of each picture" in note for note in result.notes)


# Sizes and masks


@pytest.mark.parametrize("role", ROLES)
def test_a_batch_of_mixed_sizes_has_one_size_and_masks_of_it(model: Any, role: str) -> None:
    vae, small, wide = BlockMeans(), pictures(2), pictures(2, 64, 96)
    latents = [encoded(small, vae), encoded(wide[:1], vae, noise_mask=torch.ones(1, 64, 96)), encoded(wide[1:], vae)]
    data = varied(collect(latents, [caption(0)], pixels=[small, wide]), recipe(role, "strong"), vae, 0)
    masked = 0
    for batch, *_ in drawn(model, data, 40, batch_size=2):
        (shape,) = {one.latent.shape for one in batch.examples}
        whole = torch.cat([one.latent for one in batch.examples])
        mask = batch.mask(whole)
        masked += mask is not None
        assert mask is None or mask.shape == (2, 1, *shape[2:])
    assert masked > 5
    before = snapshot(model)
    assert train(
        model, latents, pixels=[small, wide], run=seen_with(vae), role=recipe(role, "strong"), batch_size=2
    ).losses
    assert_unchanged(model, before)


def test_a_ground_is_varied_kept_or_replaced_and_the_thing_varied_in_each() -> None:
    vae, pixels = BlockMeans(), pictures(1)
    data = collect([encoded(pixels, vae, noise_mask=square())], [caption(0)], pixels=[pixels])
    found = {
        ground: varied(data, recipe(CONTENT, ground=ground, variants=2), vae, 3).examples[0].variants[1].latent
        for ground in ("varied", "kept", "replaced")
    }
    thing = square().bool()[:, None, ::BLOCK, ::BLOCK].expand_as(found["kept"])
    own = data.examples[0].latent
    for ground, latent_of in found.items():
        assert torch.allclose(latent_of[thing], found["varied"][thing], atol=1e-6)
        assert not torch.allclose(latent_of[thing], own[thing], atol=1e-2)
        assert torch.allclose(latent_of[~thing], own[~thing], atol=1e-6) == (ground == "kept")
    assert not torch.allclose(found["replaced"][~thing], found["varied"][~thing], atol=1e-2)


def test_black_is_learned_is_the_inverted_mask_with_a_role_too(model: Any) -> None:
    vae, pixels = BlockMeans(), pictures(1)
    given: dict[str, Any] = {"pixels": [pixels], "run": seen_with(vae), "role": recipe(STYLE, "strong"), "steps": 4}
    white = train(model, [encoded(pixels, vae, noise_mask=square())], **given)
    data = DataSettings(mask_meaning="black is learned")
    black = train(model, [encoded(pixels, vae, noise_mask=1 - square())], data=data, **given)
    assert_same(white.adapter, black.adapter)


# Class images, captions, repeats


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("with_pixels", [True, False])
def test_class_images_are_never_varied(model: Any, role: str, with_pixels: bool) -> None:
    vae, pixels = BlockMeans(), pictures(1)
    prior = tuple(collect_examples([latent(7), latent(8)], [caption(8)]))
    given: dict[str, Any] = {"pixels": [pixels] if with_pixels else [], "run": seen_with(vae)}
    with seen_latents() as seen:
        train(model, [encoded(pixels, vae)], data=DataSettings(prior=prior), role=recipe(role, shift=1.0), steps=20,
              **given)  # fmt: skip
    scaled = [model.model.process_latent_in(one.latent) for one in prior]
    of_class = seen[-40:][1::2]  # what was tried before stands first
    assert {next(n for n, one in enumerate(scaled) if torch.equal(one, found)) for found in of_class} == {0, 1}
    own = {found.numpy().tobytes() for found in seen[-40:][::2]}
    assert len(own) == (1 if role == CONTENT and not with_pixels else 5)


@pytest.mark.parametrize("role", ROLES)
def test_captions_dropout_and_repeats_go_with_the_picture_whatever_variant_is_seen(model: Any, role: str) -> None:
    vae, pixels = BlockMeans(), pictures(3)
    texts, empty = [caption(n) for n in range(6)], caption(9)
    settings = DataSettings(captions_per_image=2, repeats=(1, 2, 3), caption_dropout=0.25)
    collected = collect([encoded(pixels, vae)], texts, settings, [empty], [pixels])
    data = varied(collected, recipe(role), vae, 0)
    of, pairs = picture_of(data), Counter[tuple[int, int]]()
    captions = {id(entry): n for n, one in enumerate(collected.examples) for entry in one.captions}
    for batch, *_ in drawn(model, data, 600):
        (one,), (text,) = batch.examples, batch.captions
        pairs[of[id(one)], captions.get(id(text), -1)] += 1
    dropped = sum(count for (_, caption_of), count in pairs.items() if caption_of == -1)
    assert 0.2 < dropped / 600 < 0.3
    assert all(caption_of in (picture, -1) for picture, caption_of in pairs)
    seen = [sum(count for (picture, _), count in pairs.items() if picture == n) for n in range(3)]
    assert seen == [100, 200, 300]  # whole epochs of six


# Quantized bases


@pytest.mark.parametrize(
    "form", [form for form in tiny_models.quantized_forms() if form in ("scaled", "mixed", "int8")]
)
@pytest.mark.parametrize("role", ROLES)
def test_a_quantized_base_trains_for_a_role_and_stays_as_it_is(form: str, role: str) -> None:
    patcher = tiny_models.quantized("sd3", form)
    vae, pixels, before = BlockMeans(), pictures(2), snapshot(patcher)
    given: dict[str, Any] = {"pixels": [pixels], "run": seen_with(vae), "role": recipe(role), "steps": 3}
    first, second = (train(patcher, [encoded(pixels, vae)], **given) for _ in range(2))
    assert_unchanged(patcher, before)
    assert_same(first.adapter, second.adapter)
    assert any(bool(term.delta_r.any()) for _, term in first.adapter.terms())


# Memory


def storages(examples: tuple[Example, ...]) -> dict[int, int]:
    """Bytes of everything that the variants hold, by where it lies."""
    held = [tensor for one in examples for own in one.variants for tensor in (own.latent, own.mask, own.pixels)]
    return {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held if tensor is not None
    }


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("role", ROLES)
def test_variants_take_so_many_latents_and_no_picture_is_left(model: Any, role: str, masked: bool) -> None:
    """Beside the latents, of 16 channels, one of a mask; of pixels there is what the host holds itself."""
    vae, pixels = BlockMeans(), pictures(2)
    latents = [encoded(pixels, vae, **({"noise_mask": square()} if masked else {}))]
    numbers: dict[str, Any] = {"strength": "strong", "variants": 7}
    held: list[dict[int, int]] = []
    left: list[set[int]] = []
    run_loop = training.run_loop

    def counted(patcher: Any, running: Any) -> None:
        gc.collect()
        held.append(storages(running.data.examples))
        left.append({
            tensor.untyped_storage().data_ptr()
            for tensor in gc.get_objects()
            if isinstance(tensor, Tensor) and tensor.shape[-3:] == (64, 64, 3)
        })  # fmt: skip
        run_loop(patcher, running)

    options = {name: [value] for name, value in vars(replace(SETTINGS, steps=1)).items() if name != "role"}
    with mock.patch.object(training, "run_loop", counted):
        Train.execute(
            model=[model], latents=latents, positive=[caption(0)], pixels=[pixels], vae=[vae], role=[role],
            role_settings=[Role.execute(**numbers).args[0]], **options,
        )  # fmt: skip
    as_many = 2 * 7 * latents[0]["samples"][:1].nbytes
    own_masks = 2 * square().nbytes if masked else 0
    assert as_many <= sum(held[0].values()) <= as_many * (1 + 1 / 16) + own_masks
    assert left == [{pixels.untyped_storage().data_ptr()}]
