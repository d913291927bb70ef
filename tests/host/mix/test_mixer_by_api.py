"""The Mixer through a real server, by API JSON alone: pictures, messages, and what runs again."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from devtools.server import PromptError, Server
from generators.workflows import prompt_of, without_roles

pytestmark = pytest.mark.server
EXAMPLE = without_roles(prompt_of("compose_content_and_style"))
LOADER, POSITIVE, NEGATIVE, LATENT, SAMPLER, DECODE, PICTURE = "1", "11", "12", "13", "14", "15", "16"
MIXER, REPORT = "20", "21"
FILES = ("cat", "ink", "fog")
STRENGTHS = ((0.8, 0.5), (-0.3, -0.3), (1.2, 0.0))
_numbers = itertools.count()


@pytest.fixture(scope="module")
def loras(server: Server) -> list[str]:
    """Ordinary LoRAs for the playground's model, of layers of its network and of its text encoder."""
    checkpoint = load_file(next((server.base / "models" / "checkpoints").glob("*playground*.safetensors")))
    folder = server.base / "models" / "loras" / "mix"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(FILES):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer, (rows, columns) in layers(checkpoint).items():
            tensors[f"{layer}.lora_up.weight"] = 0.05 * torch.randn(rows, 4, generator=generator)
            tensors[f"{layer}.lora_down.weight"] = torch.randn(4, columns, generator=generator) / columns**0.5
        save_file(tensors, folder / f"{name}.safetensors")
    return [f"mix/{name}.safetensors" for name in FILES]


def layers(checkpoint: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """kohya's names."""
    found = {}
    for key, tensor in checkpoint.items():
        path = key.removesuffix(".weight")
        if (
            tensor.ndim == 2
            and path.startswith("model.diffusion_model.joint_blocks")
            and path.endswith(("proj", "fc1"))
        ):
            found["lora_unet_" + path.removeprefix("model.diffusion_model.").replace(".", "_")] = tuple(tensor.shape)
        if tensor.ndim == 2 and ".clip_l.transformer.text_model.encoder.layers" in path and path.endswith("q_proj"):
            name = path.split(".clip_l.transformer.")[1].replace(".", "_")
            found[f"lora_te1_{name}"] = tuple(tensor.shape)
    return found


def base() -> dict[str, Any]:
    prompt = {
        name: copy.deepcopy(EXAMPLE[name]) for name in (LOADER, POSITIVE, NEGATIVE, LATENT, SAMPLER, DECODE, PICTURE)
    }
    prompt[LATENT]["inputs"]["batch_size"] = 1
    prompt[SAMPLER]["inputs"] |= {"steps": 3, "model": [LOADER, 0]}
    prompt[PICTURE]["inputs"]["filename_prefix"] = f"mixer_{next(_numbers)}"
    return prompt


def through(prompt: dict[str, Any], model: list[Any], clip: list[Any]) -> dict[str, Any]:
    """The same picture with the model and text encoder of other nodes."""
    prompt[SAMPLER]["inputs"]["model"] = model
    for text in (POSITIVE, NEGATIVE):
        prompt[text]["inputs"]["clip"] = clip
    return prompt


def by_mixer(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    prompt = through(base(), [MIXER, 0], [MIXER, 1])
    mix = json.dumps({"version": 1, "rows": rows}, indent=2)
    prompt[MIXER] = {
        "class_type": "QRLoRA_Mixer",
        "inputs": {"model": [LOADER, 0], "clip": [LOADER, 1], "mix": mix} | more,
    }
    prompt[REPORT] = {"class_type": "PreviewAny", "inputs": {"source": [MIXER, 3]}}
    return prompt


def rows_of(loras: list[str]) -> list[dict[str, Any]]:
    return [
        {"file": f"loras/{file}", "scale": scale, "clip_scale": clip_scale}
        for file, (scale, clip_scale) in zip(loras, STRENGTHS, strict=True)
    ]


def by_stock(loras: list[str]) -> dict[str, Any]:
    prompt, source = base(), LOADER
    for number, (file, (model, clip)) in enumerate(zip(loras, STRENGTHS, strict=True), start=30):
        inputs = {"model": [source, 0], "clip": [source, 1], "lora_name": file}
        prompt[str(number)] = {
            "class_type": "LoraLoader",
            "inputs": inputs | {"strength_model": model, "strength_clip": clip},
        }
        source = str(number)
    return through(prompt, [source, 0], [source, 1])


def picture(server: Server, prompt: dict[str, Any]) -> np.ndarray:
    (image,) = server.images(server.queue(prompt))
    return np.asarray(image.convert("RGB")).astype(np.int16)


def test_pictures(server: Server, loras: list[str]) -> None:
    """Stock loaders in a row: pixel for pixel in patch, but for the last bit of a pixel in live."""
    expected, plain = picture(server, by_stock(loras)), picture(server, base())
    assert np.abs(expected - plain).max() > 10
    assert np.array_equal(picture(server, by_mixer(rows_of(loras), apply="patch")), expected)
    assert np.abs(picture(server, by_mixer(rows_of(loras))) - expected).max() <= 1
    assert np.array_equal(picture(server, by_mixer([])), plain)


def test_the_report_and_what_runs_again(server: Server, loras: list[str]) -> None:
    """A new scale moves no model; the same mix written otherwise draws the same."""
    rows = rows_of(loras)
    history = server.queue(by_mixer(rows))
    report = history["outputs"][REPORT]["text"][0]
    for file in FILES:
        assert f"{file}.safetensors: " in report
    assert [told["slots"] for told in history["outputs"][MIXER]["qr_lora_merge"]] == [[1, 2, 3]]
    start = len(server.log)
    rows[0]["scale"] = 0.1
    server.queue(by_mixer(rows))
    log = server.log[start:]
    assert "loaded completely" not in log
    assert "loaded partially" not in log


def test_messages(server: Server, loras: list[str]) -> None:
    """Before anything runs, on the node, with the row; the good part of the prompt is as it was."""
    gone = {"file": "loras/mix/gone.safetensors"}
    wrong = {
        "missing": ([*rows_of(loras), gone], "of rows that are on: 4 (loras/mix/gone.safetensors)"),
        "out": ([{"file": "loras/../../../etc/passwd"}], "1 (loras/../../../etc/passwd)"),
        "number": ([{"file": "loras/x", "scale": "much"}], "mix, row 1, scale: expected a number"),
    }
    for rows, message in wrong.values():
        with pytest.raises(PromptError) as refused:
            server.queue(by_mixer(rows))
        assert refused.value.node_id == MIXER
        assert message in str(refused.value)
    server.queue(by_mixer([*rows_of(loras), gone | {"on": False}]))


def test_a_linked_mix_and_a_model_that_is_missing(server: Server, loras: list[str]) -> None:
    """A text from another node is a mix as well; without a model, whoever takes the model is told why."""
    rows = rows_of(loras)
    linked = by_mixer([])
    mix = json.dumps({"version": 1, "rows": rows})
    linked["40"] = {"class_type": "PrimitiveString", "inputs": {"value": mix}}
    linked[MIXER]["inputs"]["mix"] = ["40", 0]
    assert np.array_equal(picture(server, linked), picture(server, by_mixer(rows)))
    linked["40"]["inputs"]["value"] = '{"version": 1, "rows": 5}'
    with pytest.raises(PromptError, match="expected a list of at most 64 rows"):
        server.queue(linked)
    alone = by_mixer(rows)
    del alone[MIXER]["inputs"]["model"]
    with pytest.raises(PromptError, match="Connect a model"):
        server.queue(alone)
    del alone[SAMPLER], alone[POSITIVE], alone[NEGATIVE], alone[DECODE], alone[PICTURE]
    assert "lora_stack alone" in server.queue(alone)["outputs"][REPORT]["text"][0]
