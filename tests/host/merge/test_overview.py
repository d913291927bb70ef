"""What Merge tells the page: layers, bases, and how neighbours interfere, against dense float64 deltas."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA
from comfyui_qr_lora.qrlora_core.schedule import make_curve
from devtools import tiny_models

from ...support.adapters import random_adapter


@cache
def model() -> Any:
    return tiny_models.build("sd3")


def told(**inputs: Any) -> tuple[dict[str, Any], list[str]]:
    output = Merge.execute(model=model(), **inputs)
    return output.ui["qr_lora_merge"][0], output.args[2].split("\n")


def dense(adapter: QRLoRA, scale: float) -> dict[str, Tensor]:
    return {
        path: scale * sum(t.alpha / t.rank * t.q.double() @ t.delta_r.double().flatten(1) for t in layer.terms)
        for path, layer in adapter.layers.items()
    }


def interference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The energy that the sum gains over that of both, by summing them."""
    zero = torch.zeros(())
    summed = sum(float((first.get(p, zero) + second.get(p, zero)).square().sum()) for p in first.keys() | second.keys())
    apart = sum(float(delta.square().sum()) for delta in [*first.values(), *second.values()])
    return (summed - apart) / apart


def test_neighbours_are_measured_at_their_scales() -> None:
    first, other = random_adapter(model(), seed=1), random_adapter(model(), seed=2, mirrored=True, rank=5)
    mixed = {path: Layer((*first.layers[path].terms, *other.layers[path].terms)) for path in list(first.layers)[3:]}
    second = QRLoRA(mixed, name="second.safetensors")
    for scales in ((1.0, 1.0), (0.9, -0.4), (0.0, 1.0)):
        inputs = {"adapter_2": first, "scale_2": scales[0], "adapter_5": second, "scale_5": scales[1]}
        overview, lines = told(**inputs)
        (pair,) = overview["neighbours"]
        a, b = scales
        energy = a * a * pair["energy_first"] + b * b * pair["energy_second"]
        expected = interference(dense(first, a), dense(second, b))
        assert 2 * a * b * pair["product"] / energy == pytest.approx(expected, abs=1e-5)
        line = f"interference of random_1.safetensors and second.safetensors: {expected:+.1%}"
        assert (line in lines) is all(scales)
        assert abs(expected) > 0.1 or 0.0 in scales
        assert overview["slots"] == [2, 5]


def test_a_schedule_is_told_with_what_becomes_of_it_when_saved() -> None:
    adapter = random_adapter(model(), seed=1)
    _, lines = told(adapter_1=adapter, adapter_2=random_adapter(model(), seed=2), schedule_2=make_curve("constant"))
    assert ["scheduled (a saved merge has the scale alone)" in line for line in lines[:2]] == [False, True]


def test_adapters_as_the_page_shows_them() -> None:
    adapter = random_adapter(model(), seed=1)
    some = QRLoRA(
        {**dict(list(adapter.layers.items())[:4]), "transformer.nowhere": next(iter(adapter.layers.values()))},
        name="some.safetensors",
    )
    overview, lines = told(adapter_1=adapter, adapter_2=some)
    assert [(found["layers"], found["applied"]) for found in overview["adapters"]] == [
        (len(adapter.layers),) * 2,
        (5, 4),
    ]
    assert [found["rank"] for found in overview["adapters"]] == ["rank 8", "rank 8"]
    assert overview["adapters"][1]["basis"] == "shared basis"
    assert told(adapter_1=adapter, scale_1=0.0)[0]["adapters"][0]["basis"] == "off"
    assert not overview["adapters"][0]["warnings"]
    (warning,) = overview["adapters"][1]["warnings"]
    assert "1 of its layers do not exist in this model" in warning
    assert warning in lines
    assert told()[0] == {"slots": [], "adapters": [], "neighbours": []}
