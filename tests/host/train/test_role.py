"""A training for a role: variants made once, seen by chance, resumed exactly; and none is a training as ever."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.model_management
import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.files import folders
from comfyui_qr_lora.nodes.host.files.checkpoints import latest_checkpoint
from comfyui_qr_lora.nodes.host.train import train as training
from comfyui_qr_lora.nodes.host.train.batches import BatchSampler
from comfyui_qr_lora.nodes.host.train.dataset import DataSettings, Example, TrainingSet, collect
from comfyui_qr_lora.nodes.host.train.role.latents import moved
from comfyui_qr_lora.nodes.host.train.role.notes import role_notes
from comfyui_qr_lora.nodes.host.train.role.settings import CONTENT, LIMITS, STYLE, Recipe, RoleSettings
from comfyui_qr_lora.nodes.host.train.role.vary import varied
from comfyui_qr_lora.nodes.host.train.settings import RESUME_LATEST, RunSettings
from comfyui_qr_lora.nodes.role import Role
from comfyui_qr_lora.nodes.train import Train
from comfyui_qr_lora.qrlora_core import ObjectiveSettings, TrainingState, load_training, save_training
from comfyui_qr_lora.qrlora_core.train import distributed
from devtools import tiny_models

from ...support.encoders import BLOCK, BlockMeans, Embedded, pictures
from ...support.roles import ROLES, encoded, example, recipe, seen_with, square
from ...support.training_task import SETTINGS, assert_same, caption, latent, train

# What the batches of a training without a role hold, by the code before there were roles.
BATCHES_BEFORE = "150c15f349573fe6c1bbc9e554dd7c55"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of checkpoints, in an output folder of this test's own."""
    monkeypatch.setattr(folders.folder_paths, "get_output_directory", lambda: str(tmp_path))
    return tmp_path


# Without a role


def digest(batches: list[Any]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for batch in batches:
        for tensor in (
            batch.sigma,
            batch.noise,
            *(one.latent for one in batch.examples),
            *(c[0] for c in batch.captions),
        ):
            found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def test_without_a_role_a_training_draws_what_it_drew_before_there_were_roles() -> None:
    data = collect(
        [latent(0), latent(1), latent(2, size=12)], [caption(n) for n in range(6)],
        DataSettings(captions_per_image=2, repeats=(1, 2, 1), caption_dropout=0.2), [caption(9)],
    )  # fmt: skip
    sampling = tiny_models.build("sd3").model.model_sampling
    sampler = BatchSampler(data, 2, 5, ObjectiveSettings(), sampling)
    assert digest([batch for _ in range(12) for batch in sampler.next()]) == BATCHES_BEFORE


def test_role_none_is_no_role_bit_for_bit_whatever_is_connected(model: Any) -> None:
    options = {name: [value] for name, value in vars(replace(SETTINGS, steps=3)).items() if name != "role"}
    given = {"model": [model], "latents": [latent(0), latent(1)], "positive": [caption(0)], **options}
    plain = Train.execute(**given)
    none = Train.execute(**given, role=["none"])
    unused = Train.execute(**given, role=["none"], role_settings=[RoleSettings("strong")], pixels=[pictures(7)])
    for other in (none, unused):
        assert_same(plain.args[0], other.args[0])
        assert plain.args[1] == other.args[1]
    told = [output.ui["qr_lora_training"][0]["text"] for output in (plain, none, unused)]
    assert "role" not in told[0] + told[1]
    assert "role is none: role_settings and pixels connected, and not used" in told[2]


def test_a_checkpoint_of_before_there_were_roles_goes_on(model: Any) -> None:
    run = RunSettings(run_name="old", keep_checkpoints=2)
    train(model, steps=2, run=run)
    path = latest_checkpoint("old")
    assert path is not None
    state = load_training(path)
    settings = {name: value for name, value in state.record["settings"].items() if name not in ("role", "noise_bias")}
    assert len(settings) == len(state.record["settings"]) - 2
    save_training(TrainingState(state.adapter, state.tensors, {**state.record, "settings": settings}), path)
    resumed = train(model, steps=4, run=replace(run, resume_from=RESUME_LATEST))
    assert_same(resumed.adapter, train(model, steps=4).adapter)


# What is varied


@pytest.mark.parametrize("role", ROLES)
def test_variants_are_encoded_once_and_the_picture_itself_is_one_of_them(model: Any, role: str) -> None:
    vae, pixels = BlockMeans(), pictures(2)
    latents = [encoded(pixels, vae)]
    vae.calls = 0
    result = train(model, latents, pixels=[pixels], run=seen_with(vae), role=recipe(role), steps=12)
    assert vae.calls == 2 * 5  # four more than the picture, which is compared with its latent
    assert any(f"role {role}: 5 variants of each picture, encoded once" in note for note in result.notes)
    data = collect(latents, [caption(0)], pixels=[pixels])
    for one, before in zip(varied(data, recipe(role), vae, 0).examples, data.examples, strict=True):
        assert len(one.variants) == 5
        assert torch.equal(one.variants[0].latent, before.latent)
        assert len({variant.latent.sum().item() for variant in one.variants}) == 5
        assert all(variant.pixels is None and variant.captions is one.captions for variant in one.variants)


def test_the_same_seed_draws_the_same_variants_also_with_a_picture_added_at_the_end() -> None:
    vae, pixels = BlockMeans(), pictures(3)

    def made(count: int, seed: int) -> list[Tensor]:
        data = TrainingSet(tuple(example(picture, vae) for picture in pixels[:count].split(1)))
        return [variant.latent for one in varied(data, recipe(STYLE), vae, seed).examples for variant in one.variants]

    assert all(map(torch.equal, made(2, 4), made(3, 4)[:10]))
    assert not torch.equal(made(2, 4)[1], made(2, 5)[1])


def test_a_step_sees_each_variant_about_equally_often(model: Any) -> None:
    vae, pixels = BlockMeans(), pictures(1)
    data = varied(collect([encoded(pixels, vae)], [caption(0)], pixels=[pixels]), recipe(STYLE), vae, 0)
    sampler = BatchSampler(data, 1, 0, ObjectiveSettings(), model.model.model_sampling)
    places = {id(variant): n for n, variant in enumerate(data.examples[0].variants)}
    counts = torch.bincount(torch.tensor([places[id(sampler.next()[0].examples[0])] for _ in range(500)]))
    assert len(counts) == 5
    assert counts.min() > 70


def test_several_processes_see_together_what_one_sees(model: Any) -> None:
    vae, pixels = BlockMeans(), pictures(2)
    data = varied(collect([encoded(pixels, vae)], [caption(0)], pixels=[pixels]), recipe(STYLE), vae, 0)

    def seen(rank: int, processes: int) -> list[Example]:
        with mock.patch.multiple(distributed, rank=lambda: rank, world_size=lambda: processes):
            sampler = BatchSampler(data, 2 // processes, 0, ObjectiveSettings(), model.model.model_sampling)
            return [one for _ in range(10) for one in sampler.next()[0].examples]

    alone, (first, second) = seen(0, 1), (seen(rank, 2) for rank in (0, 1))
    assert [id(one) for pair in zip(first, second, strict=True) for one in pair] == [id(one) for one in alone]


def test_nothing_is_encoded_while_it_trains(model: Any) -> None:
    vae, pixels = BlockMeans(), pictures(1)
    before_the_loop: list[int] = []
    run_loop = training.run_loop

    def counted(*given: Any) -> None:
        before_the_loop.append(vae.calls)
        run_loop(*given)

    with mock.patch.object(training, "run_loop", counted):
        train(model, [encoded(pixels, vae)], pixels=[pixels], run=seen_with(vae), role=recipe(CONTENT))
    assert before_the_loop == [vae.calls]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_what_is_done_on_latents_is_what_the_pixels_would_have_given(seed: int, flip: float) -> None:
    """Where it is learned: flipped and shifted by blocks; the embedded encoder is exact for shifts alone."""
    pixels = pictures(1, 64, 96)
    for vae in [BlockMeans(), *([] if flip else [Embedded()])]:
        own = example(pixels, vae)
        found = moved(own, Recipe(STYLE, shift=0.8, flip=flip, flips_latents=True), torch.Generator().manual_seed(seed))
        assert found.mask is not None
        turned = pixels.flip(2) if flip else pixels
        candidates = [
            (dy, dx)
            for dy in range(-4, 5)
            for dx in range(-5, 6)
            if torch.allclose(found.latent, vae.encode(turned).roll((dy, dx), (-2, -1)), atol=1e-6)
        ]
        assert len(candidates) == 1
        ((dy, dx),) = candidates
        shifted = vae.encode(turned.roll((BLOCK * dy, BLOCK * dx), (1, 2)))
        learned = found.mask.bool().expand_as(shifted)
        assert torch.allclose(found.latent[learned], shifted[learned], atol=1e-6)
        inside = torch.zeros(8, 12)
        inside[max(dy, 0) : 8 + min(dy, 0), max(dx, 0) : 12 + min(dx, 0)] = 1
        assert torch.equal(found.mask[0, 0], inside)


def test_latents_are_flipped_only_where_that_was_asked_for_by_number() -> None:
    """The playground's encoder, which has waves in its channels, gives another latent of a flipped picture."""
    pixels, data = pictures(1), collect([latent(0)], [caption(0)])
    error = (Embedded().encode(pixels.flip(2)) - Embedded().encode(pixels).flip(-1)).norm()
    assert error > 0.2 * Embedded().encode(pixels).norm()
    assert not recipe(STYLE).flips_latents
    by_number = recipe(STYLE, flip=0.5)
    assert by_number.flips_latents
    assert "5 variants of each latent: other shift and flip; zoom" in role_notes(data, by_number)[0]


def test_a_mask_is_moved_with_its_picture_and_never_out_of_it() -> None:
    vae, mask = BlockMeans(), torch.zeros(1, 1, 64, 64)
    mask[..., :10, :10] = 1  # in a corner, from where most moves take it away
    pixels = 0.2 + 0.6 * mask.movedim(1, -1).expand(1, 64, 64, 3)
    data = TrainingSet((example(pixels, vae, mask),))
    for variant in varied(data, recipe(STYLE, "strong", variants=30), vae, 0).examples[0].variants:
        assert variant.mask is not None
        learned = variant.mask_at(variant.latent.shape[2:])
        assert float(learned.sum()) >= 0.05 * float(data.examples[0].mask_at(variant.latent.shape[2:]).sum())
        brightness = (torch.linalg.pinv(vae.encode(torch.eye(3)[:, None, None].expand(3, 8, 8, 3) + 0.5)[:, :, 0, 0].T)
                      @ variant.latent.flatten(2)[0]).mean(0)  # fmt: skip
        whole = learned.flatten() > 0.99
        assert (brightness[whole] > 0.2).all()


@pytest.mark.parametrize("variant", ["triu", "full", "qr", "lora"])
@pytest.mark.parametrize("role", ROLES)
def test_every_variant_trains_for_a_role(model: Any, variant: str, role: str) -> None:
    pixels, vae = pictures(2), BlockMeans()
    result = train(
        model, [encoded(pixels, vae)], pixels=[pixels], run=seen_with(vae), role=recipe(role), variant=variant, steps=2
    )
    assert any(bool(term.delta_r.any()) for _, term in result.adapter.terms())


def test_a_video_is_varied_in_all_frames_alike() -> None:
    patcher, vae = tiny_models.build("wan"), BlockMeans(video=True)
    _, text = tiny_models.example("wan", patcher)
    frames = pictures(1, 32, 32).repeat(3, 1, 1, 1)
    latents = [encoded(frames, vae, noise_mask=square(32))]
    for role in ROLES:
        data = varied(collect(latents, [text], pixels=[frames]), recipe(role), vae, 0)
        for variant in data.examples[0].variants:
            assert torch.allclose(variant.latent, variant.latent[:, :, :1].expand_as(variant.latent), atol=1e-5)
        result = train(patcher, latents, [text], pixels=[frames], run=seen_with(vae), role=recipe(role), steps=2)
        assert any("5 variants of each picture" in note for note in result.notes)
    on_latents = train(patcher, latents, [text], role=recipe(STYLE), steps=2)
    assert any("5 variants of each latent: other shift; zoom" in note for note in on_latents.notes)


def test_a_picture_for_a_model_of_videos_is_varied_as_a_video_of_one_frame() -> None:
    patcher, vae = tiny_models.build("wan"), BlockMeans()
    _, text = tiny_models.example("wan", patcher)
    pixels = pictures(2, 32, 32)
    result = train(patcher, [encoded(pixels, vae)], [text], pixels=[pixels], run=seen_with(vae), role=recipe(CONTENT))
    assert any("5 variants of each picture" in note for note in result.notes)


# What the report says


def test_what_cannot_be_done_on_latents_is_said() -> None:
    data = collect([latent(0)], [caption(0)])
    assert role_notes(data, None) == []
    assert role_notes(data, recipe(STYLE)) == [
        "role style: 5 variants of each latent: other shift; zoom, tilt, flip, patch and tiles cannot be varied on "
        "latents alone, connect pixels and vae for it",
        "noise levels of the objective bent to low noise: u^2",
    ]
    assert role_notes(data, recipe(CONTENT)) == [
        "role content: no variants; colour, light and texture cannot be varied on latents alone, connect pixels and "
        "vae for it",
        "noise levels of the objective bent to high noise: 1 - (1 - u)^2",
    ]
    assert role_notes(data, Recipe(CONTENT)) == [
        "role content: the pictures are seen as they are", "noise levels are those of the objective",
    ]  # fmt: skip


def test_a_sound_or_a_pack_of_parts_is_seen_as_it_is() -> None:
    pack = Example(torch.randn(1, 1, 40), (), parts=(torch.Size([1, 2, 10]), torch.Size([1, 2, 10])))
    for one in (pack, Example(torch.randn(1, 8, 16), ())):
        assert varied(TrainingSet((one,)), recipe(STYLE), None, 0).examples[0].variants == ()
        assert "no variants" in role_notes(TrainingSet((one,)), recipe(STYLE))[0]


def test_an_interrupt_while_variants_are_made_ends_the_training(model: Any) -> None:
    pixels, vae = pictures(1), BlockMeans()
    interrupted = comfy.model_management.InterruptProcessingException
    asked = mock.patch.object(
        comfy.model_management, "throw_exception_if_processing_interrupted", side_effect=interrupted
    )
    with asked, pytest.raises(interrupted):
        train(model, [encoded(pixels, vae)], pixels=[pixels], run=seen_with(vae), role=recipe(STYLE))
    assert vae.calls == 3  # the latent, the picture to compare with it, and one variant


# The nodes


def test_the_node_of_the_role_hands_its_numbers_to_the_training(model: Any) -> None:
    numbers: dict[str, Any] = dict.fromkeys(LIMITS, -1)
    settings = Role.execute(
        caption="", language="auto", drop_appearance=False, strength="strong", variants=4, ground="varied",
        **numbers | {"colour": 0.3},
    ).args[0]  # fmt: skip
    pixels, vae = pictures(2), BlockMeans()
    options = {name: [value] for name, value in vars(replace(SETTINGS, steps=2)).items() if name != "role"}
    output = Train.execute(
        model=[model], latents=[encoded(pixels[:1], vae), encoded(pixels[1:], vae)], positive=[caption(0)], **options,
        role=["content"], role_settings=[settings], pixels=[pixels[:1], pixels[1:]], vae=[vae],
    )  # fmt: skip
    told = output.args[0].metadata["qr_lora.training"]
    assert '"role": "content"' in told
    assert '"colour": 0.3' in told
    assert '"levels": 2.0' in told
    assert "role content: 4 variants of each picture" in output.ui["qr_lora_training"][0]["text"]


def test_without_settings_a_role_is_mild(model: Any) -> None:
    options = {name: [value] for name, value in vars(replace(SETTINGS, steps=1)).items() if name != "role"}
    output = Train.execute(model=[model], latents=[latent(0)], positive=[caption(0)], **options, role=["style"])
    told = json.loads(output.args[0].metadata["qr_lora.training"])
    mild = asdict(RoleSettings("mild").recipe(STYLE))
    assert {name: told[name] for name in mild} == mild
