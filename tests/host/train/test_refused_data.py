"""What a model cannot learn from is refused before anything is decomposed or written, and named."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import folder_paths
import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.train.dataset import MASK_MEANINGS, DataSettings, collect, collect_examples
from comfyui_qr_lora.nodes.host.train.samples import SampleSettings
from comfyui_qr_lora.nodes.host.train.settings import RunSettings
from comfyui_qr_lora.nodes.training_data import TrainingData
from comfyui_qr_lora.qrlora_core import OptimizerSettings, TrainingError
from devtools import tiny_models

from ...support.models import every_network, models
from ...support.training_task import assert_refused, assert_same, caption, latent, train

NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
WIDTHS = (32, 200, 768, 1024, 2048, 4096)  # of text encoders, none of which a small model has


@pytest.fixture(autouse=True)
def nothing_is_done(tmp_path: Path) -> Iterator[None]:
    """No file is left, and after a refusal none was decomposed."""
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield
    folder_paths.set_output_directory(before)


def spoiled(tensor: Tensor, chance: random.Random) -> Tensor:
    """A copy with one number that is none."""
    copy = tensor.clone()
    copy.view(-1)[chance.randrange(copy.numel())] = chance.choice(NOT_FINITE)
    return copy


@pytest.mark.parametrize("seed", range(12))
def test_one_number_that_is_none_is_found_wherever_it_is(model: Any, seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randint(1, 5)
    latents = [latent(n, size=chance.choice([4, 8])) for n in range(count)]
    captions, empty = [caption(n) for n in range(count)], caption(99)
    place, what = chance.randrange(count), chance.choice(["latent", "mask", "text", "pooled_output", "negative"])
    if what == "latent":
        latents[place]["samples"] = spoiled(latents[place]["samples"], chance)
        message = rf"^image {place + 1} of latents: 1 of \d+ numbers of its latent .*--fp32-vae"
    elif what == "mask":
        latents[place]["noise_mask"] = spoiled(torch.ones(1, 32, 32), chance)
        message = rf"^image {place + 1} of latents: 1 of 1024 numbers of its mask"
    elif what == "negative":
        empty[0][0] = spoiled(empty[0][0], chance)
        message = r"^caption 1 of negative: 1 of \d+ numbers of its text embedding .*--fp32-text-enc"
    else:
        entry = captions[place][0]
        if what == "text":
            entry[0] = spoiled(entry[0], chance)
        else:
            entry[1][what] = spoiled(entry[1][what], chance)
        message = rf"^caption {place + 1} of positive: 1 of \d+ numbers of its (text embedding|pooled_output) .*encoder"
    assert_refused(model, message, latents, captions, empty=empty)


@pytest.mark.parametrize("name", models(["sd15", "flux", "wan", "hidream", "hunyuan_dit", "wan_i2v", "ltxav"]))
def test_every_tensor_of_a_caption_is_looked_at(name: str) -> None:
    picture, [[text, options]] = tiny_models.example(name, tiny_models.build(name))
    chance = random.Random(name)
    broken = [([spoiled(text, chance), options], "text embedding")]
    for key, value in options.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            broken.append(
                ([text, {**options, key: spoiled(value, chance) if "mask" not in key else value * torch.nan}], key)
            )
        elif isinstance(value, SimpleNamespace):
            inner = next(inner for inner, tensor in vars(value).items() if isinstance(tensor, Tensor))
            other = SimpleNamespace(**{**vars(value), inner: spoiled(getattr(value, inner), chance)})
            broken.append(([text, {**options, key: other}], rf"{key}\.{inner}"))
    for entry, what in broken:
        with pytest.raises(TrainingError, match=f"caption 1 of positive: .* of its {what}"):
            collect_examples([picture], [[entry]])


def test_a_text_mask_may_have_minus_infinity() -> None:
    entry = [torch.zeros(1, 3, 4), {"attention_mask": torch.tensor([[0.0, 0.0, float("-inf")]])}]
    assert collect_examples([latent(0)], [[entry]])


@pytest.mark.parametrize("what", ["image 2 of prior_latents", "caption 1 of prior_positive"])
def test_class_images_are_looked_at_where_they_are_connected(what: str) -> None:
    pictures, text = latent(0, batch=3), caption(0)
    if "image" in what:
        pictures["samples"][1, 0, 0, 0] = torch.nan
    else:
        text[0][0][0, 0, 0] = torch.nan
    with pytest.raises(TrainingError, match=f"^{what}: 1 of"):
        TrainingData.execute([1], ["1"], [0.0], [1.0], [pictures], [text])


def test_an_empty_latent_is_no_picture() -> None:
    with pytest.raises(TrainingError, match="image 2 of latents: its latent is all zeros"):
        collect_examples([latent(0), {"samples": torch.zeros(1, 16, 8, 8)}], [caption(0)])


@every_network
def test_a_caption_of_another_text_encoder_is_refused_in_words(name: str) -> None:
    """Texts of random widths and of random other models, the latent being right."""
    patcher = tiny_models.build(name)
    picture, [[text, options]] = tiny_models.example(name, patcher)
    if name == "hidream_o1":
        assert_refused(patcher, "cannot be trained on image 1 of latents with caption 1", [picture], [[[text, {}]]])
        return
    chance = random.Random(name)
    width = chance.choice([width for width in WIDTHS if width != text.shape[-1]])
    other = torch.randn(1, chance.randint(2, 80), width, generator=torch.Generator().manual_seed(0))
    message = assert_refused(
        patcher, r"(caption 1 of positive does not fit|with caption 1 of positive)", [picture], [[[other, options]]]
    )
    assert f", {width})" in message or f"{width} wide" in message  # what was found stands in it
    (stranger,) = chance.sample([one for one in ("sd15", "sdxl", "flux", "sd3", "pixart") if one != name], 1)
    pooled = torch.randn(1, 1096)
    foreign = [[torch.randn(1, 9, width), {"pooled_output": pooled, "of": stranger}]]
    assert_refused(patcher, r"caption 1 of positive", [picture], [foreign])


@pytest.mark.parametrize("name", models(["flux", "sdxl", "sd3", "hunyuan_video", "hidream", "kandinsky5", "cascade_c"]))
def test_a_pooled_text_that_is_missing_or_of_another_width_is_refused_by_name(name: str) -> None:
    patcher = tiny_models.build(name)
    picture, [[text, options]] = tiny_models.example(name, patcher)
    chance, own = random.Random(name), options["pooled_output"].shape[-1]
    without = {key: value for key, value in options.items() if key != "pooled_output"}
    assert_refused(patcher, "it has no pooled_output", [picture], [[[text, without]]])
    for _ in range(3):
        width = chance.choice([own + 1, own - 1, own * 2, own + chance.randint(2, 900)])
        wrong = {**options, "pooled_output": torch.randn(1, width)}
        message = assert_refused(patcher, f"its pooled_output is {width} wide", [picture], [[[text, wrong]]])
        assert re.search(rf"takes (one of )?{own}\b", message), message


NEEDED = [
    ("anima", "t5xxl_ids"), ("anima", "t5xxl_weights"), ("omnigen2", "attention_mask"), ("ltxv", "attention_mask"),
    ("mochi", "attention_mask"), ("hidream", "conditioning_llama3"), ("hunyuan_dit", "conditioning_mt5xl"),
    ("hunyuan_dit", "attention_mask_mt5xl"), ("hidream_o1", "text_input_ids"), ("seedvr2", "condition"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "option"), NEEDED)
def test_what_a_model_needs_beside_a_text_is_named(name: str, option: str) -> None:
    if reason := tiny_models.lacking(name):
        pytest.skip(reason)
    patcher = tiny_models.build(name)
    picture, [[text, options]] = tiny_models.example(name, patcher)
    without = {key: value for key, value in options.items() if key != option}
    assert_refused(patcher, option, [picture], [[[text, without]]])


def test_the_one_caption_among_many_is_named(model: Any) -> None:
    for seed in range(4):
        chance = random.Random(seed)
        count = chance.randint(2, 6)
        place = chance.randrange(count)
        captions = [caption(n, length=chance.randint(3, 20)) for n in range(count)]
        captions[place][0][0] = torch.randn(1, 12, chance.choice(WIDTHS))
        assert_refused(model, rf"^caption {place + 1} of positive does not fit SD3", [latent(0, batch=count)], captions)


@pytest.mark.parametrize("used", ["sampled", "dropped"])
def test_the_empty_caption_of_another_encoder_is_refused_where_it_is_used(model: Any, used: str) -> None:
    other = [[torch.randn(1, 7, 768), {"pooled_output": torch.randn(1, 768)}]]
    data = DataSettings(caption_dropout=0.5) if used == "dropped" else None
    run = RunSettings(samples=SampleSettings(every=1 if used == "sampled" else 0, steps=1))
    assert_refused(model, "^caption 1 of negative does not fit SD3", empty=[other], data=data, run=run)
    assert train(model, empty=[other], steps=1).losses  # nothing reads it


def test_class_images_of_another_encoder_are_refused(model: Any) -> None:
    other = [[torch.randn(1, 7, 768), {"pooled_output": torch.randn(1, 768)}]]
    prior = tuple(collect_examples([latent(5)], [other], prefix="prior_"))
    assert_refused(model, "^caption 1 of prior_positive does not fit SD3", data=DataSettings(prior=prior))


@every_network
def test_a_latent_with_other_axes_or_channels_is_refused_with_both_numbers(name: str) -> None:
    """All forms that a latent may have but the model's own and, for videos, a picture's."""
    patcher = tiny_models.build(name)
    picture, text = tiny_models.example(name, patcher)
    own = picture["samples"]
    if own.is_nested:
        own = own.unbind()[0]
    channels, axes = own.shape[1], own.ndim
    for ndim in {3, 4, 5, 6} - {axes, 4 if axes == 5 else axes}:
        other = torch.randn(1, channels, *[2] * (ndim - 4), *[8, 8][: ndim - 2])
        message = assert_refused(
            patcher, "image 2 of latents: expected a latent of", [picture, {"samples": other}], [text]
        )
        assert str(tuple(other.shape)) in message
    wrong = torch.cat([own, own[:, :1]], 1)
    assert_refused(patcher, rf"expected \d+ channels.*found {channels + 1}", [{"samples": wrong}], [text])


@pytest.mark.parametrize("name", models(["wan", "hunyuan_video", "ltxv", "mochi", "cogvideox", "cosmos", "kandinsky5"]))
def test_a_picture_trains_every_video_model_as_a_video_of_one_frame(name: str) -> None:
    patcher = tiny_models.build(name)
    given, text = tiny_models.example(name, patcher)
    frame = given["samples"][:, :, :1]
    one, other = (train(patcher, [{"samples": part}], [text], steps=2) for part in (frame[:, :, 0], frame))
    assert one.losses == other.losses
    assert_same(one.adapter, other.adapter)


def test_a_pack_for_a_model_without_sound_is_refused(model: Any) -> None:
    pytest.importorskip("comfy.nested_tensor")
    from comfy.nested_tensor import NestedTensor

    pack = {"samples": NestedTensor([torch.randn(1, 16, 8, 8), torch.randn(1, 8, 4, 2)])}
    assert_refused(model, "cannot be trained on image 1 of latents", [pack])


def test_the_vae_of_the_samples_is_looked_at_before(model: Any) -> None:
    run = RunSettings(samples=SampleSettings(every=1, vae=SimpleNamespace(latent_channels=4)))
    assert_refused(
        model, "vae: expected one for latents of 16 channels, as the pictures have, found one for 4", run=run
    )


def test_a_missing_package_is_told_before(model: Any) -> None:
    with mock.patch.dict("sys.modules", {"prodigyopt": None}):
        assert_refused(model, "needs the package prodigyopt", optimizer=OptimizerSettings(optimizer="prodigy"))


@pytest.mark.parametrize("seed", range(6))
def test_as_many_captions_and_masks_as_pictures_or_one(seed: int) -> None:
    chance = random.Random(seed)
    images = chance.randint(2, 5)
    others = [count for count in range(2, 12) if count != images]
    with pytest.raises(TrainingError, match=rf"^positive: expected one caption, or one per image \({images}\), found"):
        collect_examples([latent(0, batch=images)], [caption(n) for n in range(chance.choice(others))])
    masks = torch.ones(chance.choice(others), 8, 8)
    with pytest.raises(TrainingError, match=rf"one mask, or one for each of {images} images, found {len(masks)}\."):
        collect_examples([latent(0, batch=images) | {"noise_mask": masks}], [caption(0)])
    with pytest.raises(TrainingError, match=r"Or set captions_per_image of QR-LoRA Training Data to 2\."):
        collect_examples([latent(0, batch=images)], [caption(n) for n in range(2 * images)])


@pytest.mark.parametrize("seed", range(30))
def test_a_mask_of_another_aspect_ratio_is_refused_and_one_of_another_size_is_not(seed: int) -> None:
    """A VAE of 8 or 16 pixels a cell cuts off what is less than a cell; a mask may be drawn in any size."""
    chance = random.Random(seed)
    cell, size = chance.choice([8, 16]), [chance.randint(6, 60), chance.randint(6, 60)]
    picture = [side * cell + chance.randrange(cell) for side in size]
    zoom = chance.choice([0.5, 1.0, 2.0])
    mask = torch.ones(1, *(round(side * zoom) for side in picture))
    samples = {"samples": torch.randn(1, 16, *size)}
    collect_examples([samples | {"noise_mask": mask}], [caption(0)])
    for wrong in (mask[:, : int(mask.shape[1] / 1.4)], mask[:, :, : int(mask.shape[2] / 1.4)]):
        told = (
            rf"image 1 of latents: its mask is {wrong.shape[2]} x {wrong.shape[1]}, .* latent of {size[1]} x {size[0]}"
        )
        with pytest.raises(TrainingError, match=told):
            collect_examples([samples | {"noise_mask": wrong}], [caption(0)])
    for line in (mask[:, :1], mask[:, :, :1]):  # the same all along, such as one of time over a sound
        collect_examples([samples | {"noise_mask": line}], [caption(0)])


@pytest.mark.parametrize("masks", ["one", "each"])
def test_black_is_learned_is_the_training_on_the_inverted_mask(model: Any, masks: str) -> None:
    mask = (torch.rand(1 if masks == "one" else 3, 64, 64, generator=torch.Generator().manual_seed(2)) > 0.3).float()
    pictures = latent(0, batch=3)
    white = train(model, [pictures | {"noise_mask": 1 - mask}], steps=3)
    black = train(model, [pictures | {"noise_mask": mask}], steps=3, data=DataSettings(mask_meaning=MASK_MEANINGS[1]))
    assert white.losses == black.losses
    assert_same(white.adapter, black.adapter)


def test_the_node_hands_on_the_meaning_of_masks() -> None:
    pictures = latent(0) | {"noise_mask": torch.zeros(1, 8, 8)}
    (settings,) = TrainingData.execute([1], ["1"], [0.0], [1.0], [pictures], [caption(0)], ["black is learned"]).args
    assert settings.mask_meaning == "black is learned"
    assert settings.prior[0].mask.min() == 1
    assert collect([pictures], [caption(0)], settings).examples[0].mask.min() == 1
    (settings,) = TrainingData.execute([1], ["1"], [0.0], [1.0]).args
    with pytest.raises(TrainingError, match=r"image 1 of latents: its mask is empty.*mask_meaning"):
        collect([pictures], [caption(0)], settings)


def test_what_has_no_part_in_a_training_is_told(model: Any) -> None:
    entry = caption(0)
    entry[0][1]["area"] = (8, 8, 0, 0)
    (note,) = (note for note in train(model, None, [entry], steps=1).notes if "which a training does not use" in note)
    assert note.startswith("caption 1 of positive has an area")


@pytest.mark.parametrize(
    "name", models(["wan_i2v", "flux_fill", "sd15_inpaint", "hunyuan_video15", "wan", "sd3", "kandinsky5"])
)
def test_a_picture_beside_the_text_that_is_not_there_is_told(name: str) -> None:
    patcher = tiny_models.build(name)
    picture, [[text, options]] = tiny_models.example(name, patcher)
    without = {key: value for key, value in options.items() if not key.startswith("concat")}
    for given, missing in ((options, False), (without, len(without) < len(options))):
        told = train(patcher, [picture], [[[text, given]]], steps=1).notes
        assert any(note.startswith("caption 1 of positive has no picture") for note in told) == missing


def test_captions_of_one_kind_are_tried_once_and_the_largest_picture_too(model: Any) -> None:
    from comfyui_qr_lora.nodes.host.train.trial import cases

    chance = random.Random(0)
    captions = [caption(n, length=chance.randint(3, 40)) for n in range(30)]
    latents = [latent(n, size=chance.choice([4, 6, 8])) for n in range(29)] + [latent(29, size=16)]
    tried = cases(collect(latents, captions), empty_is_used=False, drawn={})
    assert [case.image for case in tried] == ["image 1 of latents", "image 30 of latents"]
