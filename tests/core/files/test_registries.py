"""An adapter kind, and a file format, is one entry of its registry: shown by a toy of each, made here alone."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_qr_lora.qrlora_core import AdapterFileError, Layer, QRLoRA, load_adapter, merge, save_adapter
from comfyui_qr_lora.qrlora_core.files.formats import FORMATS, Format, format_of
from comfyui_qr_lora.qrlora_core.functional.lora import from_lora
from comfyui_qr_lora.qrlora_core.kinds.kind import Kind
from comfyui_qr_lora.qrlora_core.kinds.registry import KINDS
from comfyui_qr_lora.qrlora_core.kinds.tensors import require_parts
from comfyui_qr_lora.qrlora_core.term import from_difference
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal

OUT, WIDTH, RANK, EXACT = 6, 9, 3, 1e-6
UP, DOWN, GAIN = normal(OUT, RANK, seed=1), normal(RANK, WIDTH, seed=2), normal(RANK, seed=3)
ALPHA = 1.5
DELTA = ALPHA / RANK * UP.double() @ GAIN.double().diag() @ DOWN.double()


def _gained_part(key):
    stem, _, part = key.rpartition(".gained_")
    return (stem, part) if stem and part in ("up", "down", "gain") else None


def _gained_layer(name, tensors, alpha):
    """``alpha / rank * up diag(gain) down``"""
    require_parts(tensors, ("up", "down", "gain"))
    return name, Layer((from_lora(tensors["up"] * tensors["gain"], tensors["down"], alpha),))


GAINED = Kind("gained LoRA", _gained_part, _gained_layer, ranked="down")

_DENSE = ".dense_delta"
DENSE = Format(
    "dense",
    matches=lambda keys: any(key.endswith(_DENSE) for key in keys),
    header=lambda key: (key.removesuffix(_DENSE), 0) if key.endswith(_DENSE) else None,
    read=lambda file: QRLoRA(
        {key.removesuffix(_DENSE): Layer((from_difference(file.get(key)),)) for key in file.keys}, file.metadata
    ),
    write=lambda adapter, wanted: (
        (path + _DENSE, layer.delta_weight().to(wanted.dtype or torch.float32))
        for path, layer in adapter.layers.items()
    ),
    metadata=lambda adapter, metadata: {**metadata, "dense": str(len(adapter.layers))},
)


@pytest.fixture
def gained():
    KINDS.append(GAINED)
    yield
    KINDS.remove(GAINED)


@pytest.fixture
def dense():
    FORMATS.append(DENSE)
    yield
    FORMATS.remove(DENSE)


def gained_file(tmp_path):
    parts = {"gained_up": UP, "gained_down": DOWN, "gained_gain": GAIN, "alpha": torch.tensor(ALPHA)}
    tensors = {f"{layer}.{part}": tensor.clone() for layer in ("a.to_q", "a.to_k") for part, tensor in parts.items()}
    path = tmp_path / "gained.safetensors"
    save_file(tensors, path)
    return path


@pytest.mark.usefixtures("gained")
class TestAKind:
    def test_is_read_in_exact_form_merged_and_saved(self, tmp_path):
        loaded = load_adapter(gained_file(tmp_path))
        assert loaded.layers.keys() == {"a.to_q", "a.to_k"}
        assert loaded.origin.is_lora
        merged = merge([(loaded, 0.7)])
        saved = save_adapter(merged, tmp_path / "b.safetensors", format="lora")
        tensors = load_file(saved)
        found = tensors["a.to_q.lora_B.weight"].double() @ tensors["a.to_q.lora_A.weight"].double()
        assert oracle.error(found, 0.7 * DELTA) < EXACT

    def test_stands_beside_other_kinds_in_a_file(self, tmp_path):
        tensors = {**load_file(gained_file(tmp_path)), "b.lora_up.weight": UP, "b.lora_down.weight": DOWN}
        save_file(tensors, tmp_path / "both.safetensors")
        loaded = load_adapter(tmp_path / "both.safetensors")
        assert oracle.error(loaded.layers["b"].delta_weight(), UP.double() @ DOWN.double()) < EXACT
        assert oracle.error(loaded.layers["a.to_q"].delta_weight(), DELTA) < EXACT

    def test_is_told_in_a_header(self, tmp_path):
        keys = list(load_file(gained_file(tmp_path)))
        told = [found for key in keys if (found := format_of(keys).header(key))]
        assert sorted(told) == [("a.to_k", 1), ("a.to_q", 1)]

    def test_does_not_share_a_layer_with_another(self, tmp_path):
        tensors = {**load_file(gained_file(tmp_path)), "a.to_q.lora_up.weight": UP, "a.to_q.lora_down.weight": DOWN}
        save_file(tensors, tmp_path / "both.safetensors")
        loaded = load_adapter(tmp_path / "both.safetensors")
        assert loaded.layers.keys() == {"a.to_k"}
        assert re.match(r"layer a\.to_q \(expected one kind, found .* and ", loaded.origin.not_loaded)

    def test_lacks_no_part(self, tmp_path):
        tensors = load_file(gained_file(tmp_path))
        del tensors["a.to_q.gained_gain"]
        save_file(tensors, tmp_path / "less.safetensors")
        loaded = load_adapter(tmp_path / "less.safetensors")
        assert loaded.layers.keys() == {"a.to_k"}
        assert re.match(r"layer a\.to_q \(expected .* found no gain", loaded.origin.not_loaded)


def test_an_unknown_kind_is_no_adapter(tmp_path):
    with pytest.raises(AdapterFileError, match="not an adapter"):
        load_adapter(gained_file(tmp_path))


@pytest.mark.usefixtures("dense")
class TestAFormat:
    adapter = QRLoRA({"x": Layer((from_lora(UP, DOWN, ALPHA),))}, {"triggers": "a cat"})

    def test_is_written_and_read(self, tmp_path):
        saved = save_adapter(self.adapter, tmp_path / "a.safetensors", format="dense")
        expected = ALPHA / RANK * UP.double() @ DOWN.double()
        assert oracle.error(load_file(saved)["x.dense_delta"], expected) < EXACT
        loaded = load_adapter(saved)
        assert oracle.error(loaded.layers["x"].delta_weight(), expected) < EXACT
        assert (loaded.metadata["triggers"], loaded.metadata["dense"]) == ("a cat", "1")

    def test_is_found_by_its_keys(self):
        assert format_of(["x.dense_delta"]) is DENSE
        assert [own.name for own in FORMATS] == ["full", "compact", "lora", "lycoris", "dense"]


def test_a_format_that_is_not_there(tmp_path):
    with pytest.raises(AdapterFileError, match="unknown format 'dense'; expected one of full, compact, lora"):
        save_adapter(TestAFormat.adapter, tmp_path / "a.safetensors", format="dense")
