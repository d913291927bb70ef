"""A network that keeps what it made of its prompt, for later calls: none of it survives a step of a training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comfyui_qr_lora.nodes.host.model.kept import nothing_kept
from devtools import tiny_models

from ...support.models import models
from ...support.training_task import assert_same, train


class Keeping(torch.nn.Module):
    """Answers every call like the first one, until it is told to forget."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = None

    def clear_kv_cache(self) -> None:
        self.kept = None

    def forward(self, x: Any) -> Any:
        self.kept = x if self.kept is None else self.kept
        return self.kept


def test_every_call_within_begins_with_nothing_and_nothing_is_left() -> None:
    model: Any = torch.nn.ModuleDict({"diffusion_model": Keeping()})
    network = model.diffusion_model = model["diffusion_model"]
    assert [network(1), network(2)] == [1, 1]
    with nothing_kept(model):
        assert [network(3), network(4)] == [3, 4]
    assert network.kept is None
    assert [network(5), network(6)] == [5, 5]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", models(["hidream_o1"]))
def test_a_training_is_that_of_a_network_that_keeps_nothing(name: str, checkpointing: bool) -> None:
    results = []
    for keeps in (True, False):
        patcher = tiny_models.build(name)
        if not keeps:  # the host keeps nothing where a node replaces blocks
            patcher.set_model_patch_replace(None, "dit", "no such block", 0)
        latent, caption = tiny_models.example(name, patcher)
        results.append(train(patcher, [latent], [caption], steps=3, gradient_checkpointing=checkpointing))
        assert not patcher.model.diffusion_model._kv_cache_entries
    assert results[0].losses == results[1].losses
    assert_same(results[0].adapter, results[1].adapter)
