"""The subgraph blueprints on the page: listed, put on the canvas, and run to a picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from devtools.server import Server
from devtools.workspace import PACK_NAME
from generators.blueprints import BLUEPRINTS, COMPOSE, TRAIN
from playground import assemble

pytestmark = [pytest.mark.web, pytest.mark.server]

ADDED = "title => window.app.graph.nodes.find(node => node.title === title && node.isSubgraphNode?.())"
BUILD = """async () => {
  const graph = window.app.graph;
  const add = (type, values = {}) => {
    const node = window.LiteGraph.createNode(type);
    graph.add(node);
    for (const [name, value] of Object.entries(values)) node.widgets.find(w => w.name === name).value = value;
    return node;
  };
  const join = (from, slot, to, name) => from.connect(slot, to, to.inputs.findIndex(input => input.name === name));
  const blueprint = title => graph.nodes.find(node => node.title === title);
  const [train, compose] = [blueprint(TRAIN), blueprint(COMPOSE)];
  const inner = (node, type) => node.subgraph.nodes.find(n => n.type === type);
  const shown = node => node.widgets.map(({ name }) => name.replace(/^\\d+: /, ''));  // some name the node inside too
  const widget = (node, name) => node.widgets[shown(node).indexOf(name)];
  for (const [name, value] of Object.entries(SETTINGS)) {
    (widget(train, name) ?? widget(inner(train, 'QRLoRA_Train'), name)).value = value;
  }
  const model = add('CheckpointLoaderSimple', { ckpt_name: MODEL });
  const image = add('LoadImage', { image: 'content.png' });
  const style = add('QRLoRA_Load', { adapter_name: 'qr_loras/playground_style.safetensors' });
  const caption = add('CLIPTextEncode', { text: 'an orange house' });
  const empty = add('EmptySD3LatentImage', { width: 128, height: 128 });
  const sampler = add('KSampler', { steps: 2, cfg: 2.5 });
  const decode = add('VAEDecode');
  const save = add('SaveImage');
  join(model, 0, train, 'model'); join(model, 2, train, 'vae'); join(image, 0, train, 'image');
  join(model, 1, caption, 'clip'); join(caption, 0, train, 'positive');
  join(model, 0, compose, 'model'); join(train, 0, compose, 'content'); join(style, 0, compose, 'style');
  join(compose, 0, sampler, 'model'); join(caption, 0, sampler, 'positive'); join(caption, 0, sampler, 'negative');
  join(empty, 0, sampler, 'latent_image'); join(sampler, 0, decode, 'samples'); join(model, 2, decode, 'vae');
  join(decode, 0, save, 'images');
  widget(compose, 'scale_2').value = 0.35;
  const { output } = await window.app.graphToPrompt();
  const visible = node => shown(node).filter(name => node.isWidgetVisible(widget(node, name)));
  return { output, save: String(save.id), composed: visible(compose), trained: visible(train) };
}"""
SETTINGS: dict[str, Any] = {
    "steps": 2, "rank": 4, "training_dtype": "fp32", "gradient_checkpointing": False, "keep_checkpoints": 0,
}  # fmt: skip


@pytest.fixture(params=["panels", "no panels"])
def panels(request: pytest.FixtureRequest, web_server: Server) -> Iterator[bool]:
    """Whether our panels are on; asked for before `page`, which reads the settings."""
    web_server.post("/api/settings", {"QRLoRA.Desk": request.param == "panels"})
    yield request.param == "panels"
    web_server.post("/api/settings", {"QRLoRA.Desk": True})


def put_on_canvas(page: Page, name: str, x: int) -> None:
    """From the search that a double click on the canvas opens, as a user does; it may hang at the pointer first."""
    page.evaluate("() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.locator('.comfy-vue-node-search-container input, [role="search"] input').first.fill(name)
    found = '.comfy-vue-node-search-container li, [data-testid="result-item"]'
    page.locator(found).filter(has_text=name).first.click()
    page.wait_for_function(f"name => !!({ADDED})(name)", arg=name)
    while True:
        page.mouse.move(x, 300)
        page.mouse.click(x, 300)
        page.wait_for_timeout(200)
        if not page.evaluate(f"name => ({ADDED})(name).flags.ghost ?? false", name):
            break


def test_blueprints_are_listed_and_run_to_a_picture(panels: bool, page: Page, web_server: Server) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.evaluate("() => window.app.loadGraphData({ nodes: [], links: [], version: 0.4 })")
    listed = web_server.get("/global_subgraphs").values()  # of the host's own too, where it brings some
    ours = {entry["name"] for entry in listed if PACK_NAME in entry["info"]["node_pack"]}
    assert ours == {blueprint.name for blueprint in BLUEPRINTS}
    for number, blueprint in enumerate(BLUEPRINTS):
        put_on_canvas(page, blueprint.name, 500 + 400 * number)
    script = BUILD
    for name, value in {"TRAIN": TRAIN.name, "COMPOSE": COMPOSE.name, "MODEL": assemble.NAME}.items():
        script = script.replace(f"({name})", f"({value!r})").replace(f": {name} ", f": {value!r} ")
    built = page.evaluate(script.replace("SETTINGS", str(SETTINGS).replace("False", "false")))
    assert built["trained"] == [widget for _, widget in TRAIN.widgets]
    assert built["composed"] == [widget for _, widget in COMPOSE.widgets]
    (merge,) = [node["inputs"] for node in built["output"].values() if node["class_type"] == "QRLoRA_Merge"]
    assert (merge["scale_1"], merge["scale_2"]) == (1.0, 0.35)
    page.evaluate("() => window.app.queuePrompt(0)")
    page.wait_for_function("node => window.app.nodeOutputs[node]?.images?.length", arg=built["save"])
    assert errors == []
