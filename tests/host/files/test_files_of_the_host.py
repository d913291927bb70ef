"""Files of the host's own trainer and extractor: every weight, norm and bias of every model is where the host has it.

Other tests train with the host's nodes and compare pictures; here its adapters get random numbers and every key counts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.weight_adapter
import comfy_extras.nodes_lora_extract as extractor
import comfy_extras.nodes_model_merging as merging
import torch
from safetensors.torch import save_file
from torch import Tensor

from comfyui_qr_lora.nodes.host.files.load import load
from comfyui_qr_lora.nodes.host.model.host_types import Patcher
from comfyui_qr_lora.nodes.host.model.matching import Match, match
from devtools import tiny_models

from ...support.models import every_network

NETWORK = "diffusion_model."
TOLERANCE = 1e-6  # relative to what a layer adds


@every_network
def test_what_the_trainer_writes(name: str, tmp_path: Path) -> None:
    patcher = tiny_models.build(name)
    compare(patcher, trained(patcher), tmp_path / "trained.safetensors")


@every_network
def test_what_the_extractor_writes(name: str, tmp_path: Path) -> None:
    patcher, other = tiny_models.build(name), tiny_models.build(name, seed=1)
    difference = merging.ModelSubtract().merge(other, patcher, 1.0)[0]
    state: dict[str, Tensor] = {}
    extractor.calc_lora_model(difference, 2, NETWORK, NETWORK, state, extractor.LORAType.STANDARD, bias_diff=True)
    compare(patcher, state, tmp_path / "extracted.safetensors")


def trained(patcher: Patcher) -> dict[str, Tensor]:
    """As Train LoRA names what its adapters hold, with numbers at random."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, module in patcher.model.named_modules():
        if not hasattr(module, "weight_function"):
            continue
        if module.weight is not None and module.weight.ndim >= 2:
            adapter = comfy.weight_adapter.LoRAAdapter.create_train(module.weight, rank=2, alpha=1.0)
            state |= {f"{name}.{key}": value.detach() for key, value in adapter.named_parameters()}
        elif module.weight is not None:
            state[f"{name}.diff"] = torch.empty_like(module.weight)
        if getattr(module, "bias", None) is not None:
            state[f"{name}.diff_b"] = torch.empty_like(module.bias)
    return {
        key: value if key.endswith(".alpha") else torch.randn(value.shape, generator=generator)
        for key, value in state.items()
    }


def compare(patcher: Patcher, state: dict[str, Tensor], file: Path) -> None:
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    names = comfy.lora.model_lora_keys_unet(patcher.model, {})
    expected = dict(by_stock(patcher, comfy.lora.load_lora(dict(state), names, log_missing=False)))
    matched = match(patcher, load(file))
    # What the host's own loader does not place either (biases of a model's own layers) is left out, and named.
    assert not {*matched.missing} & expected.keys()
    assert matched.targets.keys() == matched.adapter.layers.keys()
    found = {matched.targets[layer].key: delta for layer, delta in ours(patcher, matched)}
    assert found.keys() == expected.keys()
    errors = {key: float((found[key] - expected[key]).norm() / expected[key].norm()) for key in found}
    assert {key: error for key, error in errors.items() if not error <= TOLERANCE} == {}


def by_stock(patcher: Patcher, patches: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for key, patch in patches.items():
        nothing = torch.zeros(patcher.model.get_parameter(key).shape, dtype=torch.float64)
        yield key, comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], nothing, key, torch.float64)


def ours(patcher: Patcher, matched: Match) -> Iterator[tuple[str, Tensor]]:
    for name, layer in matched.adapter.layers.items():
        shape = patcher.model.get_parameter(matched.targets[name].key).shape
        deltas = [term.scaling * term.q.double() @ term.delta_r.double().flatten(1) for term in layer.terms]
        yield name, sum(deltas).reshape(shape)
