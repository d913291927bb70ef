"""The Mixer node: files with a scale each, as Load and Merge with the same do it, and as stock loaders in a row."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from comfy_execution.graph import ExecutionBlocker
from comfyui_qr_lora.nodes.load import Load
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.nodes.mixer import Mixer

from ...support.lora_files import by_stock, factors, matrices, model, predict, saved

MODELS = ("flux", "sdxl", "sd3")


def files(name: str, count: int = 3) -> list[str]:
    """LoRAs for all matrices of a model, each with other numbers."""
    shapes = matrices(model(name))
    made = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        made.append(saved({k: t for path, shape in shapes.items() for k, t in factors(path, shape, generator).items()}))
    return made


def mix(*rows: dict[str, Any], **more: Any) -> str:
    return json.dumps({"version": 1, "rows": list(rows), **more})


@pytest.mark.parametrize("apply", ["live", "patch"])
@pytest.mark.parametrize("name", MODELS)
def test_is_merge_with_the_same_files(name: str, apply: str) -> None:
    """Bit for bit."""
    patcher, names, scales = model(name), [f"loras/{file}" for file in files(name)], (0.7, -0.4, 1.0)
    loaded = {f"adapter_{slot}": Load.execute(file)[0] for slot, file in enumerate(names, start=1)}
    given = {f"scale_{slot}": scale for slot, scale in enumerate(scales, start=1)}
    by_merge = Merge.execute(patcher, apply=apply, **loaded, **given)[0]
    rows = [{"file": file, "scale": scale} for file, scale in zip(names, scales, strict=True)]
    by_mixer = Mixer.execute(patcher, mix=mix(*rows), apply=apply)[0]
    assert torch.equal(predict(name, by_mixer), predict(name, by_merge))


@pytest.mark.parametrize("name", MODELS)
def test_patch_is_a_row_of_stock_loaders(name: str) -> None:
    """Bit for bit: the host's own patches, one per file, in the order of the rows."""
    patcher, names, scales = model(name), files(name), (0.7, -0.4, 1.0)
    stock = patcher
    for file, scale in zip(names, scales, strict=True):
        stock = by_stock(stock, file, scale)
    rows = [{"file": f"loras/{file}", "scale": scale} for file, scale in zip(names, scales, strict=True)]
    mixed = Mixer.execute(patcher, mix=mix(*rows), apply="patch")[0]
    assert torch.equal(predict(name, mixed), predict(name, stock))


def test_without_a_model_it_hands_on_a_stack() -> None:
    """And whoever takes its model is told."""
    (file,) = files("sd3", 1)
    rows = {"file": f"loras/{file}", "scale": 0.5, "clip_scale": 0.25}
    model_out, _, _, report, _, stack = Mixer.execute(mix=mix(rows)).args
    assert isinstance(model_out, ExecutionBlocker)
    assert stack == [(file, 0.5, 0.25)]
    assert "no model connected" in report
