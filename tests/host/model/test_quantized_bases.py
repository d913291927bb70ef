"""Quantized bases, from plain float8 to every form of the host's `QuantizedTensor`: read and trained; live and patched.

The oracle is the base dequantized by hand. Live adapters on all other forms than float8 are in `test_live_quantized`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import comfy.lora
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.host.model.weights import base_weight, fingerprint
from comfyui_qr_lora.nodes.host.train.graph.modules import trainable_context
from comfyui_qr_lora.qrlora_core import QRLoRA, TrainableDelta
from devtools import tiny_models

from ...support import by_hand
from ...support.adapters import merged, random_adapter, relative_error, with_stock_lora
from ...support.training_task import assert_same, train
from ..train.test_frozen_linear import Trained, direction, slope

NAMES = ["flux", "sd3"]
FLOAT8 = ("plain", "scaled", "mixed")
FORMS = ("plain", *tiny_models.quantized_forms())
ROUNDING = ("int8", "w4")  # what forms begin with that round the input of a layer as well, but never in training
every_float8 = pytest.mark.parametrize(("name", "form"), [(name, form) for name in NAMES for form in FLOAT8])
every_base = pytest.mark.parametrize(
    ("name", "form"), [("flux", form) for form in FORMS] + [("sd3", form) for form in FLOAT8]
)


def build(name: str, form: Any, compute: torch.dtype = torch.float32) -> Any:
    if form == "plain":
        return tiny_models.build(name, dtype=torch.float8_e4m3fn, compute_dtype=compute)
    return tiny_models.quantized(name, form, compute_dtype=compute)


@cache
def stored(name: str, form: str, compute: torch.dtype = torch.float32) -> Any:
    return build(name, form, compute)


def predict(name: str, patcher: Any) -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher, batch=2))


def bits(patcher: Any) -> dict[str, Tensor]:
    """All parameters and buffers as they lie in memory."""
    return {key: getattr(value, "_qdata", value).clone() for key, value in patcher.model.state_dict().items()}


def assert_unchanged(patcher: Any, before: dict[str, Tensor]) -> None:
    for key, value in bits(patcher).items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value.flatten().view(torch.uint8), before[key].flatten().view(torch.uint8)), key
    assert all("forward" not in vars(module) for module in patcher.model.modules())


def dequantized(name: str, patcher: Any) -> dict[str, Tensor]:
    """State dict of the plain model in float64, with every weight as its numbers and scales say."""
    state = {}
    for key in tiny_models.build(name).model.state_dict():
        path, _, parameter = key.rpartition(".")
        module = patcher.model.get_submodule(path)
        value = getattr(module, parameter).detach()
        state[key] = by_hand.dequantized(value) if hasattr(value, "_qdata") else value.double()
        for scale in ("scale_weight", "pre_quant_scale"):
            if parameter == "weight" and getattr(module, scale, None) is not None:
                state[key] *= getattr(module, scale).double()
    return state


@cache
def exact(name: str, form: str, compute: torch.dtype = torch.float32, dtype: torch.dtype = torch.float32) -> Any:
    patcher = tiny_models.build(name, dtype=dtype)
    patcher.model.load_state_dict(dequantized(name, stored(name, form, compute)))
    return patcher


@every_base
def test_linear_layers_are_stored_in_the_form(name: str, form: str) -> None:
    patcher = stored(name, form)
    modules = [
        patcher.model.get_submodule(target.module) for target in KeyMap(patcher.model).linear(patcher.model).values()
    ]
    stored_small = [getattr(module.weight, "_qdata", module.weight).dtype.itemsize == 1 for module in modules]
    assert all(stored_small) or (form == "w4a4" and sum(stored_small) > 0.9 * len(modules))
    scaled = [hasattr(module.weight, "_qdata") or hasattr(module, "scale_weight") for module in modules]
    assert scaled == [form != "plain" and small for small in stored_small]


@every_base
def test_the_network_is_the_dequantized_one(name: str, form: str) -> None:
    """So the oracle is one; and the scales of these models are not one."""
    if not form.startswith(ROUNDING):
        assert (predict(name, stored(name, form)) - predict(name, exact(name, form))).norm() < 1e-4
    assert relative(exact(name, form), tiny_models.build(name)) < (0.2 if "4" in form.replace("e4", "") else 0.06)


@pytest.mark.parametrize("name", NAMES)
def test_a_fingerprint_does_not_depend_on_where_the_host_keeps_scales(name: str) -> None:
    """So that an adapter trained on an older host is at home on a newer one."""
    marks = [
        fingerprint(stored(name, form), KeyMap(stored(name, form).model).linear(stored(name, form).model))
        for form in ("scaled", "mixed")
    ]
    assert marks[0] == marks[1]


def relative(found: Any, expected: Any) -> float:
    weights, others = found.model.state_dict(), expected.model.state_dict()
    return max(float((weights[key] - other).norm() / other.norm()) for key, other in others.items() if other.any())


@every_base
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_base_weights_are_dequantized_in_float32_whatever_ran_before(
    name: str, form: str, compute: torch.dtype
) -> None:
    patcher, expected = build(name, form, compute), exact(name, form, compute).model.state_dict()
    targets = KeyMap(patcher.model).linear(patcher.model)
    marks = fingerprint(patcher, targets)
    for _ in range(2):
        for target in targets.values():
            wanted = target.of(expected[target.key])
            assert (base_weight(patcher, target) - wanted).abs().max() < 1e-6 * wanted.abs().max()
        assert fingerprint(patcher, targets) == marks
        other = patcher.clone()
        other.set_model_compute_dtype(torch.bfloat16 if compute is torch.float32 else torch.float32)
        predict(name, other)


@every_float8
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_live_is_the_dequantized_base_plus_the_exact_delta(name: str, form: str, scale: float) -> None:
    patcher, oracle = stored(name, form), exact(name, form)
    adapter, base = random_adapter(patcher), predict(name, oracle)
    expected = predict(name, with_stock_lora(oracle, adapter, scale))
    assert relative_error(predict(name, merged(patcher, (adapter, scale))), expected, base) < 1e-4


@every_float8
def test_live_at_bfloat16_is_the_exact_layer_rounded_once(name: str, form: str) -> None:
    """Adapted layers against float32 ones inside the same bfloat16 network; twice as good as stock patching."""
    patcher = stored(name, form, torch.bfloat16)
    adapter = random_adapter(patcher)
    with float32_layers(patcher, name, form, None):
        base = predict(name, patcher)
    with float32_layers(patcher, name, form, adapter):
        expected = predict(name, patcher)
    live = relative_error(predict(name, merged(patcher, (adapter, 1.0))), expected, base)
    stock = relative_error(predict(name, with_stock_lora(patcher, adapter, 1.0)), expected, base)
    assert live < 0.065
    assert live < stock / 2


@contextmanager
def float32_layers(patcher: Any, name: str, form: str, adapter: QRLoRA | None) -> Iterator[None]:
    """Within the context, targeted layers compute in float32, with the exact delta, and round once."""
    key_map, weights = KeyMap(patcher.model), exact(name, form, torch.bfloat16).model.state_dict()
    changed: dict[str, Tensor] = {}
    for path, layer in random_adapter(patcher).layers.items():
        target = key_map.find(path)
        weight = changed.setdefault(target.module, weights[target.key].clone())
        if adapter is not None:
            target.of(weight).add_(layer.delta_weight())
    handles = []
    for module, weight in changed.items():

        def compute(_: Any, args: Any, output: Tensor, weight: Tensor = weight, module: str = module) -> Tensor:
            return F.linear(args[0].float(), weight, weights.get(f"{module}.bias")).to(output.dtype)

        handles.append(patcher.model.get_submodule(module).register_forward_hook(compute))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@every_float8
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_patch_is_what_the_stock_node_does(name: str, form: str, compute: torch.dtype) -> None:
    patcher = stored(name, form, compute)
    adapter, base = random_adapter(patcher), predict(name, patcher)
    expected = predict(name, with_stock_lora(patcher, adapter, 0.5))
    assert relative_error(predict(name, merged(patcher, (adapter, 0.5), apply="patch")), expected, base) < 0.01
    assert torch.equal(predict(name, patcher), base)


@pytest.mark.skipif("nvfp4_smoothed" not in FORMS, reason="this ComfyUI has no layers that scale their input")
def test_a_patch_on_a_layer_that_scales_its_input_acts_on_the_bare_input() -> None:
    """``(W / s + patch) s x = (W + delta) x``, by the host's own sum of patches, before it rounds them."""
    base, plain = stored("flux", "nvfp4_smoothed"), exact("flux", "nvfp4_smoothed")
    adapter = random_adapter(plain, seed=1)
    patched, expected = merged(base, (adapter, 0.7), apply="patch"), with_stock_lora(plain, adapter, 0.7)
    assert patched.patches
    for key, patches in patched.patches.items():
        module = base.model.get_submodule(key.removesuffix(".weight"))
        weight, scale = module.weight.dequantize().float(), module.pre_quant_scale
        before = plain.model.state_dict()[key]
        wanted = comfy.lora.calculate_weight(expected.patches[key], before.clone(), key)
        found = comfy.lora.calculate_weight(patches, weight, key) * scale
        assert relative_error(found, wanted, before) < 1e-4, key


@every_float8
@pytest.mark.parametrize("apply", ["live", "patch"])
def test_scale_zero_is_the_base_bit_for_bit(name: str, form: str, apply: str) -> None:
    patcher = stored(name, form)
    base = predict(name, patcher)
    assert torch.equal(predict(name, merged(patcher, (random_adapter(patcher), 0.0), apply=apply)), base)


@every_base
@pytest.mark.parametrize(("compute", "training_dtype"), [(torch.float32, "bf16"), (torch.bfloat16, "fp32")])
def test_two_steps_in_another_dtype_than_the_models(
    name: str, form: str, compute: torch.dtype, training_dtype: str
) -> None:
    """With checkpointing the same bits as without; the base stays as it is."""
    patcher = stored(name, form, compute)
    before, (latent, caption) = bits(patcher), tiny_models.example(name, patcher)
    plain, checkpointed = (
        train(patcher, [latent], [caption], steps=2, training_dtype=training_dtype, gradient_checkpointing=enabled)
        for enabled in (False, True)
    )
    assert_unchanged(patcher, before)
    assert plain.losses == checkpointed.losses
    assert_same(plain.adapter, checkpointed.adapter)
    assert sum(bool(term.delta_r.any()) for _, term in plain.adapter.terms()) >= len(plain.adapter.layers) - 1


@every_base
def test_a_trained_adapter_predicts_alike_on_the_quantized_base_and_the_dequantized_one(name: str, form: str) -> None:
    patcher, oracle = stored(name, form), exact(name, form)
    latent, caption = tiny_models.example(name, patcher)
    result = train(patcher, [latent], [caption], steps=12)
    assert sum(result.losses[-4:]) < 0.9 * sum(result.losses[:4])
    if form.startswith(ROUNDING):
        return
    base, expected = predict(name, oracle), predict(name, merged(oracle, (result.adapter, 1.0), apply="patch"))
    assert relative_error(predict(name, merged(patcher, (result.adapter, 1.0))), expected, base) < 1e-4


def task(patcher: Any, name: str, like: Trained | None = None, dtype: torch.dtype = torch.float32) -> Trained:
    """On this model; ``like`` gives its deltas, as two bases whose last bits differ may have another Q each."""
    if dtype is torch.float32:  # newer hosts run in no other
        predict(name, patcher)  # no clone's patches are in its weights any more
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "build", lambda *_, **__: patcher)
        own = Trained(name, variant="full", dtype=dtype)
    with trainable_context():
        for path, delta in ({} if like is None else like.deltas).items():
            own.deltas[path] = TrainableDelta(delta.factors, variant="full", compute_dtype=dtype)
            own.deltas[path].load_state_dict(delta.state_dict())
    return own


@every_base
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_dequantized_base(name: str, form: str, checkpointing: bool) -> None:
    """And, in float64, the slopes of its loss by finite differences."""
    own = task(stored(name, form), name)
    with own.ready(checkpointing=checkpointing):
        found = own.differentiate()
    other = task(exact(name, form), name, own)
    with other.ready(checkpointing=checkpointing):
        expected = other.differentiate()
    for key, gradient in expected.items():
        assert (found[key] - gradient).norm() <= 1e-4 * gradient.norm(), key
    reference, (directions, told) = (
        task(exact(name, form, dtype=torch.float64), name, own, torch.float64),
        direction(found),
    )
    with reference.ready(checkpointing=False):
        difference = slope(reference, directions)
    assert abs(difference) > 1e-3
    assert told == pytest.approx(difference, rel=2e-4)


@every_base
def test_autograd_saves_no_dequantized_weight(name: str, form: str) -> None:
    """Else a quantized base would stand in memory once more, in the compute dtype, until backward."""
    own = task(stored(name, form), name)
    weights = [value for value in exact(name, form).model.state_dict().values() if value.ndim == 2]
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with own.ready(checkpointing=False), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        own.loss(0)
    assert saved
    matrices = [tensor for tensor in saved if tensor.ndim == 2]
    assert not any(parallel(tensor, other) for tensor in matrices for w in weights for other in (w, w.T))


def parallel(first: Tensor, second: Tensor) -> bool:
    """The same but for a factor: the scale of a weight may be applied to its input instead."""
    return first.shape == second.shape and float(F.cosine_similarity(first.flatten(), second.flatten(), 0)) > 0.999
