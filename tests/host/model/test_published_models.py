"""The networks that are published, with their true widths and depths on the meta device: names, shapes, counts.

A small model has two blocks of a kind; what is picked and named must hold for all of the real one's.
"""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap, Target
from comfyui_qr_lora.nodes.host.model.matching import match
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA
from comfyui_qr_lora.qrlora_core.train.targets import select
from devtools import tiny_models

from ...support.tiling import assert_tiled

COUNT_TOLERANCE = 0.03  # published numbers of parameters are rounded: "12B"
ALONE = re.compile(r"\.attention\.attn\.")  # Stable Cascade's attention: blocks of its own, without a feed-forward
NUMBERS = re.compile(r"(?<=\.)\d+(?=\.)|(?<=\.block)\d+(?=\.)")
UNPUBLISHED = {"z_image_omni"}  # the host has it, and no weights were found
NETWORKS = [
    pytest.param(
        name, network, id=network.title,
        marks=pytest.mark.skipif(bool(tiny_models.lacking(name)), reason=tiny_models.lacking(name)),
    )
    for name in tiny_models.NAMES
    for network in tiny_models.published(name)
]  # fmt: skip


@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_names_and_counts_hold_for_the_published_network(name: str, network: tiny_models.Released) -> None:
    model: Any = tiny_models.released(name, network.title)
    parameters = sum(parameter.numel() for parameter in model.diffusion_model.parameters()) / 1e9
    assert parameters == pytest.approx(network.parameters, rel=COUNT_TOLERANCE)
    for path, count in network.blocks.items():
        assert len(model.diffusion_model.get_submodule(path)) == count, path

    targets = assert_tiled(model)
    chosen = select(targets, "paper")
    assert set(select(targets, "attention")) < set(chosen) or all(map(ALONE.search, chosen))
    assert_alike_in_every_block(targets, chosen, small_kinds(name))
    assert_all_are_matched(model, targets, chosen)


def small_kinds(name: str) -> set[str]:
    """The kinds of layers that are picked in the small model, block numbers folded."""
    model = tiny_models.build(name).model
    return {kind_of(path) for path in select(KeyMap(model).linear(model), "paper")}


def kind_of(path: str) -> str:
    return NUMBERS.sub("N", path)


def assert_alike_in_every_block(targets: dict[str, Target], chosen: list[str], small: set[str]) -> None:
    """A kind of layer that is picked is picked wherever it is, and the small model has each of these kinds."""
    everywhere, picked = Counter(map(kind_of, targets)), Counter(map(kind_of, chosen))
    assert {kind: everywhere[kind] for kind in picked} == picked
    assert picked.keys() <= small


def assert_all_are_matched(model: Any, targets: dict[str, Target], chosen: list[str]) -> None:
    """x of x layers: an adapter of all picked layers finds its places."""
    layers = {path: Layer.single(torch.ones(targets[path].shape[0], 1), torch.ones(1, targets[path].shape[1]))
              for path in chosen}  # fmt: skip
    matched = match(SimpleNamespace(model=model), QRLoRA(layers))
    assert matched.missing == ()
    assert matched.targets == {path: targets[path] for path in chosen}


def test_every_model_has_a_published_network() -> None:
    assert {name for name in tiny_models.NAMES if not tiny_models.published(name)} == UNPUBLISHED
