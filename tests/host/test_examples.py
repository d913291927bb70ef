"""The example workflows: valid against a real server, and each runs to its picture on the playground's model."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from devtools.environment import ROOT
from devtools.server import Server
from generators import blueprints, workflows
from playground import assemble

pytestmark = pytest.mark.server
NAMES = workflows.names()
REAL = ("compose_flux", "compose_sdxl", "compose_sd3", "mix_wan22")
FILE = re.compile(r"^\| `(?P<file>[^`]+)` \| `(?P<folder>[^`]+)` \|", re.MULTILINE)


@pytest.fixture(scope="module")
def node_types(server: Server) -> dict[str, Any]:
    """With an empty file for each that a note names, so that the loaders list it."""
    for name in REAL:
        for file, folder in FILE.findall(workflows.note_of(name)):
            path = server.models_dir / folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return server.get("/object_info")


def shortened(name: str) -> dict[str, Any]:
    """The same graph on the playground, with few steps."""
    prompt = copy.deepcopy(workflows.on_playground(workflows.prompt_of(name)))
    for node in prompt.values():
        if node["class_type"] in ("QRLoRA_Train", "KSampler"):
            node["inputs"]["steps"] = 2
        if node["class_type"] == "KSamplerAdvanced":  # a step for each
            node["inputs"] |= (
                {"steps": 2, "end_at_step": 1}
                if node["inputs"]["start_at_step"] == 0
                else {"steps": 2, "start_at_step": 1}
            )
    return prompt


def faults(prompt: dict[str, Any], node_types: dict[str, Any]) -> list[str]:
    """What the server would not take, and what it would overlook."""
    found = []
    for number, node in prompt.items():
        kind = node_types[node["class_type"]]["input"]
        known = kind.get("required", {}) | kind.get("optional", {})
        found += [f"{number}: {name} is missing" for name in kind.get("required", {}) if name not in node["inputs"]]
        found += [f"{number}: {name} is unknown" for name in node["inputs"] if name not in known]
        for name, value in node["inputs"].items():
            if name in known and not _fits(value, known[name], prompt, node_types):
                found.append(f"{number}: {name} cannot be {value!r}")
    return found


def _fits(value: Any, spec: Any, prompt: dict[str, Any], node_types: dict[str, Any]) -> bool:
    options = spec[1] if len(spec) > 1 else {}
    if isinstance(value, list):
        given = node_types[prompt[value[0]]["class_type"]]["output"][value[1]]
        return spec[0] in (given, "*")
    choices = spec[0] if isinstance(spec[0], list) else options.get("options") if spec[0] == "COMBO" else None
    if choices is not None:
        return value in choices
    return not isinstance(value, int | float) or options.get("min", value) <= value <= options.get("max", value)


@pytest.mark.parametrize("name", NAMES)
def test_every_node_input_and_link_is_what_the_server_has(name: str, node_types: dict[str, Any]) -> None:
    assert faults(workflows.prompt_of(name), node_types) == []


def test_a_fault_is_found(node_types: dict[str, Any]) -> None:
    prompt = workflows.prompt_of("compose_flux")
    prompt["1"]["inputs"]["unet_name"] = "another.safetensors"
    prompt["20"]["inputs"] |= {"latents": ["3", 0], "rank": 0, "nothing": 1}
    del prompt["20"]["inputs"]["positive"]
    assert len(faults(prompt, node_types)) == 5


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_to_its_picture(name: str, server: Server) -> None:
    prompt = shortened(name)
    outputs = server.queue(prompt)["outputs"]
    (shown,) = [node for node in prompt if prompt[node]["class_type"] in ("SaveImage", "PreviewImage")]
    assert len(outputs[shown]["images"]) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_file_for_the_editor_is_up_to_date(name: str, node_types: dict[str, Any]) -> None:
    made = workflows.to_editor(workflows.prompt_of(name), node_types, workflows.note_of(name))
    kept = json.loads((workflows.FOLDER / f"{name}.json").read_text("utf-8"))
    assert kept == made
    assert made["nodes"][-1]["type"] == "MarkdownNote"


@pytest.mark.parametrize("blueprint", blueprints.BLUEPRINTS, ids=lambda blueprint: blueprint.name)
def test_the_blueprint_is_up_to_date(blueprint: blueprints.Blueprint, node_types: dict[str, Any]) -> None:
    kept = json.loads((blueprints.FOLDER / f"{blueprint.name}.json").read_text("utf-8"))
    assert kept == blueprints.to_workflow(blueprint, node_types)


@pytest.mark.parametrize("name", NAMES)
def test_no_two_nodes_overlap(name: str) -> None:
    nodes = json.loads((workflows.FOLDER / f"{name}.json").read_text("utf-8"))["nodes"]
    boxes = [(*node["pos"], *node["size"]) for node in nodes]
    for i, (x, y, w, h) in enumerate(boxes):
        for left, top, width, height in boxes[i + 1 :]:
            apart = x + w <= left or left + width <= x or y + h <= top - 30 or top + height <= y - 30
            assert apart, (boxes[i], (left, top, width, height))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_explained_and_has_a_small_picture(name: str) -> None:
    readme = (workflows.FOLDER / "README.md").read_text("utf-8")
    assert f"[{name}]({name}.json)" in readme
    assert 2_000 < (workflows.FOLDER / f"{name}.jpg").stat().st_size < 60_000


def test_every_file_that_a_loader_asks_for_is_in_the_note() -> None:
    for name in REAL:
        named = {file for file, _ in FILE.findall(workflows.note_of(name))}
        asked = {
            value.rpartition("/")[2]
            for node in workflows.prompt_of(name).values()
            for value in node["inputs"].values()
            if isinstance(value, str) and value.endswith(".safetensors")
        }
        assert asked == named


def test_the_adapters_of_the_examples_are_small() -> None:
    files = [ROOT / "playground" / "weights" / name for names in assemble.ADAPTERS.values() for name in names]
    assert sum(path.stat().st_size for path in files) < 2_000_000
