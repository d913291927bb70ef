"""Changes of biases and norms, live on every model: newer hosts take the weights of some norms without calling them."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch

from comfyui_qr_lora.nodes.host.apply.live_vector import can_add_vector
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA
from devtools import tiny_models

from ...support.adapters import merged, relative_error
from ...support.models import every_network

# MiniMax H3 takes these parameters off their norms itself, past the host's own function for it: nothing live is in
# between, and after sampling the adapter's report names them as layers that took no part.
TAKEN_BARE = re.compile(r"attn\.[qk]_norm\.weight$")

# Layers of a model's own, that scale their biases: such a change is refused live, by name.
OWN_LAYERS = {"wan22_animate": {"EqualLinear"}}


def random_vectors(patcher: Any, own_layers: frozenset[str] | set[str] = frozenset()) -> QRLoRA:
    """A change of every bias and of every norm's weight in the network, a fifth of their own size or so."""
    generator, layers = torch.Generator().manual_seed(0), {}
    for key, parameter in patcher.model.named_parameters():
        path, _, name = key.rpartition(".")
        if TAKEN_BARE.search(key) and type(patcher.model).__name__ == "MiniMaxH3":
            continue
        if key.startswith("diffusion_model.") and name in ("weight", "bias") and parameter.ndim == 1:
            module = patcher.model.get_submodule(path)
            assert can_add_vector(module, f".{name}") != (type(module).__name__ in own_layers), key
            if type(module).__name__ in own_layers:
                continue
            change = 0.2 * torch.randn(parameter.shape[0], 1, generator=generator)
            layers[key] = Layer.single(change / change.norm(), change.norm().reshape(1, 1))
    return QRLoRA(layers)


@every_network
def test_live_equals_patch(name: str) -> None:
    patcher = tiny_models.build(name)
    adapter = random_vectors(patcher, OWN_LAYERS.get(name, frozenset()))
    inputs = tiny_models.sample_inputs(name, patcher)
    if not adapter.layers:
        pytest.skip("this model has no biases, and none of its norms a weight of that name")
    base = tiny_models.predict(patcher, inputs)
    expected = tiny_models.predict(merged(patcher, (adapter, 1.0), apply="patch"), inputs)
    live = tiny_models.predict(merged(patcher, (adapter, 1.0)), inputs)
    assert relative_error(live, expected, base) < 1e-4
    assert torch.equal(tiny_models.predict(patcher, inputs), base)


@every_network
def test_each_norm_by_itself_acts(name: str) -> None:
    """None may be lost among the others."""
    patcher = tiny_models.build(name)
    inputs = tiny_models.sample_inputs(name, patcher)
    whole = random_vectors(patcher, OWN_LAYERS.get(name, frozenset()))
    base = tiny_models.predict(patcher, inputs)
    norms = [path for path in whole.layers if path.endswith("norm.weight") or "_norm" in path]
    if not norms:
        pytest.skip("this model has no norms with a weight of such a name")
    for path in norms[:4]:
        alone = QRLoRA({path: whole.layers[path]})
        expected = tiny_models.predict(merged(patcher, (alone, 1.0), apply="patch"), inputs)
        found = tiny_models.predict(merged(patcher, (alone, 1.0)), inputs)
        assert torch.equal(expected, base) or relative_error(found, expected, base) < 1e-3, path


@pytest.mark.parametrize("name", ["sd15", "flux", "lumina2"])
def test_a_copy_of_a_model_that_is_in_use_has_no_adapters(name: str) -> None:
    """Neither in its hooks nor in the parameters that its norms hand out."""
    patcher = tiny_models.build(name)
    inputs, adapter = tiny_models.sample_inputs(name, patcher), random_vectors(patcher)
    base, live = tiny_models.predict(patcher, inputs), merged(patcher, (adapter, 1.0))
    expected = tiny_models.predict(live, inputs)
    network = patcher.model.diffusion_model
    patcher.model.diffusion_model = copy.deepcopy(network)
    try:
        with torch.no_grad():
            found = patcher.model.apply_model(**inputs, transformer_options={}).float()
    finally:
        patcher.model.diffusion_model = network
    assert torch.equal(found, base)
    assert torch.equal(tiny_models.predict(live, inputs), expected)
    assert not torch.equal(expected, base)
