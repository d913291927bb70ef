"""Attention without a gradient, as an option of the host or another node chooses it, in training and in samples."""

from __future__ import annotations

import sys
from typing import Any

import comfy.ldm.modules.attention as host
import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.train.samples import SampleSettings
from comfyui_qr_lora.nodes.host.train.settings import RunSettings
from devtools import tiny_models

from ...support.training_task import assert_same, train


def fast(calls: list[bool]) -> Any:
    """As kernels behave that autograd knows nothing of."""

    def attention_fast(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(torch.is_grad_enabled())
        with torch.no_grad():
            return host.attention_pytorch(q, k, v, *args, **kwargs)

    return attention_fast


def pictured(patcher: Any, name: str) -> Any:
    latent, caption = tiny_models.example(name, patcher)
    run = RunSettings(samples=SampleSettings(every=2, steps=1))
    return train(patcher, [latent], [caption], steps=2, gradient_checkpointing=True, run=run)


def plain(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        replace_everywhere(patch, host.attention_pytorch)
        return pictured(tiny_models.build(name), name)


def replace_everywhere(patch: pytest.MonkeyPatch, attention: Any) -> None:
    """As if the host had been started with the option: models have taken the function by its name."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("comfy.ldm.") and hasattr(module, "optimized_attention"):
            patch.setattr(module, "optimized_attention", attention)


@pytest.mark.parametrize("name", ["flux", "sd15", "wan"])
def test_an_option_of_the_host_acts_in_samples_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, calls = plain(name, monkeypatch), []
    replace_everywhere(monkeypatch, host.wrap_attn(fast(calls)))
    found = pictured(tiny_models.build(name), name)
    assert found.losses == expected.losses
    assert_same(found.adapter, expected.adapter)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(found.pictures["own"], expected.pictures["own"], strict=True))
    assert calls
    assert not any(calls)


@pytest.mark.parametrize("name", ["flux", "sd15", "wan"])
def test_another_node_is_heard_as_far_as_gradients_go(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that changes what is attended to acts in training as well; one that loses the gradient does not."""
    expected, calls = plain(name, monkeypatch), []
    replace_everywhere(monkeypatch, host.attention_pytorch)

    def trained(override: Any) -> Any:
        patcher = tiny_models.build(name)
        patcher.model_options["transformer_options"]["optimized_attention_override"] = override
        return pictured(patcher, name)

    quick = fast(calls)
    lost = trained(lambda func, *args, **kwargs: quick(*args, **kwargs))
    assert calls
    assert_same(lost.adapter, expected.adapter)
    halved = trained(lambda func, q, *args, **kwargs: func(q / 2, *args, **kwargs))
    assert halved.losses != expected.losses
