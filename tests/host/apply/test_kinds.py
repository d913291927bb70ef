"""Every kind of adapter, live and patched, against its published equation in float64 and against the stock loader.

The rule of scales is ``W + sum_i scale_i (W_i' - W)``, whatever the kinds and in any order. All kinds in one table,
with saved files: benchmarks/kinds.py. Compiled and recorded models: test_compiled, test_recorded.
"""

from __future__ import annotations

import gc
import random
from dataclasses import replace
from functools import cache
from typing import Any

import comfy.model_management
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from comfyui_qr_lora.nodes.blocks import Blocks
from comfyui_qr_lora.nodes.host.files.load import load
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.nodes.sweep import Sweep
from comfyui_qr_lora.qrlora_core import save_adapter
from comfyui_qr_lora.qrlora_core.schedule import parse_points
from devtools import tiny_models
from nodes import LoraLoader

from ...support.adapters import merged, relative_error
from ...support.kind_files import NAMES, KindFile, SmallModel, small_model, stock
from ...support.text_encoders import clip_l, encode
from .test_live_quantized import FORMS, ROUNDING, dequantized, quantized

TOLERANCE = 1e-4  # relative to the adapter's effect
MODES = ("live", "patch")
# Those that are computed in different ways; the others differ in how they are read.
CHOSEN = (
    "LoKr, both whole", "LoKr, right a product", "LoKr, Tucker", "LoHa", "DoRA of LoRA by column",
    "DoRA of LoKr by column", "DoRA of LoKr of whole factors by row", "DoRA of PEFT", "OFT", "OFT, alpha, rescaled",
    "BOFT, alpha 0, rescaled", "GLoRA", "GLoRA, Tucker", "IA3 on input", "IA3 on output", "whole difference",
    "replaced weight", "whole difference of a norm", "whole difference of a bias", "replaced vector",
)  # fmt: skip
CASES = [(name, kind) for name in NAMES for kind in CHOSEN]
of_sd3 = pytest.mark.parametrize("kind", [kind for kind in CHOSEN if small_model("sd3").targets(kind)])
every_model = pytest.mark.parametrize("name", NAMES)


@cache
def file(name: str, kind: str, seed: int = 0) -> KindFile:
    return small_model(name).file(kind, seed)


def cases() -> list[tuple[str, str]]:
    return [(name, kind) for name, kind in CASES if small_model(name).targets(kind)]


def mixed(name: str, seed: int, count: int) -> list[tuple[KindFile, float]]:
    """So many files of different kinds, with scales, in any order."""
    chance = random.Random(seed)
    kinds = chance.sample([kind for kind in CHOSEN if small_model(name).targets(kind)], count)
    return [(file(name, kind, seed), chance.choice([0.3, 0.7, -0.4])) for kind in kinds]


def pairs(files: list[tuple[KindFile, float]]) -> list[tuple[Any, float]]:
    return [(own.adapter, scale) for own, scale in files]


def forward_hooks(patcher: Any) -> int:
    return sum(len(module._forward_hooks) for module in patcher.model.modules())


def places(patcher: Any) -> list[int]:
    return [own.data_ptr() for held in patcher.get_nested_additional_models() for own in held.model.parameters()]


@pytest.mark.parametrize(("name", "kind"), cases())
def test_live_and_patched_are_the_equation_and_the_stock_loader_and_leave_nothing(name: str, kind: str) -> None:
    small, own = small_model(name), file(name, kind)
    assert len(own.adapter.layers) == len(own.layers)
    for scale in (1.0, -0.7):
        oracles = [small.expected((own, scale))]
        if scale == 1.0 and own.in_stock:
            oracles.append(small.predict(stock(small.patcher, own.path)))
        for mode in MODES:
            found = small.predict(merged(small.patcher, (own.adapter, scale), apply=mode))
            for expected in oracles:
                assert relative_error(found, expected, small.base) < TOLERANCE, (mode, scale)
    gc.collect()
    assert torch.equal(small.predict(small.patcher), small.base)
    assert forward_hooks(small.patcher) == 0


@every_model
@pytest.mark.parametrize("mode", MODES)
def test_scale_zero_is_the_base_bit_for_bit(name: str, mode: str) -> None:
    small = small_model(name)
    for own in (mixed(name, 0, 8), mixed(name, 1, 8)):
        found = small.predict(merged(small.patcher, *((one.adapter, 0.0) for one, _ in own), apply=mode))
        assert torch.equal(found, small.base)


@every_model
@pytest.mark.parametrize("seed", range(2))
def test_effects_of_mixed_kinds_add_in_any_order(name: str, seed: int) -> None:
    small, own = small_model(name), mixed(name, seed, 5)
    expected = small.expected(*own)
    for order in (own, own[::-1], own[2:] + own[:2]):
        for mode in MODES:
            found = small.predict(merged(small.patcher, *pairs(order), apply=mode))
            assert relative_error(found, expected, small.base) < TOLERANCE, mode
        for mode in MODES:  # and in several nodes in a row
            in_a_row = merged(small.patcher, *pairs(order[:2]), apply=mode)
            in_a_row = merged(in_a_row, *pairs(order[2:3]), apply=mode)
            in_a_row = merged(in_a_row, *pairs(order[3:]), apply=mode)
            assert relative_error(small.predict(in_a_row), expected, small.base) < TOLERANCE, mode


def test_on_weights_that_others_have_patched_it_is_said() -> None:
    small, own, other = small_model("sd3"), file("sd3", "OFT"), file("sd3", "LoKr, both whole", 1)
    said = "act on weights as nodes before have patched them"

    def report(patcher: Any, mode: str) -> str:
        told: str = Merge.execute(model=patcher, adapter_1=own.adapter, apply=mode).args[2]
        return told

    for mode in MODES:
        assert said not in report(small.patcher, mode)
        assert said in report(stock(small.patcher, other.path), mode)
    ours = merged(small.patcher, (other.adapter, 1.0), apply="patch")
    assert said in report(ours, "live")
    assert said not in report(ours, "patch")


@pytest.mark.parametrize("kind", ["DoRA of LoRA by column", "DoRA of PEFT", "OFT", "GLoRA", "IA3 on input", "LoHa"])
def test_slices_of_a_fused_weight_and_the_whole_of_it(kind: str) -> None:
    small = small_model("flux")
    slices = [f"transformer.transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    files = [small.file(kind, 50 + number, [name]) for number, name in enumerate(slices)]
    files.append(small.file(kind, 60, ["diffusion_model.double_blocks.0.img_attn.qkv"]))
    own = list(zip(files, (0.8, -0.5, 0.3, 0.4), strict=True))
    expected = small.expected(*own)
    for mode in MODES:
        for order in (own, own[::-1]):
            found = small.predict(merged(small.patcher, *pairs(order), apply=mode))
            assert relative_error(found, expected, small.base) < TOLERANCE, mode


@of_sd3
def test_a_step_at_which_a_schedule_has_half_of_it(kind: str) -> None:
    small, own = small_model("sd3"), file("sd3", kind)
    later = parse_points("0:0, 0.25:0, 0.25:0.5, 1:0.5")
    expected = small.expected((own, 0.6 * 0.5), run=small.last_step)
    found = small.last_step(merged(small.patcher, (own.adapter, 0.6), schedule_1=later))
    assert relative_error(found, expected, small.last_step(small.patcher)) < TOLERANCE


@of_sd3
def test_blocks_scale_a_layer(kind: str) -> None:
    small, own = small_model("sd3"), file("sd3", kind)
    first, *others = own.adapter.layers
    (scaled,) = Blocks.execute(own.adapter, "\n".join([f"{first}: -0.5", *(f"{path}: 0" for path in others)])).args
    target = small.target_of(first)
    alone = replace(own, layers={target: own.layers[target]})
    found = small.predict(merged(small.patcher, (scaled, 0.8)))
    assert relative_error(found, small.expected((alone, -0.4)), small.base) < TOLERANCE


def test_a_cell_of_a_sweep_is_a_run_of_its_own() -> None:
    small = small_model("flux")
    first, second = file("flux", "DoRA of LoRA by column"), file("flux", "OFT")
    models = Sweep.execute(small.patcher, first.adapter, "-0.5, 0, 1", second.adapter, "0, 0.7").args[0]
    cells = [(x, y) for y in (0.0, 0.7) for x in (-0.5, 0.0, 1.0)]
    for model, (x, y) in zip(models, cells, strict=True):
        single = merged(small.patcher, (first.adapter, x), (second.adapter, y))
        assert torch.equal(small.predict(model), small.predict(single))


@of_sd3
def test_another_scale_keeps_the_patches_and_the_buffers(kind: str) -> None:
    small, own = small_model("sd3"), file("sd3", kind)
    first = merged(small.patcher, (own.adapter, 0.5))
    small.predict(first)
    before = places(first)
    del first
    again = merged(small.patcher, (own.adapter, -2.0))
    small.predict(again)
    assert places(again) == before != []
    assert again.patches_uuid == small.patcher.patches_uuid


@of_sd3
def test_two_of_a_kind_take_turns_in_the_same_buffers_with_their_own_numbers(kind: str) -> None:
    small, first, second = small_model("sd3"), file("sd3", kind), file("sd3", kind, 1)
    lives = [merged(small.patcher, (own.adapter, 1.0)) for own in (first, second)]
    assert places(lives[0])[: len(places(lives[1]))] == places(lives[1])
    once = small.predict(lives[0])
    assert relative_error(small.predict(lives[1]), small.expected((second, 1.0)), small.base) < TOLERANCE
    assert torch.equal(small.predict(lives[0]), once)


def test_adapters_of_other_shapes_do_not_share_buffers() -> None:
    small = small_model("sd3")
    lives = [
        merged(small.patcher, (file("sd3", kind).adapter, 1.0))
        for kind in ("LoKr, both whole", "LoKr, of a small left", "OFT", "BOFT, alpha 0", "IA3 on input")
    ]
    taken = [place for live in lives for place in places(live)]
    assert len(set(taken)) == len(taken)


@pytest.mark.parametrize("kind", [kind for kind in CHOSEN if "vector" not in kind and "norm" not in kind])
def test_a_trainer_gets_gradients(kind: str) -> None:
    """Through buffers that the host has moved, which it does in inference mode."""
    small = small_model("sdxl")
    own = file("sdxl", kind)
    live = merged(small.patcher, (own.adapter, 0.7))
    comfy.model_management.load_models_gpu([live, *live.get_nested_additional_models()])
    for held in live.get_nested_additional_models():
        held.model.double().float()
    target = next(iter(own.layers))
    module = small.patcher.model.get_submodule(target.module)
    key = f"{target.module}.weight"
    weight = small.new_weights((own, 0.7)).get(key, small.weights[key])
    with torch.inference_mode(False), torch.enable_grad():
        sides = (2, weight.shape[1], 6, 6) if weight.ndim > 2 else (3, weight.shape[1])
        x = torch.randn(sides, generator=torch.Generator().manual_seed(0)).requires_grad_()
        module(x).square().sum().backward()
        y = x.detach().double().requires_grad_()
        bias = small.weights[f"{target.module}.bias"] if module.bias is not None else None
        if target.vector and bias is not None:
            bias = small.new_weights((own, 0.7))[f"{target.module}.bias"]
        product(module, y, weight.clone(), None if bias is None else bias.clone()).square().sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert (x.grad - y.grad).norm() < TOLERANCE * y.grad.norm()


def product(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.ndim == 2:
        return torch.nn.functional.linear(x, weight, bias)
    return torch.nn.functional.conv2d(x, weight, bias, module.stride, module.padding)


@cache
def stored(name: str, dtype: torch.dtype, compute: torch.dtype) -> SmallModel:
    """A small model in another dtype, and the same numbers in float32."""
    patcher, exact = tiny_models.build(name, dtype=dtype, compute_dtype=compute), tiny_models.build(name)
    exact.model.load_state_dict({key: value.float() for key, value in patcher.model.state_dict().items()})
    return SmallModel(name, patcher, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", ["flux", "sdxl"])
def test_live_on_low_precision_storage_is_the_stored_base_plus_the_exact_change(name: str, dtype: torch.dtype) -> None:
    small = stored(name, dtype, torch.float32)
    base = small.expected()
    for kind in CHOSEN:
        if small.targets(kind):
            own = small.file(kind)
            found = small.predict(merged(small.patcher, (own.adapter, 0.8)))
            assert relative_error(found, small.expected((own, 0.8)), base) < TOLERANCE, kind


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_live_that_computes_in_low_precision_is_no_farther_off_than_patched(dtype: torch.dtype) -> None:
    small = stored("flux", dtype, dtype)
    base = small.expected()
    for kind in CHOSEN:
        if small.targets(kind):
            own = small.file(kind)
            expected = small.expected((own, 0.8))
            errors = {
                mode: relative_error(
                    small.predict(merged(small.patcher, (own.adapter, 0.8), apply=mode)), expected, base
                )
                for mode in MODES
            }
            assert errors["live"] < 1.5 * errors["patch"], kind


@pytest.mark.parametrize("form", FORMS)
def test_live_on_quantized_weights(form: str) -> None:
    """What a form rounds besides its weights moves the output as it does without an adapter, on any kind."""
    small = SmallModel("flux", quantized("flux", form), dequantized("flux", form))
    base = small.expected()
    for kind in ("LoKr, both whole", "DoRA of LoRA by column", "DoRA of PEFT", "OFT", "GLoRA", "replaced weight"):
        own = small.file(kind)
        expected = small.expected((own, 0.5))
        error = relative_error(small.predict(merged(small.patcher, (own.adapter, 0.5))), expected, base)
        rounding = relative_error(small.base, base, expected)
        assert error < TOLERANCE or (form.startswith(ROUNDING) and error < 1.5 * rounding), (kind, error, rounding)


ENCODER = "text_encoders.clip_l.transformer.text_model"


@cache
def encoder() -> SmallModel:
    """CLIP-L, and another one of the same numbers, which the cache keeps apart."""
    layers = [f"{ENCODER}.encoder.layers.0.{part}" for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.fc1")]
    return SmallModel("clip_l", clip_l().patcher, clip_l(0).patcher, layers)


def on_encoder(files: list[tuple[KindFile, float]], mode: str) -> Tensor:
    slots = {f"adapter_{slot}": own.adapter for slot, (own, _) in enumerate(files, 1)}
    slots |= {f"scale_{slot}": scale for slot, (_, scale) in enumerate(files, 1)}
    made = Merge.execute(model=small_model("sd3").patcher, clip=clip_l(), apply=mode, **slots).args[3]
    return encode(made)


def test_on_an_encoder_that_others_have_patched_it_is_said() -> None:
    oft, lora = (encoder().file(kind, 3) for kind in ("OFT", "LoRA"))
    said = "act on weights as nodes before have patched them"
    for clip, expected in (
        (clip_l(), False),
        (LoraLoader().load_lora(None, clip_l(), lora.path.name, 0, 1.0)[1], True),
    ):
        told = Merge.execute(model=small_model("sd3").patcher, clip=clip, adapter_1=oft.adapter).args[2]
        assert (said in told) is expected


def of_encoder(files: list[tuple[KindFile, float]]) -> Tensor:
    return encoder().expected(*files, run=lambda _: encode(clip_l(0)))


@pytest.mark.parametrize("kind", [kind for kind in CHOSEN if encoder().targets(kind)])
def test_layers_of_a_text_encoder(kind: str) -> None:
    base = encode(clip_l())
    own = [(encoder().file(kind), 0.6)]
    for mode in MODES:
        assert relative_error(on_encoder(own, mode), of_encoder(own), base) < TOLERANCE, mode
    assert torch.equal(encode(clip_l()), base)


def test_embeddings_which_no_hook_serves_in_any_order() -> None:
    base, name = encode(clip_l()), f"{ENCODER}.embeddings.token_embedding"
    kinds = ("DoRA of LoRA by column", "whole difference", "IA3 on input", "LoRA", "GLoRA", "replaced weight")
    own = [(encoder().file(kind, 70, [name]), 0.3) for kind in kinds]
    expected = of_encoder(own)
    for mode in MODES:
        for order in (own, own[::-1]):
            assert relative_error(on_encoder(order, mode), expected, base) < TOLERANCE, mode
    assert torch.equal(encode(clip_l()), base)


def test_parameters_of_a_models_own_which_no_hook_serves_in_any_order() -> None:
    small = SmallModel("cosmos", layers=["diffusion_model.extra_pos_embedder.pos_emb_h"])
    kinds = ("DoRA of LoRA by column", "whole difference", "IA3 on input", "OFT", "LoRA", "replaced weight")
    own = [(small.file(kind), 0.4) for kind in kinds]
    expected = small.expected(*own)
    for mode in MODES:
        for order in (own, own[::-1]):
            found = small.predict(merged(small.patcher, *pairs(order), apply=mode))
            assert relative_error(found, expected, small.base) < TOLERANCE, mode


def test_a_patch_that_the_host_makes_anew_is_the_same() -> None:
    """From what every adapter of its own has, as newer hosts do where a weight is not loaded."""
    small, own = small_model("flux"), file("flux", "DoRA of PEFT")
    patched = merged(small.patcher, (own.adapter, 0.7), apply="patch")
    expected = small.predict(patched)
    again = small.patcher.clone()
    for key, members in patched.patches.items():
        for strength, value, before, offset, function in members:
            copied = type(value)(value.loaded_keys, value.weights)
            again.add_patches({(key, offset, function): copied}, strength, before)
    assert torch.equal(small.predict(again), expected)


def test_norms_of_another_number_of_inputs_leave_their_layer_out() -> None:
    small = small_model("sd3")
    path = small.file("DoRA of LoRA by column", 90).path
    tensors = load_file(path)
    (key,) = (key for key in tensors if key.endswith("attn.to_q.dora_scale"))
    save_file({**tensors, key: tensors[key][:, ::2].contiguous()}, path)
    report = Merge.execute(model=small.patcher, adapter_1=load(path)).args[2]
    assert "1 of 7 layers were left out (DoRA that does not fit a weight (128, 128))" in report


@of_sd3
def test_saved_as_lycoris_from_a_merge_it_is_the_same_to_the_stock_loader(kind: str) -> None:
    small, own = small_model("sd3"), file("sd3", kind)
    whole = Merge.execute(model=small.patcher, adapter_1=own.adapter).args[1]
    path = save_adapter(whole, own.path.with_name(f"lycoris_{own.path.name}"), format="lycoris")
    expected = small.expected((own, 1.0))
    assert relative_error(small.predict(merged(small.patcher, (load(path), 1.0))), expected, small.base) < TOLERANCE
    if own.in_stock:
        assert relative_error(small.predict(stock(small.patcher, path)), expected, small.base) < TOLERANCE


def test_a_replaced_bias_is_one_also_when_it_was_saved_as_lycoris() -> None:
    """No ending of a key says that of a module's bias, but the bias has a name of its own."""
    small, key = small_model("sd3"), "diffusion_model.joint_blocks.0.x_block.attn.qkv.bias"
    first = file("sd3", "LoKr, both whole").path.with_name("bias.safetensors")
    save_file({f"{key}.set_weight": torch.randn(small.weights[key].shape)}, first)
    whole = Merge.execute(model=small.patcher, adapter_1=load(first)).args[1]
    second = save_adapter(whole, first.with_name("bias_again.safetensors"), format="lycoris")
    expected = small.predict(stock(small.patcher, first))
    assert not torch.equal(expected, small.base)
    for path in (first, second):
        assert relative_error(small.predict(stock(small.patcher, path)), expected, small.base) < TOLERANCE
        found = small.predict(merged(small.patcher, (load(path), 1.0)))
        assert relative_error(found, expected, small.base) < TOLERANCE
