"""A training for a role that is interrupted at any update goes on as if it had not been, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch

from comfyui_qr_lora.nodes.host.files import folders
from comfyui_qr_lora.nodes.host.files.checkpoints import latest_checkpoint
from comfyui_qr_lora.nodes.host.train.dataset import DataSettings, collect_examples
from comfyui_qr_lora.nodes.host.train.role.settings import CONTENT, STYLE
from comfyui_qr_lora.nodes.host.train.settings import RESUME_LATEST, VARIANTS
from comfyui_qr_lora.qrlora_core import OptimizerSettings, TrainingError, load_training
from devtools import tiny_models

from ...support.encoders import BlockMeans, pictures
from ...support.roles import ROLES, encoded, recipe, seen_with, square
from ...support.training_task import assert_same, caption, latent, raising, train

STEPS = 3
Interrupted = comfy.model_management.InterruptProcessingException


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of checkpoints, in an output folder of this test's own."""
    monkeypatch.setattr(folders.folder_paths, "get_output_directory", lambda: str(tmp_path))
    return tmp_path


def flow(role: str) -> dict[str, Any]:
    """Everything at once: several pictures, captions and masks, class images, dropout, accumulation, a schedule."""
    pixels, vae = pictures(3), BlockMeans()
    return {
        "latents": [encoded(pixels[:2], vae), encoded(pixels[2:], vae, noise_mask=square())],
        "captions": [caption(n) for n in range(6)], "pixels": [pixels[:2], pixels[2:]], "vae": vae,
        "data": DataSettings(
            captions_per_image=2, repeats=(1, 2, 1), caption_dropout=0.3,
            prior=tuple(collect_examples([latent(7)], [caption(8)])),
        ),
        "empty": [caption(9)], "batch_size": 2, "grad_accumulation": 2, "role": recipe(role, "strong"),
        "optimizer": OptimizerSettings(schedule="cosine", warmup_steps=1, ema_decay=0.9),
    }  # fmt: skip


def on_latents(role: str) -> dict[str, Any]:
    """Of two sizes, without pixels."""
    latents = [latent(0), latent(1, size=12), latent(2)]
    return {"latents": latents, "role": recipe(role, flip=0.5), "batch_size": 2, "grad_accumulation": 2}


def epsilon(role: str) -> dict[str, Any]:
    patcher = tiny_models.build("sd15")
    _, text = tiny_models.example("sd15", patcher)
    pixels, vae = pictures(2), BlockMeans(4)
    return {
        "patcher": patcher, "latents": [encoded(pixels, vae)], "captions": [text], "pixels": [pixels], "vae": vae,
        "role": recipe(role), "rank": 4, "batch_size": 2,
    }  # fmt: skip


def epsilon_on_latents(role: str) -> dict[str, Any]:
    return {**epsilon(role), "pixels": [], "role": recipe(role, shift=1.0)}


def video(role: str) -> dict[str, Any]:
    """A mask of its own for each of three frames."""
    patcher, vae = tiny_models.build("wan"), BlockMeans(video=True)
    _, text = tiny_models.example("wan", patcher)
    frames, masks = pictures(3, 32, 32), torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(4))
    return {
        "patcher": patcher, "latents": [encoded(frames, vae, noise_mask=masks)], "captions": [text],
        "pixels": [frames], "vae": vae, "role": recipe(role), "rank": 4,
    }  # fmt: skip


# Every variant with everything at once, and each other kind with one of them.
OTHERS = (on_latents, epsilon, epsilon_on_latents, video)
CASES = [*((flow, variant) for variant in VARIANTS), *zip(OTHERS, VARIANTS, strict=True)]


@pytest.mark.parametrize(("kind", "variant"), CASES)
@pytest.mark.parametrize("role", ROLES)
def test_interrupted_at_any_update_and_resumed_is_uninterrupted_bit_for_bit(
    model: Any, kind: Callable[[str], dict[str, Any]], variant: str, role: str
) -> None:
    """In the first step, too, of which nothing is kept; each time in the last loss of an update."""
    given = {"patcher": model, "vae": None, "steps": STEPS, "variant": variant} | kind(role)
    run = seen_with(given.pop("vae"), keep_checkpoints=2)
    whole = train(**given, run=replace(run, run_name="whole"))
    for after in range(STEPS):
        own = replace(run, run_name=f"after{after}")
        with raising(Interrupted, after), pytest.raises(Interrupted):
            train(**given, run=own)
        kept = latest_checkpoint(own.run_name)
        assert (0 if kept is None else load_training(kept).record["trainer"]["updates"]) == after
        resumed = train(**given, run=replace(own, resume_from=RESUME_LATEST))
        assert resumed.losses == whole.losses
        assert_same(resumed.adapter, whole.adapter)


@pytest.mark.parametrize("role", ROLES)
def test_resumed_over_and_over_is_uninterrupted(model: Any, role: str) -> None:
    given = {"patcher": model, "steps": STEPS} | flow(role)
    run = seen_with(given.pop("vae"), keep_checkpoints=1, run_name="often", resume_from=RESUME_LATEST)
    for after in range(STEPS):
        with raising(Interrupted, after), pytest.raises(Interrupted):
            train(**given, run=run)
    whole = train(**given, run=seen_with(run.samples.vae))
    assert_same(train(**given, run=run).adapter, whole.adapter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": recipe(STYLE)}, "role was content and is style"),
        ({"role": None}, "role was content and is None"),
        ({"role": recipe(CONTENT, variants=6)}, "variants was 5 and is 6; the pictures, captions or masks are others"),
        ({"role": recipe(CONTENT, levels=3.0)}, "levels was 1.0 and is 3.0"),
        ({"pixels": []}, "the pictures, captions or masks are others"),
    ],
)
def test_another_role_is_another_training(model: Any, change: dict[str, Any], message: str) -> None:
    pixels, vae = pictures(1), BlockMeans()
    given = {"latents": [encoded(pixels, vae)], "pixels": [pixels], "steps": 1}
    run = seen_with(vae, run_name="role", keep_checkpoints=1)
    train(model, **given, role=recipe(CONTENT), run=run)
    with pytest.raises(TrainingError, match=message):
        train(model, **{"role": recipe(CONTENT)} | given | change, run=replace(run, resume_from=RESUME_LATEST))
