"""The Mixer node: files with a scale each, as Load and Merge with the same do it, and as stock loaders in a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.lora
import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import nodes as host_nodes
from comfyui_qr_lora.nodes.blocks import Blocks
from comfyui_qr_lora.nodes.host.mix.errors import MixError
from comfyui_qr_lora.nodes.load import Load
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.nodes.mixer import Mixer
from comfyui_qr_lora.nodes.save import Save
from comfyui_qr_lora.nodes.schedule import Schedule
from comfyui_qr_lora.qrlora_core import QRLoRAError
from devtools import tiny_models

from ...support.adapters import relative_error
from ...support.lora_files import factors, matrices, model, predict, saved
from ...support.sampling import sample
from ...support.text_encoders import clip_l, encode

MODELS = ("flux", "sdxl", "sd3")
SCALES = (0.7, -0.4, 1.0)
TOLERANCE = 1e-4  # relative to the adapters' effect
TEXT_LAYERS = [
    f"lora_te_text_model_encoder_layers_{layer}_{part}" for layer in (0, 1) for part in ("self_attn_q_proj", "mlp_fc1")
]
TEXT_SHAPES = {name: (128 if name.endswith("fc1") else 64, 64) for name in TEXT_LAYERS}


def lora(name: str, seed: int, metadata: dict[str, str] | None = None, **changed: Any) -> str:
    """A LoRA for all matrices of a model and of the small CLIP-L, with numbers of its own; its name below loras."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for path, shape in (matrices(model(name)) | TEXT_SHAPES).items():
        tensors |= factors(path, shape, generator)
    return saved({key: tensor.to(**changed) for key, tensor in tensors.items()}, metadata)


def loras(name: str) -> list[str]:
    """One in half precision, and one without alpha among them."""
    kept = lora(name, 3)
    path = Path(folder_paths.get_full_path("loras", kept))
    save_file({key: tensor for key, tensor in load_file(path).items() if not key.endswith("alpha")}, path)
    return [lora(name, 1), lora(name, 2, dtype=torch.float16), kept]


def parted(patcher: Any, seed: int) -> dict[str, Tensor]:
    """A LoRA by the names that mean rows of a weight, where the host's table has such, and by others."""
    generator, tensors = torch.Generator().manual_seed(seed), dict[str, Tensor]()
    parameters = dict(patcher.model.named_parameters())
    known = comfy.lora.model_lora_keys_unet(patcher.model, {})
    by_rows = {
        key: name for name, key in known.items() if isinstance(key, tuple) and key[0] in parameters
    }  # one for each
    for (key, part, *_), name in by_rows.items():
        shape = parameters[key].shape
        if name.endswith("qkv") or "to_qkv" in name:  # q, k and v have names of their own; no file has both
            continue
        tensors |= factors(name, (part[2] if part else shape[0], *shape[1:]), generator)
    return tensors or {
        k: t for name, shape in matrices(patcher).items() for k, t in factors(name, shape, generator).items()
    }


def mix(*rows: dict[str, Any], **more: Any) -> str:
    return json.dumps({"version": 1, "rows": list(rows), **more})


def rows_of(names: list[str], *more: dict[str, Any]) -> list[dict[str, Any]]:
    given = more or ({},) * len(names)
    return [
        {"file": f"loras/{file}", "scale": scale, **fields}
        for file, scale, fields in zip(names, SCALES, given, strict=False)
    ]


def mixed(name: str, *rows: dict[str, Any], apply: str = "live", **more: Any) -> Any:
    """The model that the node gives."""
    return Mixer.execute(model(name), mix=mix(*rows), apply=apply, **more).args[0]


def merged(name: str, names: list[str], **given: Any) -> Any:
    """The same by Load and Merge."""
    slots = enumerate(zip(names, SCALES, strict=False), start=1)
    wired = {}
    for slot, (file, scale) in slots:
        wired |= {f"adapter_{slot}": Load.execute(f"loras/{file}").args[0], f"scale_{slot}": scale}
    return Merge.execute(model(name), **(wired | given))


def stock(name: str, names: list[str], clip: Any = None, strengths: Any = None) -> tuple[Any, Any]:
    """Stock loaders in a row."""
    patcher = model(name)
    for file, (scale, clip_scale) in zip(names, strengths or zip(SCALES, SCALES, strict=True), strict=False):
        patcher, clip = host_nodes.LoraLoader().load_lora(patcher, clip, file, scale, clip_scale)
    return patcher, clip


@pytest.mark.parametrize("apply", ["live", "patch"])
@pytest.mark.parametrize("name", MODELS)
def test_is_merge_with_the_same_files(name: str, apply: str) -> None:
    """Bit for bit."""
    names = loras(name)
    by_mixer = mixed(name, *rows_of(names), apply=apply)
    assert torch.equal(predict(name, by_mixer), predict(name, merged(name, names, apply=apply).args[0]))


@pytest.mark.parametrize("mode", [("ties", {"density": 0.3}), ("null_space", {"protect": 2, "mu": 1.5})])
def test_merge_modes_are_those_of_merge(mode: tuple[str, dict[str, Any]]) -> None:
    """Also where rows before are off: a parameter names a row by its number."""
    how, given = mode
    names = loras("sd3")
    expected = predict("sd3", merged("sd3", names, mode=how, **given).args[0])
    assert torch.equal(predict("sd3", mixed("sd3", *rows_of(names), mode=how, **given)), expected)
    later = {key: value + 1 if key == "protect" else value for key, value in given.items()}
    off = {"file": "loras/not_here.safetensors", "on": False}
    assert torch.equal(predict("sd3", mixed("sd3", off, *rows_of(names), mode=how, **later)), expected)


@pytest.mark.parametrize("name", MODELS)
def test_stock_loaders_in_a_row(name: str) -> None:
    """Bit for bit in patch, and within the tolerance in live: networks and text encoders, each at its own strength."""
    names, strengths = loras(name), [(0.7, 0.3), (-0.4, -0.4), (0.0, 1.1)]
    expected, expected_clip = stock(name, names, clip_l(), strengths)
    rows = [
        {"file": f"loras/{file}", "scale": scale, "clip_scale": clip_scale}
        for file, (scale, clip_scale) in zip(names, strengths, strict=True)
    ]
    base, base_text = predict(name, model(name)), encode(clip_l())
    patched = Mixer.execute(model(name), clip=clip_l(), mix=mix(*rows), apply="patch").args
    assert torch.equal(predict(name, patched[0]), predict(name, expected))
    assert torch.equal(encode(patched[1]), encode(expected_clip))
    live = Mixer.execute(model(name), clip=clip_l(), mix=mix(*rows)).args
    assert relative_error(predict(name, live[0]), predict(name, expected), base) < TOLERANCE
    assert relative_error(encode(live[1]), encode(expected_clip), base_text) < TOLERANCE


def test_one_file_in_two_rows_is_two_stock_loaders() -> None:
    """Bit for bit in patch, though its rows share a basis and could be summed."""
    names, strengths = [loras("sd3")[0]] * 3, [(0.7, 0.3), (-0.4, -0.4), (0.1, 1.1)]
    expected, expected_clip = stock("sd3", names, clip_l(), strengths)
    stack = [(file, *both) for file, both in zip(names, strengths, strict=True)]
    given = Mixer.execute(model("sd3"), clip=clip_l(), lora_stack=stack, apply="patch").args
    assert torch.equal(predict("sd3", given[0]), predict("sd3", expected))
    assert torch.equal(encode(given[1]), encode(expected_clip))


@pytest.mark.parametrize("name", MODELS)
def test_a_stack_is_stock_loaders_in_a_row(name: str) -> None:
    """From the stock loader's own values, beside rows, and what is handed on is the same again."""
    names, strengths = loras(name), [(0.7, 0.3), (-0.4, -0.4), (0.0, 1.1)]
    entries = [(file, *both) for file, both in zip(names, strengths, strict=True)]
    expected, expected_clip = stock(name, names, clip_l(), strengths)
    row = {"file": f"loras/{names[0]}", "scale": 0.7, "clip_scale": 0.3}
    given = Mixer.execute(model(name), clip=clip_l(), mix=mix(row), apply="patch", lora_stack=entries[1:]).args
    assert torch.equal(predict(name, given[0]), predict(name, expected))
    assert torch.equal(encode(given[1]), encode(expected_clip))
    assert given[5] == entries


def test_silent_rows_are_the_base_bit_for_bit() -> None:
    names = loras("sd3")
    base = predict("sd3", model("sd3"))
    for rows, more in (
        (rows_of(names, *({"on": False},) * 3), {}),
        (rows_of(names), {"on": False}),
        (rows_of(names, *({"scale": 0},) * 3), {}),
        ([], {}),
    ):
        given = Mixer.execute(model("sd3"), mix=mix(*rows, **more)).args
        assert torch.equal(predict("sd3", given[0]), base)
    soloed = mixed("sd3", *rows_of(names, {}, {"solo": True}, {}))
    alone = mixed("sd3", rows_of(names)[1])
    assert torch.equal(predict("sd3", soloed), predict("sd3", alone))


def test_block_rules_and_schedules_are_those_of_their_nodes() -> None:
    """A row's rule is QR-LoRA Blocks between, its schedule QR-LoRA Schedule beside."""
    (file,) = loras("sd3")[:1]
    rules, curve = "joint_blocks.0: 0.25", "early"
    adapter = Blocks.execute(Load.execute(f"loras/{file}").args[0], rules, model("sd3")).args[0]
    schedule = Schedule.execute(curve, 0.0, 1.0).args[0]
    expected = Merge.execute(model("sd3"), adapter_1=adapter, scale_1=0.7, schedule_1=schedule).args[0]
    row = {"file": f"loras/{file}", "scale": 0.7, "blocks": rules, "schedule": curve}
    found, by_points = (mixed("sd3", row | more) for more in ({}, {"schedule": "0:1, 0.4:1, 0.6:0"}))
    assert torch.equal(sample(found), sample(expected))
    assert torch.equal(sample(by_points), sample(expected))
    assert not torch.equal(sample(found), sample(mixed("sd3", row | {"schedule": ""})))


def test_the_merged_adapter_is_the_mix() -> None:
    """Saved and loaded again, as one adapter."""
    names = loras("sd3")
    given = Mixer.execute(model("sd3"), clip=clip_l(), mix=mix(*rows_of(names, {"clip_scale": 0.1}, {}, {}))).args
    assert given[2].metadata["qr_lora.merge_own_clip_scales"] == f"{names[0]} 0.1"
    path = Save.execute(given[2], "mixed", "full").args[0]
    again = Load.execute(path).args[0]
    both = Merge.execute(model("sd3"), clip=clip_l(), adapter_1=again).args
    base, base_text = predict("sd3", model("sd3")), encode(clip_l())
    assert relative_error(predict("sd3", both[0]), predict("sd3", given[0]), base) < TOLERANCE
    assert relative_error(encode(both[3]), encode(given[1]), base_text) < TOLERANCE


def test_without_a_model_it_hands_on_a_stack() -> None:
    """With what is in it."""
    file = lora("sd3", 1, {"modelspec.trigger_phrase": "ohwx cat, "})
    row = {"file": f"loras/{file}", "scale": 0.5, "clip_scale": 0.25}
    model_out, _, _, report, words, stack = Mixer.execute(mix=mix(row)).args
    assert model_out is None
    assert stack == [(file, 0.5, 0.25)]
    assert words == "ohwx cat"
    assert "no model connected" in report


def test_trigger_words_come_once_and_of_what_is_heard() -> None:
    told = ["ohwx cat", "flat ink", "ohwx cat", "never"]
    names = [lora("sd3", seed, {"modelspec.trigger_phrase": words}) for seed, words in enumerate(told)]
    rows = [{"file": f"loras/{file}", "on": number < 3} for number, file in enumerate(names)]
    assert Mixer.execute(model("sd3"), mix=mix(*rows)).args[4] == "ohwx cat, flat ink"


class TestFiles:
    """Loaded once, and again when they change."""

    @pytest.fixture
    def loads(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        from comfyui_qr_lora.nodes.host.mix import loaded

        paths: list[Path] = []
        load = loaded.load
        monkeypatch.setattr(loaded, "load", lambda path, **more: [paths.append(path), load(path, **more)][1])
        return paths

    def test_a_new_scale_loads_nothing(self, loads: list[Path]) -> None:
        """Nor does switching a row off and on, or another model that was seen before."""
        rows = rows_of(loras("sd3"))
        first = mixed("sd3", *rows)
        assert len(loads) == 3
        rows[0]["scale"] = 0.1
        second = mixed("sd3", *rows)
        mixed("sd3", *rows[:2], rows[2] | {"on": False})
        mixed("sd3", *rows)
        assert len(loads) == 3
        assert not torch.equal(predict("sd3", first), predict("sd3", second))
        mixed("sd3", *rows[:2])
        mixed("sd3", *rows)
        assert len(loads) == 4, "a removed row is forgotten"

    def test_a_file_that_changes_is_loaded_again(self, loads: list[Path]) -> None:
        file = loras("sd3")[0]
        row, path = {"file": f"loras/{file}"}, Path(folder_paths.get_full_path("loras", file))
        before, stamp = predict("sd3", mixed("sd3", row)), Mixer.fingerprint_inputs(mix(row))
        save_file({key: 2 * tensor if "up" in key else tensor for key, tensor in load_file(path).items()}, path)
        assert Mixer.fingerprint_inputs(mix(row)) != stamp
        assert not torch.equal(predict("sd3", mixed("sd3", row)), before)
        assert len(loads) == 2


class TestRefused:
    """With the row, and the model stays as it is."""

    def test_a_missing_file_only_where_its_row_is_on(self) -> None:
        (there,) = loras("sd3")[:1]
        gone = [{"file": f"loras/gone_{number}.safetensors", "on": on} for number, on in enumerate((True, False, True))]
        rows = [{"file": f"loras/{there}"}, *gone]
        message = Mixer.validate_inputs(mix(*rows))
        assert isinstance(message, str)
        assert "2 (loras/gone_0.safetensors), 4 (loras/gone_2.safetensors)" in message
        assert "gone_1" not in message
        assert Mixer.validate_inputs(mix(rows[0], rows[2])) is True
        with pytest.raises(MixError, match="gone_0"):
            mixed("sd3", *rows)
        with pytest.raises(MixError, match=r"stack 1 \(loras/gone\)"):
            Mixer.execute(model("sd3"), lora_stack=[("gone", 1.0, 1.0)])
        mixed("sd3", rows[0], rows[2])

    @pytest.mark.parametrize(
        "name", ["../secret", "loras/../../secret", "/etc/passwd", "loras//etc/passwd", "C:\\x", "loras"]
    )
    def test_names_that_lead_out(self, name: str) -> None:
        assert isinstance(Mixer.validate_inputs(mix({"file": name})), str)
        with pytest.raises(QRLoRAError):
            Mixer.execute(model("sd3"), lora_stack=[(name, 1.0, 1.0)])

    def test_all_rows_that_cannot_be_loaded_are_named(self) -> None:
        names = loras("sd3")
        for file in names[:2]:
            Path(folder_paths.get_full_path("loras", file)).write_bytes(b"not a LoRA")
        rows = rows_of(names, {}, {}, {"blocks": "nowhere.*: 0.5"})
        with pytest.raises(MixError) as refused:
            mixed("sd3", *rows)
        lines = str(refused.value).splitlines()
        assert [line.split(":")[0] for line in lines] == [f"mix, row {n} (loras/{f})" for n, f in enumerate(names, 1)]
        assert "names no layer" in lines[2]
        base = predict("sd3", model("sd3"))
        assert torch.equal(predict("sd3", mixed("sd3", *rows_of(names, *({"on": False},) * 3))), base)

    def test_a_schedule_in_patch(self) -> None:
        with pytest.raises(QRLoRAError, match="a schedule needs apply = live"):
            mixed("sd3", {"file": f"loras/{loras('sd3')[0]}", "schedule": "late"}, apply="patch")

    def test_what_comes_by_a_link_is_refused_when_it_runs(self) -> None:
        assert Mixer.validate_inputs() is True
        with pytest.raises(MixError, match="not JSON"):
            Mixer.execute(model("sd3"), mix="{")


@pytest.mark.parametrize("name", ["flux", "z_image", "sd3", "qwen_image"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_stock_loaders_in_a_row_on_rows_of_weights(name: str, dtype: torch.dtype) -> None:
    """Names of trainers that part a fused weight, on weights in low precision: bit for bit in patch."""
    patcher = tiny_models.build(name, dtype=dtype)
    names = [saved(parted(patcher, seed)) for seed in range(3)]
    expected = patcher
    for file, scale in zip(names, SCALES, strict=True):
        expected = host_nodes.LoraLoaderModelOnly().load_lora_model_only(expected, file, scale)[0]
    found = Mixer.execute(patcher, mix=mix(*rows_of(names)), apply="patch").args[0]
    assert found.patches.keys() == expected.patches.keys()
    assert found.patches
    for key in expected.patches:
        weight = expected.model.get_parameter(key).detach()
        by_stock, by_mixer = (
            comfy.lora.calculate_weight(one.patches[key], weight.float(), key) for one in (expected, found)
        )
        assert torch.equal(by_mixer, by_stock), key
