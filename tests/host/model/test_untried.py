"""A model of a kind that nothing here knows: it loads, merges and trains by the host's own rules, and that is said."""

from __future__ import annotations

from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.supported_models_base
import pytest
import torch
from torch import Tensor, nn

from comfyui_qr_lora.nodes.host.files.folders import register_folders
from comfyui_qr_lora.nodes.host.train.report import describe_training
from comfyui_qr_lora.nodes.load import Load
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.nodes.save import Save
from comfyui_qr_lora.qrlora_core import TargetError
from devtools import tiny_models
from generators import support

from ...support.adapters import merged, random_adapter, relative_error, with_stock_lora
from ...support.training_task import assert_unchanged, caption, latent, snapshot, train

NOTE = "never tried with a model of the kind Toy"
register_folders()


class Block(nn.Module):
    def __init__(self, width: int, names: tuple[str, str], **how: Any) -> None:
        super().__init__()
        operations = how.pop("operations")
        self.names = names
        for name in names:
            self.add_module(name, operations.Linear(width, width, **how))

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.get_submodule(name) for name in self.names)
        return x + second(torch.nn.functional.silu(first(x)))


class ToyNetwork(nn.Module):
    """Pixels and the mean of the text through a few blocks."""

    def __init__(self, in_channels: int, names: tuple[str, str], **how: Any) -> None:
        super().__init__()
        how = {name: how.get(name) for name in ("dtype", "device", "operations")}
        operations = how["operations"]
        plain = {name: how[name] for name in ("dtype", "device")}
        self.dtype = how["dtype"]
        self.enter = operations.Linear(in_channels, 64, **plain)
        self.text = operations.Linear(96, 64, **plain)
        self.blocks = nn.ModuleList(Block(64, names, **how) for _ in range(3))
        self.leave = operations.Linear(64, in_channels, **plain)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, **rest: Any) -> Tensor:
        x = self.enter(x.movedim(1, -1)) + self.text(context.mean(dim=1))[:, None, None]
        for block in self.blocks:
            x = block(x)
        return self.leave(x).movedim(-1, 1)


class Toy(comfy.supported_models_base.BASE):
    """As a pack of other people adds a model to the host."""

    unet_config: ClassVar = {"image_model": "toy"}
    latent_format = comfy.latent_formats.SD3

    def get_model(self, state: Any, prefix: str = "", device: Any = None) -> Any:
        return comfy.model_base.BaseModel(self, comfy.model_base.ModelType.FLOW, device=device, unet_model=ToyNetwork)


def toy(names: tuple[str, str]) -> Any:
    config = Toy({"image_model": "toy", "in_channels": 16, "names": names})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.diffusion_model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


@pytest.fixture
def model() -> Any:
    return toy(("attn_q", "mlp"))


def predict(patcher: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "x": torch.randn(1, 16, 8, 8, generator=generator), "t": torch.tensor([0.5]),
        "c_crossattn": torch.randn(1, 12, 96, generator=generator),
    }  # fmt: skip
    return tiny_models.predict(patcher, inputs)


def test_it_merges_as_in_the_stock_loader_and_the_report_says_that_it_is_untried(model: Any) -> None:
    adapter, base = random_adapter(model, targets="all-linear"), predict(model)
    expected = predict(with_stock_lora(model, adapter, 0.7))
    for apply in ("live", "patch"):
        assert relative_error(predict(merged(model, (adapter, 0.7), apply=apply)), expected, base) < 1e-4
    report = Merge.execute(model=model, adapter_1=adapter).args[2]
    assert NOTE in report
    assert f"{len(adapter.layers)} of {len(adapter.layers)} layers" in report
    assert NOTE not in Merge.execute(model=model).args[2]


@pytest.mark.parametrize("kind", ["full", "compact", "lora"])
def test_it_trains_and_what_is_saved_acts_alike(model: Any, kind: str) -> None:
    before, base = snapshot(model), predict(model)
    result = train(model, [latent(0)], [caption(0)], targets="all-linear", steps=3)
    assert_unchanged(model, before)
    assert NOTE in describe_training(result)
    expected = predict(merged(model, (result.adapter, 1.0)))
    assert (expected - base).norm() > 0
    loaded = Load.execute(Save.execute(result.adapter, f"untried/{kind}", format=kind).args[0]).args[0]
    error = relative_error(predict(merged(model, (loaded, 1.0))), expected, base)
    assert error < (1e-3 if kind == "compact" else 1e-4)


def test_where_the_presets_know_no_name_the_message_lists_what_there_is(model: Any) -> None:
    with pytest.raises(TargetError, match=r"no layer of this model matches.*blocks\.N\.attn_q \(3\)"):
        train(model, targets="paper")


def test_a_model_of_the_table_is_not_called_untried() -> None:
    record = support.recorded()
    known = {answers["class"] for models in record.values() for answers in models.values()}
    assert {tiny_models.config_of(name) for name in tiny_models.NAMES} <= known
    sd3 = tiny_models.build("sd3")
    assert "never tried" not in Merge.execute(model=sd3, adapter_1=random_adapter(sd3)).args[2]
