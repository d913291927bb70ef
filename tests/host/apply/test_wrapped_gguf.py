"""Models of GGUF files: live, scheduled and patched adapters, training, files and text encoders.

The oracle is the host's own loader on the numbers that the format's library reads from the same file.
"""

from __future__ import annotations

import sys
from typing import Any

import comfy.samplers
import gguf
import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.host.model.weights import base_weight, fingerprint
from comfyui_qr_lora.nodes.load import Load
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.nodes.rebase import Rebase
from comfyui_qr_lora.nodes.save import Save
from comfyui_qr_lora.qrlora_core import QRLoRA, QRLoRAError
from comfyui_qr_lora.qrlora_core.schedule import make_curve
from devtools import tiny_models
from playground.text_encoder import weights

from ...support.adapters import merged, random_adapter, relative_error, with_stock_lora
from ...support.gguf_models import (
    every_form,
    every_pack,
    gguf_model,
    gguf_text_encoder,
    packed_weights,
    unpacked_model,
    unpacked_text_encoder,
)
from ...support.sampling import STEPS, conditioning, sample
from ...support.training_task import train

NAMES = ["sd3", "flux", "wan"]
TOLERANCE = 1e-3  # relative to the adapter's effect
every_model = pytest.mark.parametrize("name", NAMES)


def predict(name: str, patcher: Any) -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher, batch=2))


@every_pack
@every_form
@every_model
def test_weights_are_read_as_the_numbers_that_they_hold(name: str, form: str, pack: str) -> None:
    model, oracle = gguf_model(pack, name, form), unpacked_model(name, form)
    assert torch.equal(predict(name, model), predict(name, oracle))
    assert len(packed_weights(model.model)) > 20
    targets, expected = KeyMap(model.model).linear(model.model), KeyMap(oracle.model).linear(oracle.model)
    assert targets == expected
    for target in targets.values():
        weight = base_weight(model, target)
        assert type(weight) is Tensor
        assert torch.equal(weight, base_weight(oracle, target))
    assert fingerprint(model, targets) == fingerprint(model, targets)
    assert fingerprint(model, targets) != fingerprint(oracle, targets)


@every_pack
@every_form
@every_model
@pytest.mark.parametrize("apply", ["live", "patch"])
def test_adapters_act_as_on_the_unpacked_model(name: str, form: str, pack: str, apply: str) -> None:
    model, oracle = gguf_model(pack, name, form), unpacked_model(name, form)
    adapter, other = random_adapter(oracle, seed=1), random_adapter(oracle, seed=2)
    base, before = predict(name, oracle), packed_weights(model.model)
    expected = predict(name, with_stock_lora(with_stock_lora(oracle, adapter, 0.7), other, -0.4))
    report = Merge.execute(model=model, adapter_1=adapter, scale_1=0.7, adapter_2=other, scale_2=-0.4, apply=apply)
    assert relative_error(predict(name, report.args[0]), expected, base) < TOLERANCE
    beside = merged(with_stock_lora(model, adapter, 0.7), (other, -0.4), apply=apply)
    assert relative_error(predict(name, beside), expected, base) < TOLERANCE
    assert torch.equal(predict(name, model), base)
    after = packed_weights(model.model)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@every_pack
@every_form
def test_a_schedule_equals_switching_models_by_hand(form: str, pack: str) -> None:
    model, oracle = gguf_model(pack, "sd3", form), unpacked_model("sd3", form)
    adapter, base = random_adapter(oracle, seed=1), sample(oracle)
    patched = with_stock_lora(oracle, adapter, 1.0)
    sampling = oracle.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)
    split = sum(float(sigma) > sampling.percent_to_sigma(0.5) for sigma in sigmas[:-1])
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))

    def part(patcher: Any, latent: Tensor, start: int, stop: int) -> Tensor:
        return comfy.sample.sample(
            patcher, noise if start == 0 else torch.zeros_like(noise), STEPS, 3.0, "euler", "simple", conditioning(1),
            conditioning(2), latent, disable_noise=start > 0, start_step=start, last_step=stop,
            force_full_denoise=stop == STEPS, disable_pbar=True, seed=0,
        )  # fmt: skip

    expected = part(oracle, part(patched, torch.zeros_like(noise), 0, split), split, STEPS)
    scheduled = sample(merged(model, (adapter, 1.0), schedule_1=make_curve("constant", 0.0, 0.5)))
    assert 0 < split < STEPS
    assert relative_error(scheduled, expected, base) < TOLERANCE


@every_pack
def test_a_clone_by_another_node_stays_live_and_gives_no_weights_away(pack: str) -> None:
    """Packs that clone to a class of their own would drop what the class of a live patcher refuses."""
    model = gguf_model(pack, "sd3", "Q8_0")
    adapter = random_adapter(unpacked_model("sd3", "Q8_0"), seed=1)
    live = merged(model, (adapter, 1.0))
    expected, clone = sample(live), live.clone().clone()
    assert torch.equal(sample(clone), expected)
    with pytest.raises(QRLoRAError, match="Set apply to patch"):
        clone.get_key_patches("diffusion_model.")


@every_pack
@every_form
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_is_that_of_the_unpacked_model(form: str, pack: str, checkpointing: bool) -> None:
    model, oracle = gguf_model(pack, "sd3", form), unpacked_model("sd3", form)
    latent, caption = tiny_models.example("sd3", oracle)
    before = packed_weights(model.model)
    found, expected = (
        train(patcher, [latent], [caption], steps=8, gradient_checkpointing=checkpointing)
        for patcher in (model, oracle)
    )
    assert found.losses == pytest.approx(expected.losses, rel=1e-3)
    base, applied = predict("sd3", oracle), predict("sd3", merged(oracle, (expected.adapter, 1.0), apply="patch"))
    assert relative_error(predict("sd3", merged(model, (found.adapter, 1.0))), applied, base) < TOLERANCE
    after = packed_weights(model.model)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@every_pack
def test_every_kind_of_file_and_another_base_work(pack: str) -> None:
    model = gguf_model(pack, "sd3", "Q8_0")
    latent, caption = tiny_models.example("sd3", model)
    adapter = train(model, [latent], [caption], steps=4).adapter
    base, expected = predict("sd3", model), predict("sd3", merged(model, (adapter, 1.0)))
    for format in ("full", "compact", "lora"):
        name = Save.execute(adapter, f"gguf/{format}", format=format, dtype="float32").args[0]
        loaded = Load.execute(name, model=model).args[0]
        assert relative_error(predict("sd3", merged(model, (loaded, 1.0))), expected, base) < TOLERANCE
    assert "another base" not in _report(model, adapter)
    assert "Q^T W has moved by" in _report(gguf_model(pack, "sd3", "Q4_0"), adapter)
    rebased = Rebase.execute(adapter, gguf_model(pack, "sd3", "Q4_0"), rank=16, min_energy=0.0).args[0]
    assert rebased.layers.keys() == adapter.layers.keys()


def _report(model: Any, adapter: QRLoRA) -> str:
    return Merge.execute(model=model, adapter_1=adapter).args[2]


def test_without_the_package_that_reads_them_weights_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gguf_model("stand-in", "sd3", "Q8_0")
    adapter = random_adapter(unpacked_model("sd3", "Q8_0"), seed=3)
    target = next(iter(KeyMap(model.model).linear(model.model).values()))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "gguf", None)
        with pytest.raises(QRLoRAError, match="needs the Python package gguf"):
            base_weight(model, target)
        assert "cannot be told" in _report(model, adapter)
    assert base_weight(model, target).shape == target.shape
    assert isinstance(model.model.get_parameter(target.key).tensor_type, gguf.GGMLQuantizationType)


@pytest.mark.slow
@every_pack
def test_adapters_act_on_a_text_encoder(pack: str) -> None:
    state = {key: value.float() for key, value in weights().items()}
    clip, oracle = gguf_text_encoder(pack, "Q4_0", state), unpacked_text_encoder("Q4_0", state)
    adapter = random_adapter(oracle.patcher, seed=1, targets="*encoder.layers.0.*, *encoder.layers.7.*")
    assert len(adapter.layers) == 12
    base, expected = encode(oracle), encode(merged_clip(oracle, adapter, "patch"))
    assert torch.equal(encode(clip), base)
    for apply in ("live", "patch"):
        assert relative_error(encode(merged_clip(clip, adapter, apply)), expected, base) < TOLERANCE
        assert torch.equal(encode(clip), base)


def merged_clip(clip: Any, adapter: QRLoRA, apply: str) -> Any:
    model = unpacked_model("sd3", "Q8_0")
    return Merge.execute(model=model, clip=clip, adapter_1=adapter, scale_1=0.6, apply=apply).args[3]


def encode(clip: Any) -> Tensor:
    return clip.encode_from_tokens(clip.tokenize("a red square beside a blue circle"))
