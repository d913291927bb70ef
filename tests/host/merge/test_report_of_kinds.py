"""What a merge says of adapters of other kinds: what they are, and where ComfyUI's own loaders would differ."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from comfyui_qr_lora.nodes.compare import Compare
from comfyui_qr_lora.nodes.host.files.folders import register_folders
from comfyui_qr_lora.nodes.load import Load
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.nodes.rebase import Rebase
from comfyui_qr_lora.nodes.save import Save
from comfyui_qr_lora.qrlora_core import QRLoRA, QRLoRAError

from ...support.lora_files import model, saved

register_folders()
LAYER, OUT, INNER = "lora_unet_joint_blocks_0_x_block_attn_proj", 128, 128
DIFFERS = "ComfyUI's own loaders give something else for these"


def numbers(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@cache
def adapter(kind: str) -> QRLoRA:
    lora = {"lora_up.weight": numbers(OUT, 4), "lora_down.weight": numbers(4, INNER)}
    tensors = {
        "LoRA": lora,
        "LoKr": {"lokr_w1": numbers(4, 4), "lokr_w2": numbers(OUT // 4, INNER // 4)},
        "DoRA": {**lora, "dora_scale": 1 + numbers(1, INNER)},
        "OFT": {"oft_blocks": numbers(OUT // 8, 8, 8)},
        "BOFT": {"oft_blocks": numbers(2, OUT // 8, 8, 8), "alpha": torch.zeros(())},
        "GLoRA": {"a1.weight": numbers(INNER, 2), "a2.weight": numbers(2, INNER),
                  "b1.weight": numbers(OUT, 2), "b2.weight": numbers(2, INNER)},
        "replaced weight": {"set_weight": numbers(OUT, INNER)},
    }[kind]  # fmt: skip
    return Load.execute(f"loras/{saved({f'{LAYER}.{part}': tensor for part, tensor in tensors.items()})}").args[0]


def report(*pairs: tuple[str, float]) -> str:
    slots: dict[str, Any] = {f"adapter_{slot}": adapter(kind) for slot, (kind, _) in enumerate(pairs, 1)}
    slots |= {f"scale_{slot}": scale for slot, (_, scale) in enumerate(pairs, 1)}
    told: str = Merge.execute(model=model("sd3"), **slots).args[2]
    return told


@pytest.mark.parametrize("kind", ["LoKr", "DoRA", "OFT", "BOFT", "GLoRA", "replaced weight"])
def test_each_is_called_by_its_name(kind: str) -> None:
    assert f": 1 of 1 layers, {kind}" in report((kind, 1.0))
    assert DIFFERS not in report((kind, 1.0))


@pytest.mark.parametrize(
    ("pairs", "differs"),
    [
        ([("OFT", 0.5)], True), ([("BOFT", -1.0)], True), ([("replaced weight", 0.3)], True),
        ([("DoRA", 0.5)], False), ([("GLoRA", 0.5)], False), ([("LoKr", 0.5)], False),
        ([("DoRA", 1.0), ("OFT", 1.0)], True), ([("DoRA", 1.0), ("OFT", 0.0)], False),
        ([("DoRA", 1.0), ("LoRA", 0.4)], True), ([("LoRA", 1.0), ("GLoRA", 1.0)], True),
        ([("LoKr", 0.2), ("LoRA", 0.4)], False),
    ],
)  # fmt: skip
def test_where_stock_loaders_differ_it_says_so_once(pairs: list[tuple[str, float]], differs: bool) -> None:
    assert report(*pairs).count(DIFFERS) == differs


def test_interference_is_told_of_sums_alone() -> None:
    assert "not known, as OFT changes with the weights it is on" in report(("LoKr", 1.0), ("OFT", 1.0))
    assert "%" in report(("LoKr", 1.0), ("LoRA", 1.0))


def test_what_works_on_sums_refuses_the_others_by_name() -> None:
    for mode in ("null_space", "ties"):
        slots = {"adapter_1": adapter("DoRA"), "adapter_2": adapter("LoRA"), "mode": mode}
        with pytest.raises(QRLoRAError, match=rf"{mode} works on .* is DoRA, which contains .*mode add"):
            Merge.execute(model=model("sd3"), **slots)
    with pytest.raises(QRLoRAError, match=r"compare works on .* is OFT, which contains .*QR-LoRA Rebase"):
        Compare.execute(adapter("LoRA"), adapter("OFT"), model=model("sd3"))
    with pytest.raises(QRLoRAError, match=r"is GLoRA, which contains .*QR-LoRA Rebase"):
        Rebase.execute(adapter("GLoRA"), rank=4)
    for kind in ("DoRA", "replaced weight"):
        with pytest.raises(QRLoRAError, match=rf"{kind} contains the base weight.*Save as full.*QR-LoRA Rebase"):
            Save.execute(adapter(kind), "kinds", "lora")
    with pytest.raises(QRLoRAError, match=r"LoKr of rank 128.*larger than the weight.*QR-LoRA Rebase"):
        Save.execute(adapter("LoKr"), "kinds", "lora")


def test_rebase_with_the_model_makes_a_low_rank_adapter_of_any() -> None:
    for kind in ("DoRA", "OFT", "LoKr"):
        rebased, told = Rebase.execute(adapter(kind), model("sd3"), 128, 0.9).args
        assert rebased.ranks == [128]
        assert ("what it does to the weights of this model" in told) == (kind != "LoKr")
        Save.execute(rebased, "kinds", "lora")


def test_layers_that_no_model_has_are_saved_together_though_one_kind_knows_one_side_alone() -> None:
    """A rotation knows nothing of inputs, and fits beside a LoRA as on a layer of the model."""
    elsewhere = {
        kind: replace(adapter(kind), layers={"lora_unet_elsewhere": adapter(kind).layers[LAYER]})
        for kind in ("LoRA", "OFT")
    }
    both = {kind: replace(own, layers={**own.layers, **adapter(kind).layers}) for kind, own in elsewhere.items()}
    slots = {"adapter_1": both["LoRA"], "adapter_2": both["OFT"], "scale_1": 0.5}
    layer = Merge.execute(model=model("sd3"), **slots).args[1].layers["lora_unet_elsewhere"]
    base = torch.randn(OUT, INNER)
    expected = 0.5 * adapter("LoRA").layers[LAYER].delta_weight(base) + adapter("OFT").layers[LAYER].delta_weight(base)
    assert torch.allclose(layer.delta_weight(base), expected, atol=1e-5)
    with pytest.raises(QRLoRAError, match=r"compare works on .* is OFT"):
        Compare.execute(adapter("LoRA"), adapter("OFT"))
