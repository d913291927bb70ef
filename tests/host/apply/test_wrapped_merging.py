"""Stock nodes that merge models or scale their weights, before, after and beside live adapters."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import nodes as host_nodes
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.qrlora_core import QRLoRA, QRLoRAError
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error, with_stock_lora
from ...support.sampling import sample
from ...support.text_encoders import clip_l, encode

TOLERANCE = 1e-4  # relative to the adapter's effect

MODEL_NODES = {
    "ModelMergeSimple": {"ratio": 0.3},
    "ModelMergeBlocks": {"joint_blocks.0.": 0.3, "joint_blocks.1.": 0.0, "input": 1.0},
    "ModelMergeAdd": {},
    "ModelMergeSubtract": {"multiplier": 0.5},
}
CLIP_NODES = {"CLIPMergeSimple": {"ratio": 0.3}, "CLIPMergeAdd": {}, "CLIPMergeSubtract": {"multiplier": 0.5}}
every_model_node = pytest.mark.parametrize("name", MODEL_NODES)


def run(name: str, *inputs: Any, **settings: Any) -> Any:
    kind = host_nodes.NODE_CLASS_MAPPINGS[name]
    return getattr(kind(), kind.FUNCTION)(*inputs, **settings)[0]


@cache
def model(seed: int = 0) -> Any:
    return tiny_models.build("sd3", seed=seed)


@cache
def adapter(seed: int = 1) -> QRLoRA:
    return random_adapter(model(), seed=seed)


@every_model_node
@pytest.mark.parametrize("cloned", [False, True])
def test_a_live_model_is_refused_as_the_second(name: str, cloned: bool) -> None:
    """Its weights would be taken without the adapters; as patches they are in them."""
    live = merged(model(), (adapter(), 1.0))
    with pytest.raises(QRLoRAError, match="Set apply to patch"):
        run(name, model(1), live.clone() if cloned else live, **MODEL_NODES[name])
    base = sample(run(name, model(1), model(), **MODEL_NODES[name]))
    expected = sample(run(name, model(1), with_stock_lora(model(), adapter(), 1.0), **MODEL_NODES[name]))
    found = sample(run(name, model(1), merged(model(), (adapter(), 1.0), apply="patch"), **MODEL_NODES[name]))
    assert relative_error(found, expected, base) < TOLERANCE


@every_model_node
def test_a_live_model_is_the_first_with_the_share_that_is_left_of_it(name: str) -> None:
    first, second = merged(model(), (adapter(), 0.8), (adapter(2), 0.4)), with_stock_lora(model(1), adapter(3), 0.5)
    stock = with_stock_lora(with_stock_lora(model(), adapter(), 0.8), adapter(2), 0.4)
    base = sample(run(name, model(), second, **MODEL_NODES[name]))
    expected = sample(run(name, stock, second, **MODEL_NODES[name]))
    assert relative_error(sample(run(name, first, second, **MODEL_NODES[name])), expected, base) < TOLERANCE


def test_adapters_after_a_merge_of_models_act_in_full() -> None:
    mixed = run("ModelMergeSimple", model(), model(1), ratio=0.3)
    base, expected = sample(mixed), sample(with_stock_lora(mixed, adapter(), 0.8))
    assert relative_error(sample(merged(mixed, (adapter(), 0.8))), expected, base) < TOLERANCE


def test_merges_of_models_and_adapters_in_turn() -> None:
    def chain(first: Any, second: Any) -> Any:
        return run(
            "ModelMergeSimple",
            second(run("ModelMergeSimple", first(model()), model(1), ratio=0.4)),
            model(2),
            ratio=0.7,
        )

    stock = chain(lambda m: with_stock_lora(m, adapter(), 0.8), lambda m: with_stock_lora(m, adapter(2), 0.6))
    live = chain(lambda m: merged(m, (adapter(), 0.8)), lambda m: merged(m, (adapter(2), 0.6)))
    base = sample(chain(lambda m: m, lambda m: m))
    assert relative_error(sample(live), sample(stock), base) < TOLERANCE


def test_weights_scaled_by_another_node_take_the_adapter_along() -> None:
    """UNet Cross Attention Multiply multiplies weights, with all that was patched into them."""
    unet = tiny_models.build("sd15")
    own = random_adapter(unet, seed=1)
    name, factors = "UNetCrossAttentionMultiply", {"q": 1.5, "k": 0.5, "v": 2.0, "out": 0.7}
    kind = host_nodes.NODE_CLASS_MAPPINGS[name]
    patch = getattr(kind, "execute", None) or getattr(kind(), kind.FUNCTION)
    base, expected, found = (
        predict(patch(patcher, **factors)[0])
        for patcher in (unet, with_stock_lora(unet, own, 1.0), merged(unet, (own, 1.0)))
    )
    assert relative_error(found, expected, base) < TOLERANCE


def predict(patcher: Any) -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs("sd15", patcher))


@pytest.mark.parametrize("name", CLIP_NODES)
def test_a_live_text_encoder_is_refused_as_the_second(name: str) -> None:
    live = with_adapter(clip_l(), own_words(), "live")
    with pytest.raises(QRLoRAError, match="Set apply to patch"):
        run(name, clip_l(1), live, **CLIP_NODES[name])


@pytest.mark.parametrize("name", CLIP_NODES)
def test_a_live_text_encoder_is_the_first_with_the_share_that_is_left_of_it(name: str) -> None:
    clip, other, words = clip_l(), clip_l(1), own_words()
    live, patched = (with_adapter(clip, words, apply) for apply in ("live", "patch"))
    base = encode(run(name, clip, other, **CLIP_NODES[name]))
    expected = encode(run(name, patched, other, **CLIP_NODES[name]))
    assert relative_error(encode(run(name, live, other, **CLIP_NODES[name])), expected, base) < TOLERANCE
    assert torch.equal(encode(clip), encode(clip_l()))


@cache
def own_words() -> QRLoRA:
    return random_adapter(clip_l().patcher, seed=1, targets="*encoder.layers.0.*, *encoder.layers.1.*")


def with_adapter(clip: Any, words: QRLoRA, apply: str) -> Any:
    return Merge.execute(model=model(), clip=clip, adapter_1=words, apply=apply).args[3]
