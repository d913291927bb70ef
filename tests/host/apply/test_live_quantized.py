"""Live adapters on every quantized form that the host loads, on a transformer, a video model and a UNet.

Forms that multiply with the dequantized weight are compared with the dequantized model and exact patches. Others round
what goes into a layer as well, which a difference in the last bit may turn into a whole step further on: there the
oracle is each layer by itself, on the input that it had, ``x @ delta^T`` in float32 besides what it gave without us;
and the whole network may be no farther from the exact one than the bare one is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.model_management
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.qrlora_core import QRLoRA
from comfyui_qr_lora.qrlora_core.schedule import make_curve
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error, with_stock_lora

NAMES = ["flux", "wan", "sd15"]
ROUNDING = ("int8", "w4")  # what forms begin with that round the input of a layer
FORMS = tiny_models.quantized_forms()
INT8 = [form for form in FORMS if form.startswith("int8")]
needs_int8 = pytest.mark.skipif(not INT8, reason="this ComfyUI has no int8 weights")
every_form = pytest.mark.parametrize(("name", "form"), [(name, form) for name in NAMES for form in FORMS])


def predict(name: str, patcher: Any) -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher))


@cache
def quantized(name: str, form: str) -> Any:
    return tiny_models.quantized(name, form)


@cache
def adapter_for(name: str, seed: int = 0) -> QRLoRA:
    return random_adapter(tiny_models.build(name), seed=seed)


@cache
def dequantized(name: str, form: str) -> Any:
    """The model with every quantized weight as the host dequantizes it, in float32."""
    plain, stored = tiny_models.build(name), quantized(name, form).model
    state = {}
    for key in plain.model.state_dict():
        path, _, parameter = key.rpartition(".")
        module = stored.get_submodule(path)
        value = getattr(module, parameter)
        scales = [getattr(module, name, None) for name in ("scale_weight", "pre_quant_scale") if parameter == "weight"]
        state[key] = (value.dequantize() if hasattr(value, "_qdata") else value).float()
        for scale in scales:
            state[key] = state[key] if scale is None else state[key] * scale
    plain.model.load_state_dict(state)
    return plain


def deltas(patcher: Any, adapter: QRLoRA, scale: float) -> dict[str, Tensor]:
    """Host module to the whole delta of its weight, float32."""
    key_map, found = KeyMap(patcher.model), dict[str, Tensor]()
    for path, layer in adapter.layers.items():
        target = key_map.find(path)
        assert target is not None
        whole = found.setdefault(target.module, torch.zeros(key_map.shape_of(target.key)))
        target.of(whole).add_(scale * layer.delta_weight().reshape(target.shape))
    return found


@every_form
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_live_is_the_dequantized_base_plus_the_exact_delta(name: str, form: str, scale: float) -> None:
    patcher, oracle = quantized(name, form), dequantized(name, form)
    base, expected = predict(name, oracle), predict(name, with_stock_lora(oracle, adapter_for(name), scale))
    error = relative_error(predict(name, merged(patcher, (adapter_for(name), scale))), expected, base)
    rounding = relative_error(predict(name, patcher), base, expected)
    assert error < 1e-4 or (form.startswith(ROUNDING) and error < 1.25 * rounding)


def outputs(name: str, live: Any, wanted: Callable[[str], bool]) -> dict[str, tuple[Tensor, Tensor]]:
    """Module path to the input and the output of its first call, in a run of the live model."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    comfy.model_management.load_models_gpu([live])  # from here on our hooks are in place, and run before these
    handles = [
        module.register_forward_hook(
            lambda _, args, output, path=path: seen.setdefault(path, (args[0].clone(), output.clone())) and None
        )
        for path, module in live.model.named_modules()
        if wanted(path)
    ]
    with torch.no_grad():
        live.model.apply_model(**tiny_models.sample_inputs(name, live), transformer_options={})
    for handle in handles:
        handle.remove()
    return seen


def product(module: Any, x: Tensor, delta: Tensor) -> Tensor:
    if delta.ndim == 2:
        return F.linear(x.float(), delta)
    return F.conv2d(x.float(), delta, None, module.stride, module.padding)


@every_form
def test_every_layer_gains_the_exact_delta(name: str, form: str) -> None:
    patcher, adapter = quantized(name, form), adapter_for(name)
    changed = deltas(patcher, adapter, 0.7)
    seen = outputs(name, merged(patcher, (adapter, 0.7)), changed.__contains__)
    for path, (x, output) in seen.items():
        module = patcher.model.get_submodule(path)
        expected = product(module, x, changed[path])
        assert (output - module.forward(x) - expected).norm() < 1e-4 * expected.norm(), path
    missing = changed.keys() - seen.keys()
    assert all(name == "wan" and form in INT8 and path.endswith("ffn.2") for path in missing)


def wan_feed_forward(module: Any, x: Tensor, weight: Tensor) -> Tensor:
    """``W_2 gelu(ffn.0(x)) + b_2``"""
    return F.linear(F.gelu(module[0](x), approximate="tanh"), weight, module[2].bias)


@pytest.mark.parametrize("form", INT8)
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_an_int8_layer_that_is_not_called_has_its_adapter(form: str, scale: float) -> None:
    patcher, adapter = quantized("wan", form), adapter_for("wan")
    changed, base = deltas(patcher, adapter, scale), predict("wan", patcher)
    live = merged(patcher, (adapter, scale))
    seen = outputs("wan", live, lambda path: path.endswith(".ffn"))
    assert len(seen) == 2
    for path, (x, output) in seen.items():
        module = patcher.model.get_submodule(path)
        weight = module[2].weight.dequantize().float()
        expected = wan_feed_forward(module, x, weight + changed[f"{path}.2"])
        effect = expected - wan_feed_forward(module, x, weight)
        assert (output - expected).norm() < 1e-4 * effect.norm()
    assert torch.equal(predict("wan", patcher), base)


@needs_int8
def test_the_adapter_on_such_layers_alone_has_an_effect_of_the_right_size() -> None:
    """It had none at all, and the report said that both layers were applied."""
    plain, patcher = tiny_models.build("wan"), quantized("wan", "int8")
    alone = random_adapter(plain, targets="*ffn.2")
    assert len(alone.layers) == 2
    effect = (predict("wan", with_stock_lora(plain, alone, 1.0)) - predict("wan", plain)).norm()
    found = (predict("wan", merged(patcher, (alone, 1.0))) - predict("wan", merged(patcher, (alone, 1e-6)))).norm()
    assert float(found / effect) == pytest.approx(1.0, abs=0.2)


@needs_int8
def test_two_merges_in_a_row_on_such_a_layer_add_up_and_leave_nothing() -> None:
    patcher, first, second = quantized("wan", "int8"), adapter_for("wan"), adapter_for("wan", 5)
    base = predict("wan", patcher)
    before = {path: dict(vars(module)) for path, module in patcher.model.named_modules()}

    def second_layers(live: Any) -> dict[str, tuple[Tensor, Tensor]]:
        return outputs("wan", live, lambda path: path.endswith("blocks.0.ffn"))

    together = second_layers(merged(patcher, (first, 0.5), (second, 0.7)))
    in_series = second_layers(merged(merged(patcher, (first, 0.5)), (second, 0.7)))
    ((x, expected),), ((other_x, found),) = together.values(), in_series.values()
    assert (x - other_x).norm() < 1e-3 * x.norm()
    assert (found - expected).norm() < 1e-2 * expected.norm()
    assert torch.equal(predict("wan", patcher), base)
    for path, module in patcher.model.named_modules():
        for name in ("weight_function", "bias_function"):
            assert vars(module).get(name) == before[path].get(name), path


@needs_int8
def test_a_schedule_acts_on_such_a_layer() -> None:
    """Where it is at 0, the layer is computed as at any other scale, without the rounding of its input: a recorded
    program of the layer may not depend on a scale."""
    patcher, alone = quantized("wan", "int8"), random_adapter(tiny_models.build("wan"), targets="*ffn.2")
    full, least = predict("wan", merged(patcher, (alone, 1.0))), predict("wan", merged(patcher, (alone, 1e-6)))
    always, later = make_curve("constant"), make_curve("constant", 0.5, 1.0)
    assert torch.equal(predict("wan", merged(patcher, (alone, 1.0), schedule_1=always)), full)
    silent = predict("wan", merged(patcher, (alone, 1.0), schedule_1=later))
    assert (silent - least).norm() < 1e-4 * (full - least).norm()
