"""Live, patch and stock LoRA nodes given the same deltas agree on every architecture."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error, with_stock_lora
from ...support.models import every_model, models

TOLERANCE = 1e-4  # relative to the adapter's effect
MODES = ("live", "patch")
LOW_PRECISION_NAMES = sorted({*tiny_models.NAMES} - {"sd35", "cosmos", "cosmos_predict2", "hunyuan_video"})


@cache
def model(name: str, dtype: torch.dtype = torch.float32, compute: torch.dtype | None = None) -> Any:
    return tiny_models.build(name, dtype=dtype, compute_dtype=compute)


def predict(name: str, patcher: Any) -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher, batch=2))


@every_model
def test_one_and_two_adapters_equal_stock_nodes(name: str) -> None:
    base_model = model(name)
    base = predict(name, base_model)
    first, second = (random_adapter(base_model, seed=seed) for seed in (1, 2))
    stock_one = with_stock_lora(base_model, first, 0.7)
    stock_two = with_stock_lora(stock_one, second, -0.4)
    expected_one, expected_two = predict(name, stock_one), predict(name, stock_two)
    assert (expected_one - base).norm() > 1e-3 * base.norm()
    for mode in MODES:
        one = predict(name, merged(base_model, (first, 0.7), apply=mode))
        two = predict(name, merged(base_model, (first, 0.7), (second, -0.4), apply=mode))
        assert relative_error(one, expected_one, base) < TOLERANCE, mode
        assert relative_error(two, expected_two, base) < TOLERANCE, mode
    assert torch.equal(predict(name, base_model), base)


@pytest.mark.parametrize("name", ["sd3", "flux", "sdxl"])
@pytest.mark.parametrize("mode", MODES)
def test_different_bases_are_added_side_by_side(name: str, mode: str) -> None:
    base_model = model(name)
    base = predict(name, base_model)
    first, second = random_adapter(base_model, seed=1), random_adapter(base_model, seed=2, mirrored=True)
    expected = predict(name, with_stock_lora(with_stock_lora(base_model, first, 0.7), second, 0.9))
    found = predict(name, merged(base_model, (first, 0.7), (second, 0.9), apply=mode))
    assert relative_error(found, expected, base) < TOLERANCE


@pytest.mark.parametrize("name", ["sd15", "sdxl", "flux"])
@pytest.mark.parametrize("mode", MODES)
def test_all_linear_layers(name: str, mode: str) -> None:
    base_model = model(name)
    base = predict(name, base_model)
    adapter = random_adapter(base_model, targets="all-linear", size=0.1)
    expected = predict(name, with_stock_lora(base_model, adapter, 1.0))
    assert relative_error(predict(name, merged(base_model, (adapter, 1.0), apply=mode)), expected, base) < TOLERANCE


@pytest.mark.parametrize("mode", MODES)
def test_convolutions(mode: str) -> None:
    """Kernels of 3 and of 1, with stride and padding, from matrices and from kernels."""
    base_model = model("sd15")
    base = predict("sd15", base_model)
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for path in (
        "unet.conv_in",
        "unet.down_blocks.0.resnets.0.conv1",
        "unet.down_blocks.0.downsamplers.0.conv",
        "unet.down_blocks.0.attentions.0.proj_in",
    ):
        out, *inner = KeyMap(base_model.model).find(path).shape
        q = torch.linalg.qr(torch.randn(out, 4, generator=generator)).Q
        layers[path] = Layer.single(q, 0.2 * torch.randn(4, *inner, generator=generator), alpha=6.0)
    adapter = QRLoRA(layers)
    flat = QRLoRA({p: Layer.single(t.q, t.delta_r.flatten(1), alpha=t.alpha) for p, t in adapter.terms()})
    expected = predict("sd15", with_stock_lora(base_model, adapter, 0.8))
    for source in (adapter, flat):
        assert (
            relative_error(predict("sd15", merged(base_model, (source, 0.8), apply=mode)), expected, base) < TOLERANCE
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_scale_zero_is_the_base_bit_for_bit(mode: str, dtype: torch.dtype) -> None:
    base_model = model("sd3", dtype, torch.float32)
    adapter = random_adapter(base_model)
    base = predict("sd3", base_model)
    assert torch.equal(predict("sd3", merged(base_model, (adapter, 0.0), (adapter, 0.0), apply=mode)), base)


@pytest.mark.parametrize("name", models(LOW_PRECISION_NAMES))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_live_on_low_precision_storage_is_the_dequantized_base_plus_the_exact_delta(
    name: str, dtype: torch.dtype
) -> None:
    stored = model(name, dtype, torch.float32)
    adapter = random_adapter(stored)
    exact = tiny_models.build(name)
    exact.model.load_state_dict({key: value.float() for key, value in stored.model.state_dict().items()})
    base = predict(name, exact)
    expected = predict(name, with_stock_lora(exact, adapter, 0.5))
    live = predict(name, merged(stored, (adapter, 0.5)))
    assert relative_error(live, expected, base) < 0.01


@pytest.mark.parametrize("name", models(LOW_PRECISION_NAMES))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_patch_on_low_precision_storage_is_what_the_stock_node_does(name: str, dtype: torch.dtype) -> None:
    """Both round to the storage alike; live, which does not, is measured in benchmarks/precision.py."""
    stored = model(name, dtype, torch.float32)
    adapter = random_adapter(stored)
    base, expected = predict(name, stored), predict(name, with_stock_lora(stored, adapter, 0.5))
    assert relative_error(predict(name, merged(stored, (adapter, 0.5), apply="patch")), expected, base) < 0.01
