"""A prompt as an earlier release's page wrote it trains as before: every input that came later is as if it were not."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from comfyui_qr_lora.qrlora_core import load_adapter
from devtools.environment import ROOT
from devtools.server import Server

pytestmark = [pytest.mark.server]
FOLDER = ROOT / "tests" / "web" / "workflows"
RELEASES = sorted(path.name.removesuffix(".prompt.json") for path in FOLDER.glob("*.prompt.json"))
TRAIN, SAVE = "QRLoRA_Train", "QRLoRA_Save"


def training_of(release: str) -> tuple[dict[str, Any], str, str]:
    """The part of a release's prompt that ends in a file, and its nodes that train and save; fewer steps, all else."""
    prompt = json.loads((FOLDER / f"{release}.prompt.json").read_text("utf-8"))
    (train,), (save,) = (
        [number for number, node in prompt.items() if node["class_type"] == of] for of in (TRAIN, SAVE)
    )
    wanted, waiting = set[str](), [save]
    while waiting:
        number = waiting.pop()
        wanted.add(number)
        waiting += [value[0] for value in prompt[number]["inputs"].values() if isinstance(value, list)]
    prompt[train]["inputs"]["steps"] = 4
    return {number: node for number, node in prompt.items() if number in wanted}, train, save


def written(server: Server, prompt: dict[str, Any], save: str) -> Path:
    """The file that a prompt saves."""
    (name,) = server.queue(prompt)["outputs"][save]["text"]
    return server.output_dir / Path(name).relative_to("output")


def later_inputs(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """All that the present node has beside what is given, each at its default."""
    optional = server.get(f"/object_info/{TRAIN}")[TRAIN]["input"]["optional"]
    return {name: spec[1]["default"] for name, spec in optional.items() if name not in given and "default" in spec[1]}


@pytest.mark.parametrize("release", RELEASES)
def test_later_inputs_at_their_defaults_change_no_bit_of_the_adapter(server: Server, release: str) -> None:
    prompt, train, save = training_of(release)
    later = later_inputs(server, prompt[train]["inputs"])
    assert later["role"] == "none"
    files = []
    for name, more in (("old", {}), ("later", later)):
        own = copy.deepcopy(prompt)
        own[train]["inputs"] |= more
        own[save]["inputs"]["filename_prefix"] = name
        files.append(written(server, own, save))
    old, new = map(load_file, files)
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in old)
    assert any(tensor.any() for key, tensor in old.items() if "delta_r" in key)
    told = [json.loads(load_adapter(file).metadata["qr_lora.training"]) for file in files]
    for record in told:
        record.pop("seconds")
    assert told[0] == told[1]


@pytest.mark.parametrize("release", RELEASES)
def test_every_value_that_a_release_wrote_is_trained_with(server: Server, release: str) -> None:
    prompt, train, save = training_of(release)
    prompt[save]["inputs"]["filename_prefix"] = "values"
    told = json.loads(load_adapter(written(server, prompt, save)).metadata["qr_lora.training"])
    given = {name: value for name, value in prompt[train]["inputs"].items() if not isinstance(value, list)}
    given["targets"] = given.pop("custom_targets")
    assert {name: told[name] for name in given} == given
    assert told["role"] is None
