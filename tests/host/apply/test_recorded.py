"""What newer hosts record of the network's forward stays right: fixed buffers, one pattern, nothing left behind.

They replay the allocations of a forward, and capture blocks as CUDA graphs in which no Python runs. Neither can run
on a CPU; what both rely on is counted here, over a sampling in which two schedules change at every step.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from comfyui_qr_lora.qrlora_core import QRLoRA
from comfyui_qr_lora.qrlora_core.schedule import make_curve
from devtools import tiny_models

from ...support.adapters import merged, random_adapter
from ...support.kind_files import small_model
from ...support.sampling import sample

STEPS = 20
CURVES = {"schedule_1": make_curve("constant", 0.3, 0.8), "schedule_2": make_curve("ramp up")}


class Operators(TorchDispatchMode):
    """Notes every operator by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by PyTorch for each."""
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Recorded:
    """Of every forward of a sampling: its operators, and how many tensors it left alive."""

    def __init__(self, patcher: Any) -> None:
        self.operators: list[list[str]] = []
        self.left: list[int] = []
        self.places: list[list[int]] = []
        with self._watching(patcher):
            self.latent = sample(patcher, steps=STEPS)

    @contextmanager
    def _watching(self, patcher: Any) -> Iterator[None]:
        network, mode = patcher.model.diffusion_model, Operators()

        def before(*_: Any) -> None:
            self.places.append(buffers(patcher))
            self.left.append(-alive())
            mode.names = []
            mode.__enter__()

        def after(*_: Any) -> None:
            mode.__exit__(None, None, None)
            self.operators.append(mode.names)
            self.left[-1] += alive()

        handles = [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def alive() -> int:
    """Tensors that Python knows."""
    gc.collect()
    return sum(issubclass(type(item), Tensor) for item in gc.get_objects())


def buffers(patcher: Any) -> list[int]:
    """Addresses of all that the host loads beside the model."""
    return [own.data_ptr() for held in patcher.get_nested_additional_models() for own in held.model.parameters()]


def test_a_forward_leaves_nothing_and_is_the_same_at_every_step(model: Any, adapter: QRLoRA, other: QRLoRA) -> None:
    bare = Recorded(model)
    live = Recorded(merged(model, (adapter, 0.8), (other, -0.6), **CURVES))
    assert len(live.operators) == len(live.left) == STEPS
    assert live.left == bare.left
    assert len(live.operators[0]) > len(bare.operators[0])
    assert all(names == live.operators[0] for names in live.operators)
    assert all(places == live.places[0] for places in live.places)
    assert len(set(live.places[0])) == len(live.places[0]) > 20
    assert not torch.equal(live.latent, bare.latent)


def test_a_new_scale_and_other_adapters_of_the_same_shapes_take_the_same_places(
    model: Any, adapter: QRLoRA, other: QRLoRA
) -> None:
    def places(*pairs: tuple[QRLoRA, float]) -> list[int]:
        live = merged(model, *pairs)
        sample(live, steps=1)
        return buffers(live)

    first = places((adapter, 0.5))
    for pairs in ([(adapter, 0.7)], [(adapter, -2.0)], [(other, 0.7)]):
        assert places(*pairs) == first
    assert places((random_adapter(model, seed=3, rank=4), 1.0)) != first


def test_two_merges_in_a_row_do_not_share_their_places(model: Any, adapter: QRLoRA) -> None:
    first = merged(model, (adapter, 0.5))
    second = merged(first, (adapter, 0.3))
    places = buffers(second)
    assert len(set(places)) == len(places) == 2 * len(buffers(first))


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_convolutions_and_slices_keep_the_pattern(name: str) -> None:
    patcher = tiny_models.build(name)
    inputs = tiny_models.sample_inputs(name, patcher)
    adapters = [random_adapter(patcher, seed=seed, targets="all-linear") for seed in (1, 2)]
    seen = []
    for scales in ((0.5, 0.5), (1.0, -1.0), (0.3, 0.1)):
        live = merged(patcher, *zip(adapters, scales, strict=True))
        tiny_models.predict(live, inputs)
        with Operators() as mode:
            tiny_models.predict(live, inputs)
        seen.append(mode.names)
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_other_kinds_keep_the_pattern_and_their_places(name: str) -> None:
    small = small_model(name)
    kinds = ("LoKr, both whole", "DoRA of LoKr by column", "DoRA of PEFT", "OFT", "BOFT", "GLoRA", "replaced weight")
    files = [[small.file(kind, seed).adapter for kind in kinds] for seed in (1, 2)]
    inputs, seen = tiny_models.sample_inputs(name, small.patcher), []
    for adapters, scale in ((files[0], 0.3), (files[0], -1.0), (files[1], 0.1)):
        live = merged(small.patcher, *((adapter, scale) for adapter in adapters))
        tiny_models.predict(live, inputs)
        with Operators() as mode:
            tiny_models.predict(live, inputs)
        seen.append((mode.names, buffers(live)))
        del live
    assert seen[0][0] == seen[1][0] == seen[2][0]
    assert seen[0][1] == seen[1][1]
