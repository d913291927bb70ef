"""Live, patch and stock LoRA nodes given the same deltas agree on every architecture.

With one adapter, and live over float8: test_every_model, on each as well.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error, with_stock_lora
from ...support.models import NETWORKS, every_network, models

TOLERANCE = 1e-4  # relative to the adapter's effect
MODES = ("live", "patch")
# The last of those that are left out computes its decoder in the dtype of the weights, whatever the compute dtype is.
LOW_PRECISION_NAMES = sorted({*NETWORKS} - {"sd35", "cosmos", "cosmos_predict2", "hunyuan_video", "z_image_pixel"})


@cache
def model(name: str, dtype: torch.dtype = torch.float32, compute: torch.dtype | None = None) -> Any:
    return tiny_models.build(name, dtype=dtype, compute_dtype=compute)


@cache
def adapter(name: str, dtype: torch.dtype = torch.float32, compute: torch.dtype | None = None, **how: Any) -> QRLoRA:
    """Of a model's own bases, which cost most of the time here."""
    return random_adapter(model(name, dtype, compute), **how)


def predict(name: str, patcher: Any) -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher, batch=2))


@every_network
def test_two_adapters_equal_stock_nodes(name: str) -> None:
    base_model = model(name)
    base = predict(name, base_model)
    first, second = (adapter(name, seed=seed) for seed in (1, 2))
    expected = predict(name, with_stock_lora(with_stock_lora(base_model, first, 0.7), second, -0.4))
    assert (expected - base).norm() > 1e-3 * base.norm()
    for mode in MODES:
        found = predict(name, merged(base_model, (first, 0.7), (second, -0.4), apply=mode))
        assert relative_error(found, expected, base) < TOLERANCE, mode


@pytest.mark.parametrize("name", ["sd3", "flux", "sdxl"])
def test_different_bases_are_added_side_by_side(name: str) -> None:
    base_model = model(name)
    base = predict(name, base_model)
    first, second = adapter(name, seed=1), adapter(name, seed=2, mirrored=True)
    expected = predict(name, with_stock_lora(with_stock_lora(base_model, first, 0.7), second, 0.9))
    for mode in MODES:
        found = predict(name, merged(base_model, (first, 0.7), (second, 0.9), apply=mode))
        assert relative_error(found, expected, base) < TOLERANCE, mode


@pytest.mark.parametrize("name", ["sd15", "sdxl", "flux"])
def test_all_linear_layers(name: str) -> None:
    base_model = model(name)
    base = predict(name, base_model)
    whole = adapter(name, targets="all-linear", size=0.1)
    expected = predict(name, with_stock_lora(base_model, whole, 1.0))
    for mode in MODES:
        found = predict(name, merged(base_model, (whole, 1.0), apply=mode))
        assert relative_error(found, expected, base) < TOLERANCE, mode


@pytest.mark.parametrize("shift", [-24, 24])
def test_in_float16_the_product_of_the_factors_counts_and_not_their_sizes(shift: int) -> None:
    """An ordinary LoRA may have factors that float16 cannot hold, of a product that it can."""
    half = model("flux", torch.float16, torch.float16)
    usual = adapter("flux", torch.float16, torch.float16)
    layers = {
        path: Layer(tuple(replace(term, q=term.q * 2.0**shift, delta_r=term.delta_r * 2.0**-shift, base_r=None)
                          for term in layer.terms))
        for path, layer in usual.layers.items()
    }  # fmt: skip
    expected = predict("flux", merged(half, (usual, 0.7)))
    assert torch.equal(predict("flux", merged(half, (QRLoRA(layers), 0.7))), expected)
    assert not torch.equal(expected, predict("flux", half))


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
    kernels = QRLoRA(layers)
    flat = QRLoRA({p: Layer.single(t.q, t.delta_r.flatten(1), alpha=t.alpha) for p, t in kernels.terms()})
    expected = predict("sd15", with_stock_lora(base_model, kernels, 0.8))
    for source in (kernels, flat):
        assert (
            relative_error(predict("sd15", merged(base_model, (source, 0.8), apply=mode)), expected, base) < TOLERANCE
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_scale_zero_is_the_base_bit_for_bit(mode: str, dtype: torch.dtype) -> None:
    base_model, own = model("sd3", dtype, torch.float32), adapter("sd3", dtype, torch.float32)
    base = predict("sd3", base_model)
    assert torch.equal(predict("sd3", merged(base_model, (own, 0.0), (own, 0.0), apply=mode)), base)


@pytest.mark.parametrize("name", models(LOW_PRECISION_NAMES))
def test_live_on_bfloat16_storage_is_the_stored_base_plus_the_exact_delta(name: str) -> None:
    stored = model(name, torch.bfloat16, torch.float32)
    own = adapter(name, torch.bfloat16, torch.float32)
    exact = tiny_models.build(name)
    exact.model.load_state_dict({key: value.float() for key, value in stored.model.state_dict().items()})
    base = predict(name, exact)
    expected = predict(name, with_stock_lora(exact, own, 0.5))
    live = predict(name, merged(stored, (own, 0.5)))
    assert relative_error(live, expected, base) < TOLERANCE


@pytest.mark.parametrize("name", models(LOW_PRECISION_NAMES))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_patch_on_low_precision_storage_is_what_the_stock_node_does(name: str, dtype: torch.dtype) -> None:
    """Both round to the storage alike; live, which does not, is measured in benchmarks/precision.py."""
    stored, own = model(name, dtype, torch.float32), adapter(name, dtype, torch.float32)
    base, expected = predict(name, stored), predict(name, with_stock_lora(stored, own, 0.5))
    assert relative_error(predict(name, merged(stored, (own, 0.5), apply="patch")), expected, base) < TOLERANCE
