"""QR-LoRA Rebase and QR-LoRA Compare on host models, against dense float64 algebra."""

import json
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.compare import Compare
from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.host.model.weights import base_weight
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.nodes.rebase import Rebase
from comfyui_qr_lora.qrlora_core import AdapterError, Layer, QRLoRA, TargetError
from comfyui_qr_lora.qrlora_core.functional.lora import from_lora
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error


@cache
def model(name: str = "sd3", seed: int = 0) -> Any:
    return tiny_models.build(name, seed=seed)


def predict(patcher: Any, name: str = "sd3") -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher))


def dense(layer: Layer) -> Tensor:
    return sum(t.alpha / t.rank * t.q.double() @ t.delta_r.double().flatten(1) for t in layer.terms)


def rebase(adapter: QRLoRA, patcher: Any = None, rank: int = 0, min_energy: float = 0.0) -> tuple[QRLoRA, str]:
    return Rebase.execute(adapter, patcher, rank, min_energy).args


class TestRebase:
    def test_onto_its_own_base_changes_nothing_and_shares_the_basis(self) -> None:
        mirrored, other = random_adapter(model(), seed=1, mirrored=True), random_adapter(model(), seed=2)
        moved, report = rebase(mirrored, model())
        assert "100.00% of its energy kept" in report
        base, expected = predict(model()), predict(merged(model(), (mirrored, 0.8)))
        assert relative_error(predict(merged(model(), (moved, 0.8))), expected, base) < 1e-4
        assert Merge.execute(model=model(), adapter_1=moved, adapter_2=other).args[2].count("shared basis") == 2

    def test_onto_another_base_is_the_projection(self) -> None:
        adapter, other = random_adapter(model(), seed=1), model(seed=5)
        moved, report = rebase(adapter, other, 6)
        key_map, kept, energy = KeyMap(other.model), 0.0, 0.0
        for path, layer in adapter.layers.items():
            u, _, _ = torch.linalg.svd(base_weight(other, key_map.find(path)).double())
            delta = dense(layer)
            expected = u[:, :6] @ (u[:, :6].T @ delta)
            assert (dense(moved.layers[path]) - expected).norm() < 1e-3 * expected.norm()
            kept, energy = kept + float(expected.square().sum()), energy + float(delta.square().sum())
        assert f"{kept / energy:.2%} of its energy kept" in report
        assert "other weights" not in Merge.execute(model=other, adapter_1=moved).args[2]

    def test_below_the_threshold_it_is_refused(self) -> None:
        with pytest.raises(AdapterError, match=r"expected at least 50\.00 %.*Worst layers"):
            rebase(random_adapter(model(), seed=1), model(seed=5), 6, 0.5)
        with pytest.raises(TargetError, match="none of its"):
            rebase(random_adapter(model(), seed=1), model("sd15"))

    def test_a_merge_over_two_bases_becomes_one_term_without_loss_or_at_a_rank(self) -> None:
        pair = random_adapter(model(), seed=1), random_adapter(model(), seed=2, mirrored=True)
        both = Merge.execute(model=model(), adapter_1=pair[0], adapter_2=pair[1]).args[1]
        assert {len(layer.terms) for layer in both.layers.values()} == {2}
        exact, report = rebase(both)
        assert "100.00% of its energy kept" in report
        assert {len(layer.terms) for layer in exact.layers.values()} == {1}
        for path, layer in both.layers.items():
            assert (dense(exact.layers[path]) - dense(layer)).norm() < 1e-5 * dense(layer).norm()
            smaller = rebase(QRLoRA({path: layer}), None, 3)[0].layers[path]
            left = torch.linalg.svdvals(dense(layer))[3:].norm()
            assert float((dense(smaller) - dense(layer)).norm()) == pytest.approx(float(left), rel=1e-4)

    def test_convolutions_and_layers_of_a_text_encoder(self) -> None:
        generator = torch.Generator().manual_seed(0)
        path, text = "unet.down_blocks.0.resnets.0.conv1", "lora_te1_text_model_encoder_layers_0_mlp_fc1"
        out, *inner = KeyMap(model("sd15").model).find(path).shape
        term = from_lora(torch.randn(out, 4, generator=generator), torch.randn(4, *inner, generator=generator))
        encoder = from_lora(torch.randn(8, 2, generator=generator), torch.randn(2, 8, generator=generator))
        adapter = QRLoRA({path: Layer((term,)), text: Layer((encoder,))})
        moved, report = rebase(adapter, model("sd15"), out)
        assert (dense(moved.layers[path]) - dense(adapter.layers[path])).norm() < 1e-4 * dense(
            adapter.layers[path]
        ).norm()
        assert moved.layers[path].shape == adapter.layers[path].shape
        assert moved.layers[text] is adapter.layers[text]
        assert "1 layers stay as they were (no matrix of this model)" in report


class TestCompare:
    def test_two_spellings_need_the_model_and_then_agree_with_dense_algebra(self) -> None:
        ours = random_adapter(model(), seed=1)
        other = random_adapter(model(), seed=2)
        respelled = QRLoRA(
            {f"lora_transformer_{path.removeprefix('transformer.').replace('.', '_')}": layer
             for path, layer in other.layers.items()}, name="kohya",
        )  # fmt: skip
        with pytest.raises(TargetError, match="no layer in common by name"):
            Compare.execute(ours, respelled)
        plot, table, text = Compare.execute(ours, respelled, model()).args
        found = json.loads(text)
        assert len(found["layers"]) == len(ours.layers)
        for layer in found["layers"]:
            a, b = dense(ours.layers[layer["path"]]), dense(other.layers[layer["path"]])
            assert layer["interference"] == pytest.approx(
                float(2 * (a * b).sum() / (a.norm() ** 2 + b.norm() ** 2)), abs=1e-6
            )
            assert layer["q_cosine"] == pytest.approx(1.0, abs=1e-5)
        assert "kohya" in table
        assert plot.shape[0] == 1
        assert plot.shape[3] == 3
        assert (plot < 0.5).any()
        assert torch.isfinite(plot).all()

    def test_fused_and_split_names_are_compared_as_whole_weights(self) -> None:
        generator = torch.Generator().manual_seed(0)
        split = random_adapter(model("flux"), seed=3)
        fused = QRLoRA(
            {
                f"diffusion_model.double_blocks.{index}.img_attn.qkv": Layer(
                    (from_lora(torch.randn(384, 4, generator=generator), torch.randn(4, 128, generator=generator)),)
                )
                for index in range(2)
            },
            name="fused",
        )
        found = json.loads(Compare.execute(split, fused, model("flux")).args[2])
        assert [layer["path"] for layer in found["layers"]] == list(fused.layers)
        for index, layer in enumerate(found["layers"]):
            whole = torch.cat(
                [dense(split.layers[f"transformer.transformer_blocks.{index}.attn.to_{part}"]) for part in "qkv"]
            )
            assert layer["energy_first"] == pytest.approx(float(whole.square().sum()), rel=1e-4)

    def test_a_blank_comparison_draws(self) -> None:
        zero = random_adapter(model(), seed=1)
        zero = QRLoRA({p: Layer.single(t.q, torch.zeros_like(t.delta_r)) for p, t in zero.terms()}, name="zero")
        plot, _, text = Compare.execute(zero, zero).args
        assert torch.isfinite(plot).all()
        assert "NaN" not in text
