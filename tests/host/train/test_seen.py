"""What a training saw, on the page: its pictures and variants, small, and never a reason for a training to end."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from comfyui_qr_lora.nodes.host.files import folders
from comfyui_qr_lora.nodes.host.train.dataset import TrainingSet, collect
from comfyui_qr_lora.nodes.host.train.role.settings import CONTENT, STYLE, RoleSettings
from comfyui_qr_lora.nodes.host.train.role.vary import varied
from comfyui_qr_lora.nodes.host.train.samples import SampleSettings
from comfyui_qr_lora.nodes.host.train.seen import evenly, seen_pictures
from comfyui_qr_lora.nodes.host.train.settings import RunSettings
from comfyui_qr_lora.nodes.host.train.train import View
from devtools import tiny_models

from ...support.encoders import BlockMeans, pictures
from ...support.models import models
from ...support.training_task import assert_same, caption, latent, train


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's folders, of this test's own."""
    monkeypatch.setattr(folders.folder_paths, "get_temp_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folders.folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    return tmp_path


def with_vae(vae: Any) -> RunSettings:
    return RunSettings(samples=SampleSettings(vae=vae))


def shown(folder: Path, entry: dict[str, Any]) -> Tensor:
    with Image.open(folder / entry["subfolder"] / entry["filename"]) as picture:
        return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)


def seen_of(data: TrainingSet, model: Any, vae: Any, warn: Callable[[str], None] = pytest.fail) -> list[Tensor]:
    return list(seen_pictures(data.examples, model.model, vae, warn))


def test_the_pictures_themselves_without_a_role(model: Any, temporary: Path) -> None:
    """Decoded as the encoder made them: the mean colour of every block."""
    vae, pixels = BlockMeans(), pictures(3)
    latents = [{"samples": vae.encode(pixels)}]
    result = train(model, latents, steps=1, run=with_vae(vae), view=View("7"))
    found = [shown(temporary, entry) for entry in result.status.seen]
    expected = vae.decode(vae.encode(pixels)).clamp(0, 1)
    assert len(found) == 3
    assert all((a - b).abs().max() < 0.01 for a, b in zip(found, expected, strict=True))
    assert len(list(temporary.glob("*.png"))) == 3


@pytest.mark.parametrize("role", [CONTENT, STYLE])
def test_the_variants_of_a_role_the_picture_itself_first(model: Any, temporary: Path, role: str) -> None:
    vae, pixels = BlockMeans(), pictures(2)
    latents, recipe = [{"samples": vae.encode(pixels)}], RoleSettings("strong", variants=8).recipe(role)
    result = train(model, latents, pixels=[pixels], role=recipe, steps=1, run=with_vae(vae), view=View("7"))
    data = varied(collect(latents, [caption(0)], pixels=[pixels]), recipe, vae, 0)
    every = [variant for example in data.examples for variant in example.variants]
    assert len(every) == 16
    assert len(result.status.seen) == 12
    for place, entry in enumerate(result.status.seen):
        variant = every[place * 16 // 12]
        picture = vae.decode(variant.latent)[0].clamp(0, 1)
        if variant.mask is not None:  # of a style's tiles the seams are not learned
            mask = torch.nn.functional.interpolate(variant.mask, size=picture.shape[:2], mode="area")[0, 0, :, :, None]
            picture = mask * picture + (1 - mask) / 2
        assert (shown(temporary, entry) - picture).abs().max() < 0.01


def test_what_is_not_learned_is_grey(model: Any) -> None:
    vae, pixels = BlockMeans(), pictures(1)
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    data = collect([{"samples": vae.encode(pixels), "noise_mask": mask}], [caption(0)])
    (found,) = seen_of(data, model, vae)
    expected = vae.decode(vae.encode(pixels))[0]
    assert torch.allclose(found[16:48, 16:48], expected[16:48, 16:48].clamp(0, 1), atol=1e-5)
    grey = found.clone()
    grey[16:48, 16:48] = 0.5
    assert torch.equal(grey, torch.full_like(grey, 0.5))


def test_a_large_picture_is_shown_small(model: Any) -> None:
    vae, pixels = BlockMeans(), pictures(1, 1024, 512)
    (found,) = seen_of(collect([{"samples": vae.encode(pixels)}], [caption(0)]), model, vae)
    assert found.shape == (256, 128, 3)


@pytest.mark.parametrize("count", [1, 11, 12, 13, 40, 1000])
def test_they_are_evenly_chosen(count: int) -> None:
    found = evenly(range(count), 12)
    assert found[0] == 0
    assert len(found) == min(12, count)
    gaps = {after - before for before, after in itertools.pairwise(found)}
    assert len(gaps) <= 2
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_without_a_page_nothing_is_decoded(model: Any, temporary: Path) -> None:
    vae = BlockMeans()
    result = train(model, [{"samples": vae.encode(pictures(1))}], steps=1, run=with_vae(vae))
    assert vae.decoded == 0
    assert result.status.seen == []
    assert list(temporary.glob("*.png")) == []


def test_what_it_saw_changes_nothing(model: Any) -> None:
    vae = BlockMeans()
    latents = [{"samples": vae.encode(pictures(2))}]
    watched = train(model, latents, run=with_vae(vae), view=View("7"))
    plain = train(model, latents)
    assert_same(watched.adapter, plain.adapter)
    assert watched.losses == plain.losses


class Failing(BlockMeans):
    """Decodes every other picture."""

    def decode(self, samples: Tensor) -> Tensor:
        """As it says."""
        made = super().decode(samples)
        if self.decoded % 2 == 0:
            raise ValueError("of another pack")
        return made


def test_one_that_cannot_be_decoded_is_left_out_and_told(model: Any) -> None:
    vae = Failing()
    result = train(model, [{"samples": vae.encode(pictures(5))}], steps=1, run=with_vae(vae), view=View("7"))
    assert len(result.status.seen) == 3
    assert [note for note in result.notes if "cannot be shown: of another pack" in note] == [
        "what it saw cannot be shown: of another pack"
    ]


def test_a_folder_that_cannot_be_written_is_told(model: Any, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (temporary / "gone").touch()
    monkeypatch.setattr(folders.folder_paths, "get_temp_directory", lambda: str(temporary / "gone"))
    result = train(model, steps=1, view=View("7"))
    assert result.status.seen == []
    assert any(note.startswith("warning: picture 1 of what it saw could not be written") for note in result.notes)


def test_without_a_vae_it_shows_rough_colours(model: Any) -> None:
    (found,) = seen_of(collect([latent(0)], [caption(0)]), model, None)
    assert found.shape == (8, 8, 3)
    assert 0 <= found.min() < found.max() <= 1


@pytest.mark.parametrize("name", models(["sd15", "sdxl", "flux", "wan", "ltxv", "ltxav", "hunyuan_video", "flux2"]))
def test_of_every_kind_of_latent_there_is_a_picture(name: str) -> None:
    """Of a video the first frame, of a video with sound the video."""
    patcher = tiny_models.build(name)
    given, text = tiny_models.example(name, patcher)
    mask = {"noise_mask": torch.ones(1, 8, 8)} if not given["samples"].is_nested else {}
    (found,) = seen_of(collect([{**given, **mask}], [text]), patcher, None)
    samples = given["samples"].unbind()[0] if given["samples"].is_nested else given["samples"]
    assert found.shape[-1] == 3
    assert found.shape[0] % samples.shape[-2] == 0


def test_of_a_video_one_frame_is_decoded() -> None:
    patcher, vae = tiny_models.build("wan"), BlockMeans(video=True)
    frames = pictures(4)
    (found,) = seen_of(collect([{"samples": vae.encode(frames)}], [caption(0)]), patcher, vae)
    assert torch.allclose(found, vae.decode(vae.encode(frames[:1]))[0, 0].clamp(0, 1), atol=1e-4)
