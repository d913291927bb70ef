"""Two files of one adapter, for the two models of Wan 2.2, find each other by their names."""

from pathlib import Path

import folder_paths
import pytest

from comfyui_qr_lora.nodes.host.files.pairs import half_of
from comfyui_qr_lora.nodes.load import Load
from comfyui_qr_lora.qrlora_core import save_adapter
from devtools import tiny_models

from ...support.adapters import random_adapter


@pytest.fixture
def loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    return tmp_path


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("high", "low"),
    [
        ("cat_high_noise.safetensors", "cat_low_noise.safetensors"),
        ("Cat-HighNoise-v2.safetensors", "Cat-LowNoise-v2.safetensors"),
        ("wan22HighNoise_cat.safetensors", "wan22LowNoise_cat.safetensors"),
        ("wan2.2_cat_HIGH.safetensors", "wan2.2_cat_LOW.safetensors"),
        ("cat_HN.safetensors", "cat_LN.safetensors"),
        ("high noise/cat.safetensors", "low noise/cat.safetensors"),
        ("High/cat_high.safetensors", "Low/cat_low.safetensors"),
        ("highnoise_slow_cat.safetensors", "lownoise_slow_cat.safetensors"),
    ],
)
def test_the_halves_of_a_pair(loras: Path, high: str, low: str) -> None:
    put(loras, high, low)
    for noise, name, other in (("high", high, low), ("low", low, high)):
        half = half_of(f"loras/{name}")
        assert half is not None
        assert (half.noise, half.other) == (noise, f"loras/{other}")


@pytest.mark.parametrize(
    "names",
    [
        ("cat_high_noise.safetensors",),  # the other half is not there
        ("highlight.safetensors", "lowlight.safetensors"),
        ("flow.safetensors", "fhigh.safetensors"),
        ("chn.safetensors", "cln.safetensors"),
        ("high_to_low.safetensors", "low_to_high.safetensors"),  # who knows
        ("cat.safetensors", "dog.safetensors"),
    ],
)
def test_what_is_no_pair(loras: Path, names: tuple[str, ...]) -> None:
    put(loras, *names)
    assert [half_of(f"loras/{name}") for name in names] == [None] * len(names)


def test_load_says_which_half_it_is(loras: Path) -> None:
    adapter = random_adapter(tiny_models.build("wan"))
    for noise in ("high", "low"):
        save_adapter(adapter, loras / f"cat_{noise}_noise.safetensors", format="lora")
    text = Load.execute("loras/cat_high_noise.safetensors").ui["text"][0]
    assert "one half of a pair, for the model for high noise; loras/cat_low_noise.safetensors is for" in text
    save_adapter(adapter, loras / "cat.safetensors", format="lora")
    assert "pair" not in Load.execute("loras/cat.safetensors").ui["text"][0]
