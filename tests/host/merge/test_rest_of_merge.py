"""Layers of a merge that no connected model has are saved in its mode and at its scales, as if one had them."""

from functools import cache
from typing import Any

import pytest
import torch

from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA
from comfyui_qr_lora.qrlora_core.files.text_encoder_names import dotted_names
from devtools import tiny_models

from ...support.adapters import random_adapter
from ...support.text_encoders import clip_l

TOLERANCE = 1e-5
MODES = {"add": {}, "null_space": {"protect": 2, "mu": 3.0}, "ties": {"density": 0.6}}
every_mode = pytest.mark.parametrize("mode", MODES)
KNOWN, UNKNOWN = "transformer_blocks.0.", "transformer_blocks.77."


@cache
def model() -> Any:
    return tiny_models.build("sd3")


def source(seed: int, patcher: Any) -> QRLoRA:
    return random_adapter(patcher, seed=seed, mirrored=seed == 2, targets="all-linear")


def merged(first: QRLoRA, second: QRLoRA, mode: str, **more: Any) -> QRLoRA:
    slots = {"adapter_1": first, "scale_1": 0.8, "adapter_2": second, "scale_2": -0.5}
    return Merge.execute(model=model(), mode=mode, **slots, **MODES[mode], **more).args[1]


def assert_same(found: Layer, expected: Layer, name: str) -> None:
    change = expected.delta_weight()
    assert (found.delta_weight() - change).norm() <= TOLERANCE * change.norm(), name


def with_copies(adapter: QRLoRA) -> QRLoRA:
    """Its layers of a block, also as those of a block that no model has."""
    copies = {path.replace(KNOWN, UNKNOWN): layer for path, layer in adapter.layers.items() if KNOWN in path}
    assert copies
    return QRLoRA({**adapter.layers, **copies}, name=adapter.name)


@every_mode
def test_of_the_network(mode: str) -> None:
    whole = merged(*(with_copies(source(seed, model())) for seed in (1, 2)), mode)
    rest = [path for path in whole.layers if UNKNOWN in path]
    assert rest
    for path in rest:
        assert_same(whole.layers[path], whole.layers[path.replace(UNKNOWN, KNOWN)], path)


@every_mode
@pytest.mark.parametrize("clip_scale", [1.0, -0.3])
def test_of_text_encoders_without_one(mode: str, clip_scale: float) -> None:
    """Equal to what is merged with one; by whichever trainer's names."""
    clip = clip_l()
    first, second = (
        QRLoRA({**source(seed, model()).layers, **source(seed, clip.patcher).layers}, name=str(seed)) for seed in (1, 2)
    )
    names = dotted_names(second.layers)
    kohyas = {
        name: f"lora_te1_{name.removeprefix('text_encoder.').replace('.', '_')}"
        for name in names.values()
        if name.startswith("text_encoder.")
    }
    other = {kohyas.get(names[path], path): layer for path, layer in second.layers.items()}
    seen = merged(first, second, mode, clip=clip, clip_scale=clip_scale)
    found = merged(first, QRLoRA(other, name=second.name), mode, clip_scale=clip_scale)
    assert found.layers.keys() == seen.layers.keys()
    assert any(path.startswith("text_encoder.") for path in seen.layers)
    for path in seen.layers:
        assert_same(found.layers[path], seen.layers[path], path)
    assert found.metadata.get("qr_lora.merge_clip_scale") == (None if clip_scale == 1 else "-0.3")


def test_at_a_text_scale_of_zero_hold_no_text_layers() -> None:
    clip = clip_l()
    adapter = QRLoRA({**source(1, model()).layers, **source(1, clip.patcher).layers})
    for more in ({}, {"clip": clip}):
        found = merged(adapter, source(2, model()), "add", clip_scale=0.0, **more)
        assert found.layers.keys() == source(1, model()).layers.keys()


def test_of_shapes_that_do_not_fit_together_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    clip = clip_l()
    broken = {
        path: Layer.single(torch.ones(3, 1), torch.ones(1, 3)) if number == 0 else layer
        for number, (path, layer) in enumerate(source(2, clip.patcher).layers.items())
    }
    first = QRLoRA({**source(1, model()).layers, **source(1, clip.patcher).layers}, name="first")
    second = QRLoRA({**source(2, model()).layers, **broken}, name="second")
    found = merged(first, second, "ties")
    assert not caplog.records  # a merge is seen at each tweak, and saved once: they are not worked out before
    torn, *others = dotted_names(broken).values()
    assert torn not in found.layers
    assert all(path in found.layers for path in others)
    assert torn in caplog.text
