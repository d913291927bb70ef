"""Merges with text encoders, saved as ordinary LoRAs: what the stock loader, diffusers and PEFT make of the files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import comfy.lora
import folder_paths
import pytest
import torch
from diffusers.loaders import (
    FluxLoraLoaderMixin,
    SD3LoraLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
)
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    LlamaConfig,
    LlamaModel,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

import nodes as host_nodes
from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA, load_adapter, save_adapter
from devtools import tiny_models

from ...support import text_encoders
from ...support.adapters import random_adapter, relative_error
from ...support.text_encoders import encode

TOLERANCE = 1e-4
SCALES, CLIP_SCALE = (0.8, -0.4), 0.7
# A model, and text encoders that stand for its own.
PAIRS = {
    "sd15": text_encoders.clip_l, "sdxl": text_encoders.sdxl, "sd3": text_encoders.sd3, "flux": text_encoders.flux,
    "sdxl_refiner": text_encoders.refiner, "hunyuan_video": text_encoders.hunyuan_video, "z_image": text_encoders.qwen3,
}  # fmt: skip
every_pair = pytest.mark.parametrize("name", PAIRS)


@cache
def model(name: str) -> Any:
    return tiny_models.build(name)


def vectors(patcher: Any, seed: int) -> dict[str, Layer]:
    """Changes of biases and of weights of norms."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for key, value in patcher.model.named_parameters():
        if value.ndim == 1 and "layers.0" in key and key.endswith((".bias", ".weight")):
            change = torch.randn(value.shape[0], 1, generator=generator)
            layers[key] = Layer.single(change / change.norm(), change.norm().reshape(1, 1), alpha=1.0)
    return {path: Layer(layer.terms, is_vector=True) for path, layer in layers.items()}


def source(name: str, seed: int) -> QRLoRA:
    """An adapter on all linear layers of a model and of its text encoders, with vectors of these."""
    clip = PAIRS[name]().patcher
    of_text = random_adapter(clip, seed=seed, targets="all-linear").layers | vectors(clip, seed)
    return QRLoRA({**random_adapter(model(name), seed=seed).layers, **of_text}, name=f"source {seed}")


def dense(patcher: Any, adapter: QRLoRA) -> dict[str, Tensor]:
    """Each weight's whole change in float64, by the host's key."""
    key_map, weights = KeyMap(patcher.model), dict(patcher.model.named_parameters())
    changes: dict[str, Tensor] = {}
    for path, layer in adapter.layers.items():
        if target := key_map.find(path):
            change = changes.setdefault(target.key, torch.zeros(weights[target.key].shape, dtype=torch.float64))
            rows = change if target.rows is None else change.narrow(0, *target.rows)
            for term in layer.terms:
                product = term.alpha / term.rank * term.q.double() @ term.delta_r.double().flatten(1)
                rows += product.reshape(rows.shape)
    return changes


def added(first: Mapping[str, Tensor], second: Mapping[str, Tensor], scales: tuple[float, float]) -> dict[str, Tensor]:
    return {key: scales[0] * first[key] + scales[1] * second[key] for key in first}


def stock(name: str, clip: Any, path: Path) -> tuple[Any, Any]:
    """Model and text encoders through the stock node."""
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}_{path.parent.name}_{path.name}"
    file.write_bytes(path.read_bytes())
    return host_nodes.LoraLoader().load_lora(model(name), clip, file.name, 1.0, 1.0)


def changes_of(patcher: Any) -> dict[str, Tensor]:
    """What the host's patches add to each weight."""
    weights = dict(patcher.model.named_parameters())
    return {
        key: comfy.lora.calculate_weight(patches, torch.zeros(weights[key].shape), key).double()
        for key, patches in patcher.patches.items()
    }


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, change in expected.items():
        assert (found[key].reshape(change.shape) - change).norm() < TOLERANCE * change.norm(), key


def merged(name: str, clip: Any, **more: Any) -> tuple[Any, ...]:
    first, second = source(name, 1), source(name, 2)
    return Merge.execute(
        model=model(name), clip=clip, adapter_1=first, scale_1=SCALES[0], adapter_2=second, scale_2=SCALES[1],
        clip_scale=CLIP_SCALE, **more,
    ).args  # fmt: skip


def expected_text(name: str) -> dict[str, Tensor]:
    clip = PAIRS[name]().patcher
    first, second = (dense(clip, source(name, seed)) for seed in (1, 2))
    return added(first, second, (SCALES[0] * CLIP_SCALE, SCALES[1] * CLIP_SCALE))


@every_pair
@pytest.mark.parametrize("is_connected", [True, False])
def test_a_saved_merge_in_the_stock_loader(name: str, is_connected: bool, tmp_path: Path) -> None:
    """Also where no text encoder was connected: their layers are in it at the scales that they would have had."""
    clip = PAIRS[name]()
    _, adapter, _, previewed = merged(name, clip if is_connected else None)
    path = save_adapter(adapter, tmp_path / "merge.safetensors", format="lora")
    patched, patched_clip = stock(name, clip, path)
    first, second = (dense(model(name), source(name, seed)) for seed in (1, 2))
    assert_equal(changes_of(patched), added(first, second, SCALES))
    assert_equal(changes_of(patched_clip.patcher), expected_text(name))
    if is_connected and name != "sd3":  # whose T5 the host puts beside CLIP at its true width alone
        base = encode(clip)
        assert relative_error(encode(patched_clip), encode(previewed), base) < TOLERANCE


@every_pair
@pytest.mark.parametrize("format", ["lora", "full"])
def test_an_adapter_that_was_never_merged(name: str, format: str, tmp_path: Path) -> None:
    """Under the host's own names, as former files have them; loaded again, it is the same adapter to a merge."""
    clip, adapter = PAIRS[name](), source(name, 1)
    whole = dense(model(name), adapter), dense(clip.patcher, adapter)
    once = load_adapter(save_adapter(adapter, tmp_path / "once.safetensors", format=format))
    path = save_adapter(once, tmp_path / "twice.safetensors", format="lora")
    for found, expected in zip(stock(name, clip, path), whole, strict=True):
        assert_equal(changes_of(getattr(found, "patcher", found)), expected)
    applied = Merge.execute(model=model(name), clip=clip, adapter_1=load_adapter(path), apply="patch").args
    for found, expected in zip((applied[0], applied[3].patcher), whole, strict=True):
        assert_equal(changes_of(found), expected)


@every_pair
def test_names_of_every_trainer_stay_readable(name: str, tmp_path: Path) -> None:
    """Each name that the host lists for a matrix of a text encoder, loaded and saved beside layers of the model."""
    clip = PAIRS[name]()
    listed = comfy.lora.model_lora_keys_clip(clip.patcher.model, {})
    bare = random_adapter(clip.patcher, targets="all-linear")
    named = {f"{path}.weight": layer for path, layer in bare.layers.items()}
    prefixes = sorted({path.partition("_text_model")[0].partition(".")[0].partition("_encoder_")[0] for path in listed})
    for number, prefix in enumerate(prefixes):
        of_text = {own: named[key] for own, key in listed.items() if own.startswith(prefix) and key in named}
        once = {key: own for own, key in listed.items() if own in of_text}  # one name for each weight
        of_text = {own: of_text[own] for own in once.values()}
        if not of_text:
            continue
        adapter = QRLoRA({**random_adapter(model(name)).layers, **of_text})
        path = save_adapter(adapter, tmp_path / f"{number}.safetensors", format="lora")
        found, found_clip = stock(name, clip, path)
        assert_equal(changes_of(found), dense(model(name), adapter))
        assert_equal(changes_of(found_clip.patcher), dense(clip.patcher, adapter))


def clip_twin(encoder: str, layers: int = 3) -> Any:
    width = {"clip_l": 64, "clip_g": 96}[encoder]
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=2 * width, num_attention_heads=4, num_hidden_layers=layers,
        projection_dim=width,
    )  # fmt: skip
    return (CLIPTextModel if encoder == "clip_l" else CLIPTextModelWithProjection)(config)


def of_peft(network: torch.nn.Module) -> dict[str, Tensor]:
    """What PEFT's layers add, by the names of the weights."""
    return {
        name: module.get_delta_weight(next(iter(module.lora_A))).double()
        for name, module in network.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def matrices(encoder: str, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The changes of one encoder's matrices, by the names that transformers has."""
    start = f"{encoder}.transformer."
    return {
        key.removeprefix(start).removesuffix(".weight").removeprefix("text_model."): change
        for key, change in changes.items()
        if key.startswith(start) and change.ndim == 2
    }


IN_DIFFUSERS = {
    "sd15": (StableDiffusionLoraLoaderMixin, {"text_encoder": "clip_l"}),
    "sdxl": (StableDiffusionXLLoraLoaderMixin, {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}),
    "sd3": (SD3LoraLoaderMixin, {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}),
    "flux": (FluxLoraLoaderMixin, {"text_encoder": "clip_l"}),
}


def without_vectors(adapter: QRLoRA) -> QRLoRA:
    """diffusers refuses a file with a change of a bias, or of a norm."""
    return QRLoRA({path: layer for path, layer in adapter.layers.items() if not layer.is_vector})


@pytest.mark.parametrize("is_connected", [True, False])
@pytest.mark.parametrize("name", IN_DIFFUSERS)
def test_a_saved_merge_in_diffusers(name: str, is_connected: bool, tmp_path: Path) -> None:
    clip = PAIRS[name]()
    adapter = without_vectors(merged(name, clip if is_connected else None)[1])
    path = save_adapter(adapter, tmp_path / "merge.safetensors", format="lora")
    loader, encoders = IN_DIFFUSERS[name]
    state = loader.lora_state_dict(path.parent, weight_name=path.name)
    state, alphas = state if isinstance(state, tuple) else (state, None)
    of_network = sum(not key.startswith("text_encoder") for key in state) // 2
    assert of_network == len(random_adapter(model(name)).layers)
    for prefix, encoder in encoders.items():
        with torch.inference_mode(False):
            twin = clip_twin(encoder, 2 if name == "sd15" else 3)
        loader.load_lora_into_text_encoder(state, alphas, text_encoder=twin, prefix=prefix)
        found = {key.removeprefix("text_model."): change for key, change in of_peft(twin).items()}
        expected = matrices(encoder, expected_text(name))
        if (name, encoder) != ("sdxl", "clip_g"):  # elsewhere both readers know no name for it
            del expected["text_projection"]
        assert_equal(found, expected)


def t5_twin() -> Any:
    return T5EncoderModel(
        T5Config(d_model=64, d_ff=128, d_kv=16, num_heads=4, num_layers=2, feed_forward_proj="gated-gelu")
    )


def llama_twin(kind: Any, config: Any, layers: int, head: int) -> Any:
    return kind(
        config(
            vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=2,
            num_key_value_heads=1, head_dim=head,
        )
    )  # fmt: skip


IN_PEFT = {
    "flux": ("t5xxl", "", t5_twin),
    "sd3": ("t5xxl", "", t5_twin),
    "hunyuan_video": ("llama", "model.", lambda: llama_twin(LlamaModel, LlamaConfig, 4, 128)),
    "z_image": ("qwen3_4b", "model.", lambda: llama_twin(Qwen3Model, Qwen3Config, 3, 128)),
}


@pytest.mark.parametrize("name", IN_PEFT)
def test_a_saved_merge_in_peft(name: str, tmp_path: Path) -> None:
    """The names after the encoder's are those of transformers."""
    path = save_adapter(merged(name, PAIRS[name]())[1], tmp_path / "merge.safetensors", format="lora")
    encoder, inner, make = IN_PEFT[name]
    start = f"text_encoders.{encoder}.transformer.{inner}"
    tensors = load_file(path)
    state = {
        f"base_model.model.{key.removeprefix(start)}": tensor
        for key, tensor in tensors.items()
        if key.startswith(start) and ".lora_" in key
    }
    expected = {key.removeprefix(inner): change for key, change in matrices(encoder, expected_text(name)).items()}
    ranks = {key.split("base_model.model.")[1]: tensor.shape[0] for key, tensor in state.items() if "lora_A" in key}
    ranks = {key.removesuffix(".lora_A.weight"): rank for key, rank in ranks.items()}
    with torch.inference_mode(False):
        twin = make()
    config = LoraConfig(target_modules=sorted(expected), rank_pattern=ranks, alpha_pattern=ranks)
    inject_adapter_in_model(config, twin)
    assert not set_peft_model_state_dict(twin, state).unexpected_keys
    assert_equal(of_peft(twin), expected)
