"""What the host's nodes give as a latent trains as the host's sampler would take it."""

import pytest
import torch

from comfyui_qr_lora.nodes.host.train.report import TrainingResult
from comfyui_qr_lora.qrlora_core import TrainingError
from devtools import tiny_models

from ...support.models import models
from ...support.training_task import assert_same, train

VIDEO = ["qwen_image", "krea2", "wan", "cosmos_predict2", "anima"]


def trained(name: str, latent: torch.Tensor) -> TrainingResult:
    patcher = tiny_models.build(name)
    _, caption = tiny_models.example(name, patcher)
    return train(patcher, [{"samples": latent}], [caption], steps=2)


@pytest.mark.parametrize("name", models(VIDEO))
def test_a_picture_trains_a_video_model_as_a_video_of_one_frame(name: str) -> None:
    frames = torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    one, other = trained(name, frames[:, :, 0]), trained(name, frames)
    assert one.losses == other.losses
    assert_same(one.adapter, other.adapter)


@pytest.mark.parametrize(("name", "channels"), [("sd15", 16), ("flux", 4), ("wan", 48)])
def test_a_latent_of_another_vae_is_refused_with_both_numbers(name: str, channels: int) -> None:
    with pytest.raises(TrainingError, match=rf"expected \d+ channels, as \w+ has them, found {channels} in a latent"):
        trained(name, torch.randn(1, channels, 8, 8))
