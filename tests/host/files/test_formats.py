"""Files through Save and Load: every format gives the previewed picture; compact finds or rebuilds its basis."""

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import nodes as host_nodes
from comfyui_qr_lora.nodes.host.files.folders import adapter_path, register_folders
from comfyui_qr_lora.nodes.host.model import base_check
from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.host.model.weights import base_weight
from comfyui_qr_lora.nodes.load import Load
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.nodes.save import Save
from comfyui_qr_lora.qrlora_core import AdapterError, AdapterFileError, QRLoRA
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error

register_folders()  # as the host does when it loads the pack
EXACT, HALF = 1e-4, 1e-3  # relative to the adapter's effect; HALF for what float16 rounds


@cache
def model(name: str = "sd3", seed: int = 0) -> Any:
    return tiny_models.build(name, seed=seed)


def predict(patcher: Any, name: str = "sd3") -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher))


def save(adapter: QRLoRA, format: str, **more: Any) -> str:
    return Save.execute(adapter, f"formats/{format}", format=format, **more).args[0]


def load(name: str, **more: Any) -> QRLoRA:
    return Load.execute(name, **more).args[0]


@pytest.fixture
def empty_cache() -> Iterator[Path]:
    """No bases on this machine."""
    folder = Path(folder_paths.models_dir) / "qr_lora_bases"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("format", "dtype", "tolerance"),
    [
        ("full", "auto", EXACT),
        ("full", "float16", HALF),
        ("full", "bfloat16", 10 * HALF),
        ("compact", "auto", HALF),
        ("compact", "float32", EXACT),
        ("compact", "bfloat16", 10 * HALF),
        ("lora", "auto", EXACT),
        ("lora", "float16", HALF),
        ("lora", "bfloat16", 10 * HALF),
    ],
)
def test_a_saved_merge_gives_the_previewed_picture(format: str, dtype: str, tolerance: float) -> None:
    content, style = random_adapter(model(), seed=1), random_adapter(model(), seed=2)
    preview = Merge.execute(model=model(), adapter_1=content, scale_1=0.8, adapter_2=style, scale_2=-0.3)
    base, expected = predict(model()), predict(preview.args[0])
    saved = load(save(preview.args[1], format, dtype=dtype))
    assert relative_error(predict(merged(model(), (saved, 1.0))), expected, base) < tolerance


@pytest.mark.parametrize("format", ["full", "lora"])
def test_so_does_a_merge_over_two_bases(format: str) -> None:
    content, style = random_adapter(model(), seed=1), random_adapter(model(), seed=2, mirrored=True)
    preview = Merge.execute(model=model(), adapter_1=content, scale_1=0.8, adapter_2=style, scale_2=-0.3)
    base, expected = predict(model()), predict(preview.args[0])
    saved = load(save(preview.args[1], format))
    assert relative_error(predict(merged(model(), (saved, 1.0))), expected, base) < EXACT


@pytest.mark.parametrize("name", ["sd3", "flux", "sdxl"])
def test_the_stock_loader_takes_the_lora(name: str) -> None:
    adapter = random_adapter(model(name))
    path = adapter_path(save(adapter, "lora"))
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, folder / "stock_format.safetensors")
    stock = host_nodes.LoraLoaderModelOnly().load_lora_model_only(model(name), "stock_format.safetensors", 0.7)[0]
    base, expected = predict(model(name), name), predict(stock, name)
    assert relative_error(predict(merged(model(name), (adapter, 0.7)), name), expected, base) < EXACT


class TestCompact:
    def test_is_found_again_with_the_very_basis(self, empty_cache: Path) -> None:
        adapter = random_adapter(model())
        loaded = load(save(adapter, "compact"))
        for path, layer in loaded.layers.items():
            assert layer.terms[0].basis_id == adapter.layers[path].terms[0].basis_id
        report = Merge.execute(model=model(), adapter_1=loaded, adapter_2=adapter).args[2]
        assert report.count("shared basis") == 2

    def test_two_on_one_base_keep_one_set_of_bases(self, empty_cache: Path) -> None:
        save(random_adapter(model(), seed=1), "compact")
        once = sorted(empty_cache.rglob("*"))
        save(random_adapter(model(), seed=2), "compact")
        assert sorted(empty_cache.rglob("*")) == once

    def test_without_basis_and_model_says_what_to_connect(self, empty_cache: Path) -> None:
        name = save(random_adapter(model()), "compact")
        shutil.rmtree(empty_cache)
        with pytest.raises(
            AdapterFileError,
            match=r"its base model \(.*\), and kept\. Connect it to the input model",
        ):
            load(name)

    @pytest.mark.parametrize("name", ["sd3", "flux"])
    def test_is_rebuilt_from_the_model_and_kept(self, empty_cache: Path, name: str) -> None:
        first, second = (random_adapter(model(name), seed=seed, mirrored=True) for seed in (1, 2))
        files = [save(adapter, "compact") for adapter in (first, second)]
        base, expected = predict(model(name), name), predict(merged(model(name), (first, 0.7)), name)
        shutil.rmtree(empty_cache)
        rebuilt = load(files[0], model=model(name))
        assert relative_error(predict(merged(model(name), (rebuilt, 0.7)), name), expected, base) < HALF
        other = load(files[1])  # from the cache now, without the model
        report = Merge.execute(model=model(name), adapter_1=rebuilt, adapter_2=other).args[2]
        assert report.count("shared basis") == 2

    def test_another_base_is_refused(self, empty_cache: Path) -> None:
        name = save(random_adapter(model()), "compact")
        shutil.rmtree(empty_cache)
        with pytest.raises(AdapterFileError, match="the basis of this model spans another space"):
            load(name, model=model(seed=5))
        assert not list(empty_cache.rglob("*.safetensors"))

    def test_a_merge_over_two_bases_is_refused_with_a_way_out(self) -> None:
        content, style = random_adapter(model(), seed=1), random_adapter(model(), seed=2, mirrored=True)
        both = Merge.execute(model=model(), adapter_1=content, adapter_2=style).args[1]
        with pytest.raises(AdapterError, match=r"Save as full or lora\. Or put QR-LoRA Rebase before"):
            save(both, "compact")


class TestPublishedQr:
    """Files of the authors' variant qr: up and down stand in place of the core."""

    @staticmethod
    def file(rank: int = 4) -> tuple[str, dict[str, Tensor]]:
        """A file, and the dense deltas that it means, by a float64 SVD of the base weights."""
        generator = torch.Generator().manual_seed(0)
        available = KeyMap(model().model).linear(model().model)
        tensors, deltas = {}, {}
        for path in [path for path in available if path.endswith(("attn.to_q", "ff.net.2"))]:
            weight = base_weight(model(), available[path]).double()
            u, s, vh = np.linalg.svd(weight.numpy(), full_matrices=False)
            q, r = np.linalg.qr(u[:, :rank] * s[:rank] @ vh[:rank])
            up, down = torch.from_numpy(q[:, :rank]), torch.from_numpy(r[:rank])
            core = up @ down
            down = down + 0.05 * down.norm() * torch.randn(down.shape, generator=generator).double() / 10
            tensors[f"{path}.lora.up.weight"] = up.float().contiguous()
            tensors[f"{path}.lora.down.weight"] = down.float().contiguous()
            deltas[path] = up @ down - core
        folder = Path(folder_paths.get_folder_paths("qr_loras")[0])
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "published_qr.safetensors")
        return "qr_loras/published_qr.safetensors", deltas

    def test_the_core_is_subtracted(self) -> None:
        name, deltas = self.file()
        clone, key_map = model().clone(), KeyMap(model().model)
        whole: dict[str, Tensor] = {}
        for path, delta in deltas.items():
            target = key_map.find(path)
            weight = whole.setdefault(target.key, torch.zeros(*key_map.shape_of(target.key)))
            target.of(weight).add_(delta.float())
        clone.add_patches({key: ("diff", (delta,)) for key, delta in whole.items()})
        base, expected = predict(model()), predict(clone)
        adapter = load(name, file_kind="published qr", model=model())
        assert relative_error(predict(merged(model(), (adapter, 1.0))), expected, base) < HALF

    def test_as_an_ordinary_lora_it_gets_a_word_of_doubt(self) -> None:
        from comfyui_qr_lora.nodes.host.files.describe import describe_adapter

        adapter = load(self.file()[0])
        assert "set file_kind to published qr and connect the model" in describe_adapter(adapter)
        ours = load(save(random_adapter(model()), "full"))
        assert "file_kind" not in describe_adapter(ours)

    def test_needs_the_model_and_such_a_file(self) -> None:
        with pytest.raises(AdapterFileError, match="connect it to the input model of Load QR-LoRA"):
            load(self.file()[0], file_kind="published qr")
        with pytest.raises(AdapterFileError, match="this one has Q and dR; set file_kind to auto"):
            load(save(random_adapter(model()), "full"), file_kind="published qr", model=model())
        with pytest.raises(AdapterFileError, match="does not exist in this model"):
            load(self.file()[0], file_kind="published qr", model=model("sd15"))


class TestOtherBase:
    @staticmethod
    def trained() -> QRLoRA:
        from ...support.training_task import train

        return train(model(), steps=1).adapter

    @staticmethod
    def report(patcher: Any, adapter: QRLoRA) -> str:
        return Merge.execute(model=patcher, adapter_1=adapter).args[2]

    def test_on_its_own_base_nothing_is_said(self) -> None:
        assert "base" not in self.report(model(), self.trained())

    @pytest.mark.parametrize("every", [1, 3])
    def test_share_and_movement_of_another(self, every: int) -> None:
        adapter, other = self.trained(), tiny_models.build("sd3")
        key_map, changed = KeyMap(other.model), sorted(adapter.layers)[::every]
        with torch.no_grad():
            for path in changed:
                target = key_map.find(path)
                target.of(other.model.get_parameter(target.key)).mul_(1.1)
        report = self.report(other, adapter)
        share = f"{len(changed)} of {len(adapter.layers)} layers have other weights than those it was trained on"
        assert share in report
        if every == 1:  # Q^T (1.1 W) - Q^T W
            assert "Q^T W has moved by 10.0%" in report

    def test_a_published_file_without_fingerprint_is_measured(self) -> None:
        adapter = QRLoRA(random_adapter(model()).layers, name="published")
        assert "base" not in self.report(model(), adapter)
        report = self.report(tiny_models.build("sd3", seed=5), adapter)
        assert "another base model: Q^T W has moved by" in report

    def test_a_float8_copy_is_another_base_that_moved_little(self) -> None:
        stored = tiny_models.build("sd3", dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        report = self.report(stored, self.trained())
        assert 0.5 < float(report.split("Q^T W has moved by ")[1].split("%")[0]) < 10

    def test_weights_that_cannot_be_read_are_no_reason_not_to_merge(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As those that another pack quantized in its own way may be; the failure itself is a stand-in."""

        def unreadable(*_: Any) -> Any:
            raise RuntimeError("packed")

        monkeypatch.setattr(base_check, "fingerprint", unreadable)
        report = self.report(tiny_models.build("sd3"), self.trained())
        assert "cannot be told, as the weights cannot be read here (packed)" in report

    def test_hostile_fingerprints_do_no_harm(self) -> None:
        adapter = self.trained()
        for text in ("[]", "{", "null", json.dumps({next(iter(adapter.layers)): 5}), '{"a": {"b": []}}', "[" * 100_000):
            strange = QRLoRA(adapter.layers, {**adapter.metadata, "qr_lora.base_fingerprint": text})
            assert "layers" in self.report(model(), strange)


def test_a_lora_file_claims_nothing_of_ours() -> None:
    with safe_open(adapter_path(save(random_adapter(model()), "lora")), "pt") as file:
        assert not any(".lora.q." in key or "sketch" in key for key in file.keys())  # noqa: SIM118
        assert "qr_lora.format_version" not in file.metadata()
