"""A network for the text and another one without: Ideogram 4 asks each in every step, each with its own adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error

NAME = "ideogram4"
guiders = pytest.importorskip("comfy_extras.nodes_custom_sampler")
pytestmark = [
    pytest.mark.skipif(bool(tiny_models.lacking(NAME)), reason=tiny_models.lacking(NAME)),
    pytest.mark.skipif(not hasattr(guiders, "DualModelGuider"), reason="this ComfyUI has no DualModelGuider"),
]


def sampled(positive: Any, negative: Any, caption: Any, without: Any) -> Tensor:
    import comfy.samplers

    guider = guiders.DualModelGuider.execute(positive, caption, 3.0, model_negative=negative, negative=without).args[0]
    noise = torch.randn(1, 128, 8, 8, generator=torch.Generator().manual_seed(5))
    sigmas = torch.tensor([1.0, 0.7, 0.3, 0.0])
    latent: Tensor = guider.sample(
        noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=1
    )
    return latent


@pytest.mark.parametrize("which", ["positive", "negative", "both"])
@pytest.mark.parametrize("image_only", [True, False])
def test_each_network_keeps_its_own_adapter(which: str, image_only: bool) -> None:
    positive, negative = tiny_models.build(NAME), tiny_models.build(NAME, seed=3)
    (_, caption) = tiny_models.example(NAME, positive)
    without = None if image_only else [[torch.zeros_like(caption[0][0]), dict(caption[0][1])]]
    adapters = random_adapter(positive, seed=1), random_adapter(negative, seed=2)

    def with_adapters(mode: str) -> Tensor:
        first, second = (
            merged(network, (adapter, 0.8), apply=mode) if which in (side, "both") else network
            for side, network, adapter in zip(("positive", "negative"), (positive, negative), adapters, strict=True)
        )
        return sampled(first, second, caption, without)

    base = sampled(positive, negative, caption, without)
    expected = with_adapters("patch")
    assert (expected - base).norm() > 1e-2 * base.norm()
    assert relative_error(with_adapters("live"), expected, base) < 1e-4
    assert torch.equal(sampled(positive, negative, caption, without), base)
