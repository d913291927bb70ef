"""Anima has a transformer for the text within its network: run beforehand in inference, in every step in training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.train.graph.modules import detached, trainable_context
from comfyui_qr_lora.nodes.host.train.objective import encode_conditioning
from comfyui_qr_lora.nodes.host.train.samples import SampleSettings
from comfyui_qr_lora.nodes.host.train.settings import RunSettings
from devtools import tiny_models

from ...support.training_task import assert_same, assert_unchanged, snapshot, train

pytestmark = pytest.mark.skipif(bool(tiny_models.lacking("anima")), reason=tiny_models.lacking("anima"))
LENGTH, PADDED = 9, 512


def caption(seed: int, length: int = LENGTH, tokens: int = 7) -> list[Any]:
    """As the text encoder gives it: what one model said, and another's token numbers and weights."""
    generator = torch.Generator().manual_seed(seed)
    options = {
        "t5xxl_ids": torch.randint(3, 32000, (tokens,), generator=generator),
        "t5xxl_weights": 1 + 0.1 * torch.randn(tokens, generator=generator),
    }
    return [[torch.randn(1, length, 96, generator=generator), options]]


def latent(seed: int = 0) -> dict[str, Tensor]:
    return {"samples": torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(seed))}


def test_the_network_sees_in_training_what_it_sees_in_inference() -> None:
    patcher, contexts = tiny_models.build("anima"), []
    network = patcher.model.diffusion_model
    network.blocks[0].register_forward_pre_hook(lambda _, args: contexts.append(args[2].clone()))
    [[text, options]] = caption(0)
    entry = {"cross_attn": text, "model_conds": {}, **options}
    x, sigma = latent()["samples"], torch.tensor([0.5])
    before = encode_conditioning(patcher.model, entry, x, 0)
    patcher.model.apply_model(x, sigma, **{name: cond.cond for name, cond in before.items()}, transformer_options={})
    with trainable_context(), torch.no_grad():
        within = encode_conditioning(patcher.model, detached(entry), x.clone(), 0)
        conds = {name: cond.cond for name, cond in within.items()}
        patcher.model.apply_model(x.clone(), sigma.clone(), **conds, transformer_options={})
    assert before["c_crossattn"].cond.shape == (1, PADDED, 96)
    assert within["c_crossattn"].cond.shape == (1, LENGTH, 96)
    assert torch.allclose(contexts[0], contexts[1], atol=1e-5)
    assert contexts[0].shape == (1, PADDED, 96)


@pytest.mark.parametrize("lengths", [((9, 7), (9, 7)), ((9, 7), (11, 7)), ((9, 7), (9, 5)), ((9, 7), (12, 8))])
def test_captions_of_any_lengths_train_together(lengths: Any) -> None:
    """In one batch, with and without checkpointing: the same bits, and the model as before."""
    patcher = tiny_models.build("anima")
    before = snapshot(patcher)
    captions = [caption(seed, *each) for seed, each in enumerate(lengths)]
    plain, checkpointed = (
        train(patcher, [latent(0), latent(1)], captions, batch_size=2, steps=2, gradient_checkpointing=enabled)
        for enabled in (False, True)
    )
    assert_unchanged(patcher, before)
    assert plain.losses == checkpointed.losses
    assert_same(plain.adapter, checkpointed.adapter)
    assert all(term.delta_r.any() for _, term in plain.adapter.terms())
    assert not any("llm_adapter" in path for path in plain.adapter.layers)


def test_the_text_adapter_trains_where_it_is_asked_for_and_its_samples_show_it() -> None:
    patcher = tiny_models.build("anima")
    run = RunSettings(samples=SampleSettings(every=5, steps=2))
    result = train(patcher, [latent()], [caption(0)], targets="llm_adapter.*", steps=10, learning_rate=0.1, run=run)
    assert all("llm_adapter" in path for path in result.adapter.layers)
    assert all(term.delta_r.any() for _, term in result.adapter.terms())
    assert sum(result.losses[-3:]) < sum(result.losses[:3])
    (_, first), (_, last) = result.pictures["own"]
    assert (first - last).abs().max() > 0.01
