"""What a role cannot work on is refused by name before anything is decomposed or written, the model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.train.dataset import DataSettings, collect_examples
from comfyui_qr_lora.nodes.host.train.role.settings import CONTENT, STYLE
from comfyui_qr_lora.nodes.role import Role
from comfyui_qr_lora.qrlora_core import TrainingError
from devtools import tiny_models

from ...support.encoders import BlockMeans, Embedded, pictures
from ...support.roles import ROLES, encoded, recipe, seen_with, square
from ...support.training_task import assert_refused, assert_same, caption, latent, train


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints go into an output folder of this test's own."""
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))


# The VAE


@pytest.mark.parametrize("role", ROLES)
def test_pixels_without_a_vae(model: Any, role: str) -> None:
    pixels = pictures(1)
    given = encoded(pixels, BlockMeans())
    assert_refused(model, "pixels are connected, and vae is not", [given], pixels=[pixels], role=recipe(role))


@pytest.mark.parametrize("role", ROLES)
def test_a_vae_without_pixels_is_for_samples_and_needs_no_more(model: Any, role: str) -> None:
    result = train(model, run=seen_with(BlockMeans()), role=recipe(role), steps=1)
    assert any("connect pixels and vae" in note for note in result.notes)


def test_a_vae_of_another_family(model: Any) -> None:
    """Of as many channels, and of others; one of sounds; and one that was loaded from a file without a VAE."""
    pixels, vae = pictures(1), BlockMeans()

    class OfSounds(BlockMeans):
        def encode(self, pixel_samples: Tensor) -> Tensor:
            raise RuntimeError("Expected 2D or 3D input to conv1d.")

    for other, message in (
        (Embedded(), "pixels: image 1 is another picture than image 1 of latents, or vae is another than the one"),
        (BlockMeans(4), r"pixels: image 1 becomes a latent of \(1, 4, 8, 8\) by vae, and its latent is"),
        (OfSounds(), r"pixels: vae cannot encode image 1 of \(1, 64, 64, 3\): Expected 2D or 3D input to conv1d\. Co"),
        (
            comfy.sd.VAE(sd={}),
            r"pixels: vae cannot encode image 1 of .*: ERROR: VAE is invalid: .*Connect the VAE",
        ),
    ):
        given = {"pixels": [pixels], "run": seen_with(other), "role": recipe(STYLE)}
        assert_refused(model, message, [encoded(pixels, vae)], **given)


def test_a_number_that_is_none_in_a_variant(model: Any) -> None:
    class Breaking(BlockMeans):
        def encode(self, pixel_samples: Tensor) -> Tensor:
            made = super().encode(pixel_samples)
            return made * torch.nan if self.calls > 3 else made

    pixels = pictures(1)
    given = encoded(pixels, BlockMeans())
    message = r"variant 3 of image 1: .* NaN or infinite.*--fp32-vae"
    assert_refused(model, message, [given], pixels=[pixels], run=seen_with(Breaking()), role=recipe(STYLE))


# The pixels


def test_pixels_of_other_pictures_of_another_order_size_or_number(model: Any) -> None:
    vae, pixels = BlockMeans(), pictures(2)
    given: dict[str, Any] = {"run": seen_with(vae), "role": recipe(STYLE)}
    counted = r"pixels: expected as many pictures as latents \(2\), found {}\. Connect the images that VAE Encode"
    other = "pixels: image {0} is another picture than image {0} of latents"
    for wrong, message in (
        ([pictures(3)], counted.format(3)),
        ([pixels[:1]], counted.format(1)),
        ([pixels, pixels], counted.format(4)),
        ([pixels[:0]], counted.format(0)),
        ([pixels.flip(0)], other.format(1)),
        ([pixels[:1], pictures(1, seed=5)], other.format(2)),
        ([255 * pixels], other.format(1)),
        ([pictures(2, 32, 32)], r"image 1 becomes a latent of \(1, 16, 4, 4\) by vae, and its latent is"),
        ([pixels[:, :, :32]], r"image 1 becomes a latent of \(1, 16, 8, 4\) by vae, and its latent is"),
    ):
        assert_refused(model, message, [encoded(pixels, vae)], pixels=wrong, **given)


@pytest.mark.parametrize("role", ROLES)
def test_a_list_of_pictures_is_their_batch_and_what_is_transparent_has_colours(model: Any, role: str) -> None:
    vae, pixels = BlockMeans(), pictures(3)
    given: dict[str, Any] = {"run": seen_with(vae), "role": recipe(role), "steps": 2}
    whole = train(model, [encoded(pixels, vae)], pixels=[pixels], **given)
    with_alpha = torch.cat([pixels, torch.rand(3, 64, 64, 1)], -1)
    for latents, parts in (
        ([encoded(one, vae) for one in pixels.split(1)], list(pixels.split(1))),
        ([encoded(pixels, vae)], [pixels[:2], pixels[2:]]),
        ([encoded(pixels, vae)], [with_alpha]),
    ):
        assert_same(train(model, latents, pixels=parts, **given).adapter, whole.adapter)


def test_pixels_that_are_no_picture(model: Any) -> None:
    vae, pixels = BlockMeans(), pictures(2)
    broken = pixels.clone()
    broken[1, 3, 4, 0] = torch.nan
    shape = (
        r"image {} of pixels: expected an image of \(count, height, width, 3\) with red, green and blue, found one of "
    )
    for wrong, message in (
        ([broken], "image 2 of pixels: 1 of 12288 of its numbers are NaN or infinite"),
        ([pixels[:1], pixels[1:, ..., :1]], shape.format(2) + r"\(1, 64, 64, 1\)"),
        ([pixels[..., 0]], shape.format(1) + r"\(1, 64, 64\)"),
    ):
        given = {"pixels": wrong, "run": seen_with(vae), "role": recipe(CONTENT)}
        assert_refused(model, message, [encoded(pixels, vae)], **given)


def test_pixels_of_a_video_with_too_few_frames() -> None:
    patcher, vae = tiny_models.build("wan"), BlockMeans(video=True)
    _, text = tiny_models.example("wan", patcher)
    frames = pictures(3, 32, 32)
    given: dict[str, Any] = {"run": seen_with(vae), "role": recipe(STYLE)}
    message = r"image 1 becomes a latent of \(1, 16, 2, 4, 4\) by vae, and its latent is \(1, 16, 3, 4, 4\)"
    assert_refused(patcher, message, [encoded(frames, vae)], [text], pixels=[frames[:2]], **given)
    message = r"expected as many videos as latents \(1\), found 3"
    assert_refused(patcher, message, [encoded(frames, vae)], [text], pixels=list(frames.split(1)), **given)


# Masks and ground


@pytest.mark.parametrize("role", ROLES)
def test_a_mask_of_another_size(model: Any, role: str) -> None:
    """Of the second picture."""
    vae, pixels = BlockMeans(), pictures(2)
    latents = [encoded(pixels[:1], vae, noise_mask=square()), encoded(pixels[1:], vae, noise_mask=square(32))]
    message = r"image 2 of latents: its mask is 32 x 32, of 1 frames, and its picture in pixels is 64 x 64, of 1 frames"
    assert_refused(model, message, latents, pixels=[pixels], run=seen_with(vae), role=recipe(role))


@pytest.mark.parametrize("role", ROLES)
def test_masks_of_more_frames_than_the_video(role: str) -> None:
    patcher, vae = tiny_models.build("wan"), BlockMeans(video=True)
    _, text = tiny_models.example("wan", patcher)
    frames = pictures(3, 32, 32)
    given = encoded(frames, vae, noise_mask=torch.ones(5, 32, 32))
    message = r"image 1 of latents: its mask is 32 x 32, of 5 frames, and its picture in pixels is 32 x 32, of 3 frames"
    assert_refused(patcher, message, [given], [text], pixels=[frames], run=seen_with(vae), role=recipe(role))


@pytest.mark.parametrize("ground", ["kept", "replaced"])
def test_a_ground_without_a_mask_or_without_pixels(model: Any, ground: str) -> None:
    vae, pixels = BlockMeans(), pictures(2)
    role = recipe(CONTENT, ground=ground)
    latents = [encoded(pixels[:1], vae, noise_mask=square()), encoded(pixels[1:], vae)]
    message = f"ground {ground}: image 2 of latents has no mask, which says where the ground is"
    assert_refused(model, message, latents, pixels=[pixels], run=seen_with(vae), role=role)
    message = f"ground {ground}: image 1 of latents has no pixels to change it in"
    assert_refused(model, message, latents[:1], run=seen_with(vae), role=role)


# Pairs

PAIRS = (
    "reference_latents", "concat_latent_image", "concat_image", "ref_latent", "context_latents", "condition",
    "lq_latent", "vace_frames", "control_video", "pose_video_latent", "face_video_pixels", "reference_motion",
    "minimax_refs", "minimax_keyframes",
)  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("beside", PAIRS)
def test_a_pair_of_pictures(model: Any, role: str, beside: str) -> None:
    """In any caption of a picture."""
    ((text, options),) = caption(0)
    paired = [[text, {**options, beside: [latent(1)["samples"]]}]]
    captions, data = [caption(0), caption(1), caption(2), paired], DataSettings(captions_per_image=2)
    message = rf"role: the caption of image 2 has a second picture \({beside}\)"
    assert_refused(model, message, [latent(0), latent(1)], captions, data=data, role=recipe(role))


@pytest.mark.parametrize("name", ["wan_i2v", "flux_fill", "sd15_inpaint"])
def test_the_pair_of_a_model_that_has_one(name: str) -> None:
    patcher = tiny_models.build(name)
    picture, text = tiny_models.example(name, patcher)
    for role in ROLES:
        assert_refused(
            patcher, "role: the caption of image 1 has a second picture", [picture], [text], role=recipe(role)
        )
    assert train(patcher, [picture], [text], steps=1).losses


# Numbers


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variants": 0}, "variants: expected at least 1, the picture itself, found 0"),
        ({"variants": -3}, "variants: expected at least 1"),
        ({"colour": -0.5}, "colour: expected a number from 0 to 1, or -1 to go by strength, found -0.5"),
        ({"tilt": 181.0}, "tilt: expected a number from 0 to 180"),
        ({"patch": 0.0}, "patch: expected a number from 0.1 to 1"),
        ({"tiles": 0}, "tiles: expected a number from 1 to 16"),
        ({"zoom": float("inf")}, "zoom: expected a number from 0 to 2"),
        ({"strength": "extreme"}, "strength: expected one of mild, medium, strong, found 'extreme'"),
    ],
    ids=str,
)
def test_numbers_of_the_role_node(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Role.execute(**{"strength": "mild"} | wrong)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "numbers",
    [
        {"variants": 1},
        {"colour": 0, "light": 0, "texture": 0, "zoom": 0, "shift": 0, "tilt": 0, "flip": 0, "patch": 1, "tiles": 1},
    ],
    ids=["one variant", "zeros"],
)
def test_a_role_that_varies_nothing_is_no_role(model: Any, role: str, numbers: dict[str, Any]) -> None:
    vae, pixels = BlockMeans(), pictures(2)
    given: dict[str, Any] = {"run": seen_with(vae), "steps": 3, "batch_size": 2}
    plain = train(model, [encoded(pixels, vae)], **given)
    nothing = train(model, [encoded(pixels, vae)], pixels=[pixels], role=recipe(role, levels=0, **numbers), **given)
    assert nothing.losses == plain.losses
    assert_same(nothing.adapter, plain.adapter)
    assert f"role {role}: the pictures are seen as they are" in nothing.notes


def test_class_images_of_another_size_and_with_a_pair_are_no_matter_of_the_role(model: Any) -> None:
    """They are never varied."""
    ((text, options),) = caption(0)
    paired = [[text, {**options, "reference_latents": [latent(1)["samples"]]}]]
    prior = tuple(collect_examples([latent(5, size=12)], [paired]))
    pixels, vae = pictures(1), BlockMeans()
    data = DataSettings(prior=prior)
    result = train(
        model, [encoded(pixels, vae)], pixels=[pixels], data=data, run=seen_with(vae), role=recipe(CONTENT), steps=2
    )
    assert len(result.losses) == 2
