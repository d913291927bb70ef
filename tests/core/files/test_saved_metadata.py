"""What saved files say of themselves: digests that others compute alike, and nothing that is true of a source alone."""

import hashlib
import json
from io import BytesIO

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from comfyui_qr_lora.qrlora_core import QRLoRA, load_adapter, merge, save_adapter
from comfyui_qr_lora.tests.support.oracle import normal
from comfyui_qr_lora.tests.support.regression import stored

RANK, OUT, WIDTH = 4, 24, 16
NAME = "lora_unet_mid_block_attentions_0_proj_in"
OF_THE_BASE = {
    "ss_base_model_version": "sdxl_base_v1-0", "ss_sd_model_name": "base.safetensors",
    "ss_new_sd_model_hash": "ab" * 32,
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora", "modelspec.prediction_type": "epsilon",
}  # fmt: skip
OF_ONE_FILE = {
    "sshs_model_hash": "cd" * 32, "sshs_legacy_hash": "0123abcd", "modelspec.hash_sha256": "0x" + "ef" * 32,
    "modelspec.title": "the old one",
}  # fmt: skip
OF_ONE_TRAINING = {
    "ss_network_dim": str(RANK), "ss_network_alpha": "2.0", "ss_network_args": '{"conv_dim": "4", "algo": "lora"}',
    "ss_network_module": "networks.lora", "ss_output_name": "old", "ss_steps": "100", "ss_session_id": "7",
    "ss_learning_rate": "1e-4", "modelspec.date": "2024-01-01", "modelspec.author": "somebody",
    "modelspec.thumbnail": "data:image/png;base64,AA==", "modelspec.description": "a cat", "modelspec.merged_from": "x",
    "qr_lora.training": "{}", "qr_lora.rank": str(RANK), "qr_lora.alpha": "2",
}  # fmt: skip
OF_ITS_USE = {
    "ss_tag_frequency": '{"1_cat": {"cat": 3}}',
    "modelspec.trigger_phrase": "ohwx",
    "qr_lora.triggers": "ohwx",
}
ALL = {**OF_THE_BASE, **OF_ONE_FILE, **OF_ONE_TRAINING, **OF_ITS_USE}


def saved(tmp_path, tensors, name, metadata):
    save_file(tensors, tmp_path / name, metadata=metadata)
    return tmp_path / name


def lora(tmp_path, name="cat", seed=1, metadata=None, more=0, rank=RANK):
    tensors = {}
    for number in range(1 + more):
        tensors[f"{NAME}{number}.lora_up.weight"] = normal(OUT, rank, seed=seed + number)
        tensors[f"{NAME}{number}.lora_down.weight"] = normal(rank, WIDTH, seed=seed + number + 50)
        tensors[f"{NAME}{number}.alpha"] = torch.tensor(2.0)
    return load_adapter(saved(tmp_path, tensors, f"{name}.safetensors", metadata=ALL | (metadata or {})))


def kohyas_hashes(path):
    """As kohya's trainer computes them: from the tensors, and the metadata of the training."""
    told = {key: text for key, text in stored(path)[1].items() if key.startswith("ss_")}
    file = BytesIO(safetensors.torch.save(load_file(path), told))
    file.seek(2**20)
    legacy = hashlib.sha256(file.read(2**16)).hexdigest()[:8]
    file.seek(0)
    file.seek(8 + int.from_bytes(file.read(8), "little"))
    return hashlib.sha256(file.read()).hexdigest(), legacy


@pytest.mark.parametrize(
    "told",
    [{}, {"ss_note": 'Füße 猫 "quoted"\n\t\x01\\'}, {"note": "x" * 100, "ss_b": "y" * 33}, {"ss_long": "z" * 300_000}],
)
@pytest.mark.parametrize("width", [8, 40_000])
def test_digests_are_those_of_other_tools(tmp_path, told, width):
    """Of files below and above the one MiB at which the old digest begins."""
    tensors = {"lora_te_x.lora_up.weight": normal(8, 8, seed=1), "lora_te_x.lora_down.weight": normal(8, width, seed=2)}
    adapter = load_adapter(saved(tmp_path, tensors, "a.safetensors", metadata=told | OF_ONE_FILE))
    path = save_adapter(adapter, tmp_path / "b.safetensors", format="lora")
    metadata = stored(path)[1]
    digest, legacy = kohyas_hashes(path)
    assert (metadata["sshs_model_hash"], metadata["sshs_legacy_hash"]) == (digest, legacy)
    assert metadata["modelspec.hash_sha256"] == f"0x{digest}"
    assert told.items() <= metadata.items()
    save_file(load_file(path), tmp_path / "c.safetensors", metadata={"other": "metadata"})
    content = (tmp_path / "c.safetensors").read_bytes()
    assert digest == hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def test_digests_tell_other_weights_apart(tmp_path):
    paths = [
        save_adapter(lora(tmp_path, seed=seed), tmp_path / f"{seed}.safetensors", format="lora") for seed in (1, 2)
    ]
    first, second = (stored(path)[1]["sshs_model_hash"] for path in paths)
    assert first != second


@pytest.mark.parametrize("format", ["full", "lora"])
class TestAMerge:
    def told(self, tmp_path, sources, format):
        path = save_adapter(merge(sources), tmp_path / "merged.safetensors", format=format)
        return stored(path)[1]

    @pytest.mark.parametrize("count", [1, 2])
    def test_says_nothing_of_one_source(self, tmp_path, format, count):
        sources = [(lora(tmp_path, f"{n}", n), 0.7) for n in range(count)]
        told = self.told(tmp_path, sources, format)
        assert told["modelspec.title"] == "merged"
        assert not any(told.get(key) == text for key, text in (OF_ONE_FILE | OF_ONE_TRAINING).items())
        assert told["modelspec.merged_from"] == ", ".join(f"{n}.safetensors" for n in range(count))
        kind = "lora" if format == "lora" else "qr-lora"
        of_base = OF_THE_BASE | {"modelspec.architecture": f"stable-diffusion-xl-v1-base/{kind}"}
        assert (of_base | OF_ITS_USE).items() <= told.items()

    def test_keeps_what_all_agree_on_alone(self, tmp_path, format):
        other = {key: f"other {text}" for key, text in {**OF_ITS_USE, **OF_THE_BASE}.items()}
        told = self.told(tmp_path, [(lora(tmp_path), 1.0), (lora(tmp_path, "dog", 2, other), 0.5)], format)
        assert not (OF_ITS_USE | OF_THE_BASE).keys() & told.keys()
        assert [source["name"] for source in json.loads(told["qr_lora.merge"])["sources"]] == [
            "cat.safetensors", "dog.safetensors",
        ]  # fmt: skip


class TestAFileInAnotherFormat:
    def test_keeps_what_is_still_true(self, tmp_path):
        told = stored(save_adapter(lora(tmp_path), tmp_path / "new.safetensors", format="lora"))[1]
        true = {"ss_network_dim", "qr_lora.rank", *OF_THE_BASE, *OF_ITS_USE, "modelspec.author", "ss_steps"}
        assert {key: ALL[key] for key in true}.items() <= told.items()
        assert told["modelspec.title"] == "new"
        assert not any(told.get(key) == text for key, text in OF_ONE_FILE.items())
        assert not {"ss_network_alpha", "qr_lora.alpha", "ss_network_args", "ss_network_module"} & told.keys()

    def test_loses_a_rank_that_it_has_no_more(self, tmp_path):
        told = stored(save_adapter(lora(tmp_path, rank=2), tmp_path / "new.safetensors", format="lora"))[1]
        assert "ss_network_dim" not in told
        assert told["ss_network_alpha"] == "2.0"

    def test_full_holds_no_digests(self, tmp_path):
        told = stored(save_adapter(lora(tmp_path), tmp_path / "new.safetensors"))[1]
        assert not {"sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"} & told.keys()
        assert told["modelspec.architecture"] == "stable-diffusion-xl-v1-base/qr-lora"
        again = save_adapter(load_adapter(tmp_path / "new.safetensors"), tmp_path / "again.safetensors", format="lora")
        assert stored(again)[1]["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"

    def test_of_layers_without_matrices(self, tmp_path):
        adapter = load_adapter(saved(tmp_path, {"x.diff_b": normal(8, seed=1)}, "a.safetensors", metadata=ALL))
        told = stored(save_adapter(QRLoRA(adapter.layers, ALL), tmp_path / "b.safetensors", format="lora"))[1]
        assert "ss_network_dim" not in told
