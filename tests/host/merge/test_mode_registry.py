"""A merge mode is one entry of the registry, from which nodes, page and report have it: a toy mode, made here alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from comfyui_qr_lora.nodes.host.merge.modes.mode import Mode, Parameter, Values
from comfyui_qr_lora.nodes.host.merge.modes.registry import MODES
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.nodes.sweep import Sweep
from comfyui_qr_lora.qrlora_core import QRLoRA, QRLoRAError
from devtools import tiny_models

from ...support.adapters import random_adapter, relative_error, with_stock_lora
from ...support.sampling import sample


def _quiet(adapters: Sequence[QRLoRA], _scales: Sequence[float], values: Values) -> list[QRLoRA]:
    """All but one adapter by a factor."""
    loud = int(values["loud"])
    return [own if index == loud else _times(own, values["volume"]) for index, own in enumerate(adapters)]


def _times(adapter: QRLoRA, factor: float) -> QRLoRA:
    layers = {
        path: layer.with_terms(replace(term, delta_r=factor * term.delta_r) for term in layer.terms)
        for path, layer in adapter.layers.items()
    }
    return replace(adapter, layers=layers)


TOY = Mode(
    "quiet",
    "all but one adapter are turned down.",
    "ΔWᵢ' = volume · ΔWᵢ",
    (
        Parameter("loud", "the number of the one that stays.", 1, 1, names_adapter=True),
        Parameter("volume", "of the others.", 0.5, 0.0, 1.0, 0.01),
    ),
    _quiet,
    lambda values, labels: f"quiet: {labels[int(values['loud'])]} stays, volume {values['volume']:g}",
)


@pytest.fixture
def toy() -> Iterator[None]:
    MODES.append(TOY)
    yield
    MODES.remove(TOY)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("node", [Merge, Sweep])
def test_nodes_offer_the_mode_and_what_it_asks_for(node: Any) -> None:
    inputs = {own.id: own for own in node.define_schema().inputs}
    assert inputs["mode"].options[-1] == "quiet"
    assert inputs["mode"].tooltip.endswith("quiet: all but one adapter are turned down.")
    told = inputs["volume"].as_dict()
    assert (told["default"], told["min"], told["max"], told["step"]) == (0.5, 0.0, 1.0, 0.01)
    assert told["tooltip"] == "quiet: of the others."
    assert (told["qr_lora_mode"], told["qr_lora_slot"]) == ("quiet", False)  # by which the desk shows it
    assert inputs["loud"].as_dict()["qr_lora_slot"] is True
    assert list(inputs)[-2:] == ["loud", "volume"]  # after those of the modes that were released before


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("apply", ["live", "patch"])
def test_a_merge_in_the_mode(apply: str) -> None:
    model = tiny_models.build("sd3")
    first, second = random_adapter(model, seed=1), random_adapter(model, seed=2)
    slots = {"adapter_3": first, "scale_3": 0.8, "adapter_5": second, "scale_5": 0.5}
    found = Merge.execute(model=model, apply=apply, mode="quiet", loud=5, **slots)
    expected = sample(with_stock_lora(with_stock_lora(model, first, 0.4), second, 0.5))
    assert relative_error(sample(found.args[0]), expected, sample(model)) < 1e-4
    told = f"quiet: {second.name} stays, volume 0.5"
    assert told in found.args[2]
    assert found.args[1].metadata["qr_lora.merge_mode"] == told
    with pytest.raises(QRLoRAError, match=r"loud: expected the number of a connected adapter \(3, 5\), found 1"):
        Merge.execute(model=model, mode="quiet", **slots)


def test_without_it_the_mode_is_unknown() -> None:
    with pytest.raises(QRLoRAError, match="expected one of add, null_space, ties, found 'quiet'"):
        Merge.execute(model=tiny_models.build("sd3"), mode="quiet")
