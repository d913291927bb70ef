"""Adapters on text encoders, which are never sampled: CLIP-L and Qwen3, plain and quantized, with merged layers."""

from __future__ import annotations

from functools import cache
from typing import Any

import comfy.quant_ops
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.text_encoders.llama import Qwen3_4BConfig

from comfyui_qr_lora.nodes.host.apply.source import Source
from comfyui_qr_lora.nodes.host.merge.merge import apply_adapters
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.qrlora_core import QRLoRA
from devtools import tiny_models

from ...support.adapters import as_stock_tensors, random_adapter, relative_error
from ...support.sampling import sample
from ...support.text_encoders import clip_l, encode, merged_qwen3, quantized, qwen3, qwen3_with_head
from .test_unrun import without_block

TOLERANCE = 1e-4  # relative to the adapter's effect
# Older hosts know none by an entry of its own, as checkpoints of text encoders have it.
KNOWN = comfy.quant_ops.QUANT_ALGOS if hasattr(comfy.utils, "detect_layer_quantization") else {}
has_merged_layers = pytest.mark.skipif("int8_tensorwise" not in KNOWN, reason="this ComfyUI has no merged layers")
FORMS = {
    # A layer's entry, how it is quantized, and how far an effect may be from that on the numbers: an int8 product
    # rounds its input as well, and an adapter on one layer moves the roundings in all that follow.
    "float8": ("float8_e4m3fn", {"scale": "recalculate"}, 1e-3),
    "int8": ("int8_tensorwise", {"scale": "recalculate"}, 0.35),
    "int8_rows": ("int8_tensorwise", {"per_channel": True}, 0.35),
}
every_form = pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=pytest.mark.skipif(entry not in KNOWN, reason=f"this ComfyUI has no {entry}"))
        for form, (entry, _, _) in FORMS.items()
    ],
)
encoders = pytest.mark.parametrize("make", [clip_l, qwen3, pytest.param(merged_qwen3, marks=has_merged_layers)])


@cache
def model() -> Any:
    return tiny_models.build("sd3")


def adapter_of(clip: Any, seed: int = 1) -> QRLoRA:
    return random_adapter(clip.patcher, seed=seed, targets="all-linear")


def with_adapter(clip: Any, adapter: QRLoRA, apply: str, scale: float = 1.0, **more: Any) -> Any:
    return Merge.execute(model=model(), clip=clip, adapter_1=adapter, scale_1=scale, apply=apply, **more).args[3]


def with_stock_lora(clip: Any, adapter: QRLoRA, scale: float) -> Any:
    tensors = {f"text_encoders.{name}": value for name, value in as_stock_tensors(adapter).items()}
    return comfy.sd.load_lora_for_models(None, clip, tensors, 0.0, scale)[1]


@encoders
@pytest.mark.parametrize("apply", ["live", "patch"])
def test_prompts_are_encoded_as_with_the_stock_loader(make: Any, apply: str) -> None:
    clip = make()
    adapter, prompts = adapter_of(clip), ("a red square", "", "a blue circle, from above")
    bases = [encode(clip, prompt) for prompt in prompts]
    for scale in (0.8, -0.3):
        found, stock = with_adapter(clip, adapter, apply, scale), with_stock_lora(clip, adapter, scale)
        for prompt, base in zip(prompts, bases, strict=True):
            assert relative_error(encode(found, prompt), encode(stock, prompt), base) < TOLERANCE
    assert all(torch.equal(encode(clip, prompt), base) for prompt, base in zip(prompts, bases, strict=True))


@encoders
def test_live_and_patched_text_encoders_in_turn_and_in_series(make: Any) -> None:
    clip = make()
    first, second, base = adapter_of(clip, 1), adapter_of(clip, 2), encode(clip)
    expected = encode(with_stock_lora(with_stock_lora(clip, first, 0.5), second, 0.7))
    for one, two in (("live", "live"), ("patch", "live"), ("live", "patch")):
        found = with_adapter(with_adapter(clip, first, one, 0.5), second, two, 0.7)
        assert relative_error(encode(found.clone()), expected, base) < TOLERANCE
    scaled = with_adapter(clip, first, "live", 0.5, clip_scale=0.4)
    assert relative_error(encode(scaled), encode(with_stock_lora(clip, first, 0.2)), base) < TOLERANCE
    assert torch.equal(encode(clip), base)


@pytest.mark.skipif(not hasattr(comfy.sd.CLIP, "generate"), reason="this ComfyUI's text encoders write no text")
def test_text_is_written_alike_by_live_and_patched_encoders() -> None:
    """Step by step, with keys and values kept from the words before."""
    clip = qwen3()
    adapter, tokens = adapter_of(clip), clip.tokenize("a red square")

    def written(encoder: Any) -> list[int]:
        return encoder.generate(tokens, do_sample=False, max_length=12)

    live, patched, base = (
        written(with_adapter(clip, adapter, "live")),
        written(with_stock_lora(clip, adapter, 1.0)),
        written(clip),
    )
    assert live == patched != base
    assert written(clip) == base


@every_form
@pytest.mark.parametrize("make", [qwen3, merged_qwen3])
def test_every_layer_of_a_quantized_encoder_is_served(make: Any, form: str) -> None:
    """Also the one whose activation the host fuses with its product, without calling the layer."""
    entry, how, tolerance = FORMS[form]
    layout = KNOWN[entry]["comfy_tensor_layout"]
    stored, plain = quantized(make(), layout, {"format": entry}, **how)
    whole = adapter_of(plain)
    base, near = encode(stored), encode(plain)
    for layers in ({path: whole.layers[path]} for path in list(whole.layers)[:8]):
        adapter = QRLoRA(layers, name="one layer")
        expected = encode(with_stock_lora(plain, adapter, 1.0)) - near
        found = encode(with_adapter(stored, adapter, "live")) - base
        assert (found - expected).norm() < tolerance * expected.norm(), list(layers)
    expected, found = (
        encode(with_stock_lora(plain, whole, 1.0)) - near,
        encode(with_adapter(stored, whole, "live")) - base,
    )
    assert (found - expected).norm() < min(tolerance, 0.1) * expected.norm()
    assert torch.equal(encode(stored), base)


@pytest.mark.skipif(not hasattr(Qwen3_4BConfig, "lm_head"), reason="this ComfyUI's text encoders have no such layer")
def test_layers_that_take_no_part_in_a_prompt_are_named() -> None:
    clip, told = qwen3_with_head(), list[list[str]]()
    adapter = adapter_of(clip)
    (head,) = (path for path in adapter.layers if path.endswith("lm_head"))
    lone = QRLoRA({head: adapter.layers[head]}, name="lone")

    def applied(one: QRLoRA) -> Any:
        return apply_adapters(model(), [Source("words", one)], "live", clip=clip, tell=told.append)

    encode(applied(adapter).clip)
    assert told[-1] == [f"words: 1 of {len(adapter.layers)} layers did not run: text_encoders.{head}"]
    assert f"last time, {told[-1][0]}" in applied(adapter).last
    encode(applied(lone).clip)
    assert told[-1] == ["words did nothing: this model runs none of its 1 layers as such. Set apply to patch."]


def test_a_prompt_in_which_all_layers_took_part_is_told_so() -> None:
    """Each time: what is told on the node is of the last prompt, beside what is told of the last picture."""
    clip, told = clip_l(), list[list[str]]()
    mixed = QRLoRA({**adapter_of(clip).layers, **random_adapter(model()).layers}, name="both")
    applied = apply_adapters(without_block(model(), 1), [Source("both", mixed)], "live", clip=clip, tell=told.append)
    sample(applied.model)
    (picture,) = told[-1]
    assert "did not run" in picture
    encode(applied.clip)
    assert told == [[picture], [picture]]
