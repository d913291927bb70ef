"""What took no part in a sampling is told by name: layers that did not run, and adapters that changed nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.ops
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_qr_lora.nodes.host.apply.source import Source
from comfyui_qr_lora.nodes.host.merge.merge import Applied, apply_adapters
from comfyui_qr_lora.nodes.host.merge.report import as_text
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA, QRLoRAError
from comfyui_qr_lora.qrlora_core.schedule import Schedule, make_curve
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error
from ...support.sampling import sample

SECOND = "transformer.transformer_blocks.1."


@pytest.fixture
def model() -> Any:
    return tiny_models.build("sd3")


def adapter(model: Any, targets: str = "paper", seed: int = 0) -> QRLoRA:
    return random_adapter(model, targets=targets, seed=seed)


class Told:
    """A merge, and what was told after each sampling."""

    def __init__(self, model: Any, *adapters: QRLoRA, schedules: dict[int, Schedule] | None = None) -> None:
        schedules = schedules or {}
        sources = [Source(f"a{index}", one, 1.0, schedules.get(index)) for index, one in enumerate(adapters)]
        self.lines: list[list[str]] = []
        self.applied: Applied = apply_adapters(model, sources, "live", tell=self.lines.append)
        self.report = as_text([*self.applied.lines, *self.applied.last])

    def sample(self) -> list[str]:
        sample(self.applied.model)
        return self.lines[-1]


def without_block(model: Any, index: int) -> Any:
    """The model with a block left out, by the host's own way for other nodes to replace one."""
    clone = model.clone()
    clone.set_model_patch_replace(
        lambda args, _: {"img": args["img"], "txt": args["txt"]}, "dit", "double_block", index
    )
    return clone


def test_nothing_is_told_where_all_layers_ran(model: Any) -> None:
    told = Told(model, adapter(model), adapter(model, seed=1))
    assert told.sample() == []
    assert "did not run" not in told.report


def test_layers_that_did_not_run_are_named(model: Any) -> None:
    whole = adapter(model)
    skipped = [path for path in whole.layers if path.startswith(SECOND)]
    told = Told(without_block(model, 1), whole)
    (line,) = told.sample()
    assert line.startswith(f"a0: {len(skipped)} of {len(whole.layers)} layers did not run: {skipped[0]}, ")
    assert line.endswith(f" and {len(skipped) - 3} more")


def test_the_next_report_and_page_have_it_too(model: Any) -> None:
    cut, whole = without_block(model, 1), adapter(model)
    Told(cut, whole).sample()
    again = Told(cut, whole)
    assert "last time, a0: " in again.report
    assert any("did not run" in warning for warning in again.applied.overview["adapters"][0]["warnings"])
    assert Told(without_block(model, 5), whole).sample() == []  # the whole model again
    assert "did not run" not in Told(model, whole).report


def test_an_adapter_none_of_whose_layers_ran_is_named_beside_one_that_did(model: Any) -> None:
    second = adapter(model, targets="transformer.transformer_blocks.1.*")
    told = Told(without_block(model, 1), adapter(model, targets="transformer.transformer_blocks.0.*"), second)
    (line,) = told.sample()
    assert line.startswith("a1 did nothing")


def test_alone_it_is_an_error(model: Any) -> None:
    with pytest.raises(QRLoRAError, match="no effect"):
        Told(without_block(model, 1), adapter(model, targets="transformer.transformer_blocks.1.*")).sample()


def test_a_schedule_that_met_no_step_is_told(model: Any) -> None:
    never = make_curve("constant", 0.999, 1.0)
    told = Told(model, adapter(model), adapter(model, seed=1), schedules={1: never})
    assert told.sample() == ["a1 did nothing: its schedule was at 0 in every step. Move its start or its end."]


def test_an_adapter_of_zeros_is_told_before_it_runs(model: Any) -> None:
    empty = QRLoRA(
        {
            path: Layer.single(layer.terms[0].q, torch.zeros_like(layer.terms[0].delta_r))
            for path, layer in adapter(model).layers.items()
        }
    )
    told = Told(model, adapter(model), empty)
    assert "a1 changes nothing" in told.report
    assert "a0 changes nothing" not in told.report


def by_hand(block: Any) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    """A block whose feed-forward multiplies with the weight of its second layer itself, as newer hosts do to fuse."""

    def forward(x: Tensor) -> Tensor:
        mlp = block.x_block.mlp
        weight, bias = comfy.ops.cast_bias_weight(mlp.fc2, x)
        return F.linear(mlp.act(mlp.fc1(x)), weight, bias)

    def replaced(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        block.x_block.mlp.forward = forward
        try:
            return extra["original_block"](args)
        finally:
            del block.x_block.mlp.forward

    return replaced


def test_a_layer_that_was_only_asked_for_its_weight_is_named_and_from_then_on_served(model: Any) -> None:
    fused, whole = model.clone(), adapter(model)
    block = model.model.diffusion_model.joint_blocks[0]
    fused.set_model_patch_replace(by_hand(block), "dit", "double_block", 0)
    base, expected = sample(model), sample(merged(model, (whole, 1.0)))
    assert torch.equal(sample(fused), base)
    first = Told(fused, whole)
    (line,) = first.sample()
    assert line == f"a0: 1 of {len(whole.layers)} layers did not run: transformer.transformer_blocks.0.ff.net.2"
    second = Told(fused, whole)
    assert second.sample() == []
    assert relative_error(sample(second.applied.model), expected, base) < 1e-4
    assert torch.equal(sample(fused), base)
