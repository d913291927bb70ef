"""The example workflows on the page: nothing missing, nothing said in the console, the prompt as it was written."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from playwright.sync_api import Page, Response

from devtools.server import Server
from generators import workflows

pytestmark = [pytest.mark.web, pytest.mark.server]

OPEN = """async workflow => {
  await window.app.loadGraphData(workflow);
  const { output } = await window.app.graphToPrompt();
  const nodes = window.app.graph.nodes.map(({ id, type, pos, size }) =>
    ({ id, type, x: pos[0], y: pos[1], width: size[0], height: size[1] }));
  const known = window.LiteGraph.registered_node_types;
  const missing = window.app.graph.nodes.filter(node => !(node.type in known)).map(node => node.type);
  return { output, nodes, missing };
}"""
QUEUED = ("live_tweak", "sweep_grid")


# The host asks its makers' server about every kind of node, others for models that are missing, and for files that it
# then does without; one of them looks for the graph too early.
NOT_OURS = ("api.comfy.org", "huggingface.co", "Failed to load resource", "graph accessed before initialization")


def watch(page: Page) -> list[str]:
    """What the page throws, what the console calls an error, and what of ours cannot be had."""
    seen: list[str] = []

    def note(response: Response) -> None:
        if response.status >= 400 and any(part in response.url for part in ("/extensions/", "/qr_lora/")):
            seen.append(f"{response.status} {response.url}")

    page.on("response", note)
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("console", lambda message: seen.append(message.text) if message.type == "error" else None)
    return seen


def ours(errors: list[str]) -> list[str]:
    return [error for error in errors if not any(part in error for part in NOT_OURS)]


def editor_form(name: str) -> dict[str, Any]:
    return json.loads((workflows.FOLDER / f"{name}.json").read_text("utf-8"))


def picture_node(prompt: dict[str, Any]) -> str:
    (shown,) = [name for name in prompt if prompt[name]["class_type"] in ("SaveImage", "PreviewImage")]
    return shown


def overlaps(nodes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Nodes that lie on one another as the page shows them."""
    found = []
    for i, a in enumerate(nodes):
        for b in nodes[i + 1 :]:
            across = a["x"] < b["x"] + b["width"] and b["x"] < a["x"] + a["width"]
            if across and a["y"] < b["y"] + b["height"] and b["y"] < a["y"] + a["height"]:
                found.append((f"{a['id']} {a['type']}", f"{b['id']} {b['type']}"))
    return found


def provide_adapters(server: Server, name: str) -> None:
    """The playground's under the names that an example for another model asks for."""
    small = workflows.on_playground(workflows.prompt_of(name))
    for number, node in workflows.prompt_of(name).items():
        if node["class_type"] == "QRLoRA_Load" and small[number] != node:
            asked, own = (server.models_dir / given["inputs"]["adapter_name"] for given in (node, small[number]))
            shutil.copy(own, asked)


def test_every_example_opens_and_gives_the_prompt_that_was_written(page: Page, web_server: Server) -> None:
    errors = watch(page)
    for name in workflows.names():
        provide_adapters(web_server, name)
        opened = page.evaluate(OPEN, editor_form(name))
        prompt = workflows.prompt_of(name)
        assert opened["missing"] == [], name
        assert set(opened["output"]) == set(prompt), name  # the note is no part of it
        for number, node in prompt.items():
            sent = opened["output"][number]
            assert sent["class_type"] == node["class_type"]
            assert {key: sent["inputs"].get(key) for key in node["inputs"]} == node["inputs"], (name, number)
        assert overlaps(opened["nodes"]) == [], name
    assert ours(errors) == []


def test_examples_run_from_the_page_to_a_picture(page: Page, web_server: Server) -> None:
    errors = watch(page)
    for name in QUEUED:
        page.evaluate(OPEN, editor_form(name))
        shown = picture_node(workflows.prompt_of(name))
        page.evaluate("() => window.app.queuePrompt(0)")
        page.wait_for_function("node => window.app.nodeOutputs[node]?.images?.length", arg=shown)
        (image,) = page.evaluate("node => window.app.nodeOutputs[node].images", shown)
        folder = web_server.output_dir if image["type"] == "output" else web_server.base / "temp"
        assert (folder / image["subfolder"] / image["filename"]).stat().st_size > 1000
    assert ours(errors) == []
