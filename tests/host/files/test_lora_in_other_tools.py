"""The format lora in diffusers and PEFT, which read it themselves: equal pictures, and equal fused weights."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import FluxLoraLoaderMixin, SD3LoraLoaderMixin, StableDiffusionLoraLoaderMixin
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file

from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.qrlora_core import QRLoRA, save_adapter
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error
from ...support.diffusers_flux import host_velocity, twin_of, twin_velocity

TOLERANCE = 1e-4


@cache
def model(name: str) -> Any:
    return tiny_models.build(name)


def two_bases(name: str) -> QRLoRA:
    """A merge with two terms per layer, at scales and alphas that are not 1."""
    content, style = random_adapter(model(name), seed=1), random_adapter(model(name), seed=2, mirrored=True)
    return Merge.execute(model=model(name), adapter_1=content, scale_1=0.8, adapter_2=style, scale_2=-0.4).args[1]


@pytest.mark.parametrize("make", [lambda: random_adapter(model("flux")), lambda: two_bases("flux")])
def test_flux_in_diffusers_draws_the_same(make: Any, tmp_path: Path) -> None:
    adapter = make()
    path = save_adapter(adapter, tmp_path / "flux.safetensors", format="lora")
    twin, inputs = twin_of(model("flux")), tiny_models.sample_inputs("flux", model("flux"))
    base = twin_velocity(twin, inputs)
    state = FluxLoraLoaderMixin.lora_state_dict(path.parent, weight_name=path.name)
    twin.load_lora_adapter(state, prefix="transformer")
    expected = host_velocity(merged(model("flux"), (adapter, 1.0)), inputs)
    assert relative_error(twin_velocity(twin, inputs), expected, base) < TOLERANCE


def test_flux_in_peft_draws_the_same(tmp_path: Path) -> None:
    adapter = random_adapter(model("flux"))
    path = save_adapter(adapter, tmp_path / "flux.safetensors", format="lora")
    state = {f"base_model.model.{key.removeprefix('transformer.')}": value for key, value in load_file(path).items()}
    modules = sorted({key.removeprefix("transformer.") for key in adapter.layers})
    twin, inputs = twin_of(model("flux")), tiny_models.sample_inputs("flux", model("flux"))
    base = twin_velocity(twin, inputs)
    inject_adapter_in_model(LoraConfig(r=8, lora_alpha=8, target_modules=modules), twin)
    loaded = set_peft_model_state_dict(twin, state)
    assert not loaded.unexpected_keys
    expected = host_velocity(merged(model("flux"), (adapter, 1.0)), inputs)
    assert relative_error(twin_velocity(twin, inputs), expected, base) < TOLERANCE


def sd3_twin() -> SD3Transformer2DModel:
    """The shapes of the tiny SD3; what a LoRA adds to a weight does not depend on the weight."""
    return SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=64, num_attention_heads=2,
        joint_attention_dim=96, caption_projection_dim=128, pooled_projection_dim=2048, out_channels=16,
        pos_embed_max_size=16,
    )  # fmt: skip


def sd15_twin() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32, block_out_channels=(32, 64, 64), layers_per_block=1, cross_attention_dim=96,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip


def sdxl_twin() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32, block_out_channels=(32, 64, 64), layers_per_block=1, cross_attention_dim=96,
        attention_head_dim=8, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "make", "loader", "prefix"),
    [
        ("sd3", sd3_twin, SD3LoraLoaderMixin, "transformer"),
        ("sd15", sd15_twin, StableDiffusionLoraLoaderMixin, "unet"),
        ("sdxl", sdxl_twin, StableDiffusionLoraLoaderMixin, "unet"),
    ],
)
def test_diffusers_fuses_the_very_deltas(name: str, make: Any, loader: Any, prefix: str, tmp_path: Path) -> None:
    adapter = random_adapter(model(name))
    path = save_adapter(adapter, tmp_path / "a.safetensors", format="lora")
    with torch.inference_mode(False):
        twin = make()
    before = {key: value.clone() for key, value in twin.state_dict().items()}
    found = loader.lora_state_dict(path.parent, weight_name=path.name, unet_config=twin.config)
    state, alphas = found if isinstance(found, tuple) else (found, None)
    twin.load_lora_adapter(state, prefix=prefix, network_alphas=alphas)
    twin.fuse_lora()
    twin.unload_lora()
    after = twin.state_dict()
    for module, layer in adapter.layers.items():
        key = f"{module.removeprefix(f'{prefix}.')}.weight"
        delta = layer.delta_weight()
        assert (after[key] - before[key] - delta.reshape(after[key].shape)).norm() < 1e-4 * delta.norm(), key
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert len(changed) == len(adapter.layers)
