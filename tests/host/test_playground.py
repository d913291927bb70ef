"""The embedded default model: assembled, loaded by the host's stock path, and looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from devtools.environment import ROOT
from devtools.host import boot

PROMPTS = [("red", "circle"), ("blue", "star"), ("green", "heart"), ("yellow", "triangle"), ("purple", "cross"),
           ("pink", "square"), ("orange", "diamond"), ("cyan", "ring")]  # fmt: skip


def _register_playground() -> None:
    """Make `playground` importable without the repository root on sys.path."""
    if "playground" not in sys.modules:
        package = ModuleType("playground")
        package.__path__ = [str(ROOT / "playground")]
        sys.modules["playground"] = package


_register_playground()

from playground import assemble, draw  # noqa: E402


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    assemble.assemble(folder)
    return folder


@pytest.fixture(scope="module")
def playground(models: Path) -> Any:
    boot()
    from playground.generate import Playground

    return Playground(models / "checkpoints" / assemble.NAME)


def test_drawing_is_deterministic() -> None:
    scene = draw.Scene("blue", "star", "stripes", "yellow")
    first, second, other = (draw.draw(scene, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert scene.caption == "a blue star with stripes on a yellow background"
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_captions_tell_every_scene_apart() -> None:
    scenes = draw.all_scenes()
    assert len({scene.caption for scene in scenes}) == len(scenes)


def test_example_pictures_are_what_the_script_draws() -> None:
    from PIL import Image

    for name, picture in draw.example_pictures().items():
        assert np.array_equal(np.asarray(Image.open(assemble.ASSETS / name)), picture), name


def test_committed_weights_stay_small() -> None:
    assert assemble.DIFFUSION.stat().st_size + assemble.DECODER.stat().st_size <= 10_000_000


def test_assembling_again_writes_the_same_bytes(models: Path, tmp_path: Path) -> None:
    written = assemble.assemble(tmp_path)
    assert len(written) == 2
    for path in written:
        assert path.read_bytes() == (models / path.relative_to(tmp_path)).read_bytes()


def test_an_up_to_date_file_is_left_alone_without_torch(models: Path, tmp_path: Path) -> None:
    code = ("import sys; from playground import assemble; assemble.main(); "
            "assert 'torch' not in sys.modules and 'numpy' not in sys.modules")  # fmt: skip
    arguments = [sys.executable, "-c", code, "--models", str(models), "--input", str(tmp_path)]
    assemble.copy_adapters(models)
    before = {path: path.stat().st_mtime_ns for path in models.rglob("*.safetensors")}
    subprocess.run(arguments, cwd=ROOT, check=True)
    assert before == {path: path.stat().st_mtime_ns for path in models.rglob("*.safetensors")}
    assert {path.name for path in tmp_path.iterdir()} == set(draw.example_pictures())


def test_a_damaged_file_is_assembled_again(models: Path, tmp_path: Path) -> None:
    target = tmp_path / "diffusion_models" / assemble.NAME
    target.parent.mkdir(parents=True)
    target.write_bytes(b"not a model")
    assemble.assemble(tmp_path)
    assert target.read_bytes() == (models / "diffusion_models" / assemble.NAME).read_bytes()


def test_autoencoder_keeps_a_drawn_picture(playground: Any) -> None:
    import torch

    picture = draw.draw(draw.Scene("red", "heart", "stripes"))
    with torch.inference_mode():
        decoded = playground.vae.decode(playground.vae.encode(torch.from_numpy(picture)[None].float() / 255))
    assert float((decoded[0] - torch.from_numpy(picture) / 255).abs().mean()) < 0.02


def test_known_colours_and_shapes_come_out(playground: Any) -> None:
    from playground.evaluate import colour_of, shape_of

    pictures = [playground.generate(draw.Scene(*names).caption, seed=1)[0] for names in PROMPTS]
    seen = [(colour_of(picture), shape_of(picture)[0]) for picture in pictures]
    assert [colour for colour, _ in seen] == [colour for colour, _ in PROMPTS]
    right = sum(found[1] == wanted[1] for found, wanted in zip(seen, PROMPTS, strict=True))
    assert right >= len(PROMPTS) - 1, list(zip(PROMPTS, seen, strict=True))
