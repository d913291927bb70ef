"""Train QR-LoRA folded to what one needs, and unfolded to every setting: what is sent is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from ..support.app_mode import App
from ..support.desk import in_page, look_at, undo
from ..support.subgraph import SET, Outer

pytestmark = [pytest.mark.web, pytest.mark.server]

OLD = Path(__file__).parent / "workflows" / "release_0.1.0.json"
NEEDED = {"preset", "role", "seed", "steps", "run_name", "sample_every", "resume_from"}
OF_PRESET = {
    "steps", "learning_rate", "rank", "alpha", "variant", "targets", "custom_targets", "batch_size",
    "grad_accumulation", "training_dtype", "gradient_checkpointing",
}  # fmt: skip

ADD = """kind => { const made = LiteGraph.createNode(kind); made.pos = [400, 60]; app.graph.add(made);
  return String(made.id) }"""
# Where a mouse would find each widget, in either renderer: on the canvas by its place, else by its row.
FOUND = """id => {
  const node = app.canvas.graph.getNodeById(id), found = new Set(), [x, y] = node.pos;
  if (!LiteGraph.vueNodesMode) {
    for (let down = 0; down < node.size[1]; down += 4) {
      const widget = node.getWidgetOnPos(x + node.size[0] / 2, y + down, true);
      if (widget && !widget.name.startsWith('qr_lora')) found.add(widget.name);
    }
  }
  for (const dot of document.querySelectorAll(`[data-node-id="${id}"] [data-slot-key*="-in-"]`)) {
    const input = node.inputs[Number(dot.dataset.slotKey.split('-').at(-1))];
    if (input.widget && dot.getBoundingClientRect().height) found.add(input.widget.name);
  }
  return [...found];
}"""
WIDGETS = """id => { const { inputs, widgets } = app.canvas.graph.getNodeById(id);
  return Object.fromEntries(inputs.filter(({ widget }) => widget)
    .map(({ widget: { name } }) => [name, widgets.find(widget => widget.name === name).value])) }"""
LOOK_BELOW = """id => { const { ds, graph } = app.canvas, { pos: [x, y], size: [, height] } = graph.getNodeById(id);
  ds.scale = 1; ds.offset = [260 - x, 800 - y - height]; app.canvas.setDirty(true, true) }"""
SIZE = "id => [...app.graph.getNodeById(id).size]"
LINK = """([id, name]) => {
  const made = LiteGraph.createNode('PrimitiveInt'), node = app.graph.getNodeById(id);
  made.pos = [0, 60]; app.graph.add(made); made.connect(0, node, node.findInputSlot(name)) }"""
UNLINK = "([id, name]) => { const node = app.graph.getNodeById(id); node.disconnectInput(node.findInputSlot(name)) }"
RELOAD = "async () => app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize())))"
# A copy in the place of the node.
MOVE_COPY = """id => { const { canvas } = app, node = app.graph.getNodeById(id); canvas.selectItems([node]);
  canvas.copyToClipboard(); canvas.pasteFromClipboard(); const [{ id: copy }] = canvas.selectedItems;
  app.graph.remove(node); return String(copy) }"""
REPORT = {
    "workflow_id": None, "state": "running", "stopping": False, "step": 0, "steps": 700, "losses": [], "samples": [],
    "warnings": [], "loss": None, "seconds_per_step": None, "seconds_left": None, "peak_memory": None,
}  # fmt: skip


class Train:
    """A node Train QR-LoRA and its panel."""

    def __init__(self, page: Page, node: str) -> None:
        self.page, self.node = page, node
        look_at(page, node)
        expect(self.switch).to_be_visible()

    @property
    def panel(self) -> Locator:
        return self.page.locator(".qr-lora:has(.qr-lora-train-curve)")

    @property
    def switch(self) -> Locator:
        return self.panel.get_by_role("button", name="All settings", exact=True)

    @property
    def changed(self) -> Locator:
        return self.panel.locator(".qr-lora-train-changed")

    @property
    def take(self) -> Locator:
        return self.panel.get_by_role("button", name="Write the values of the preset")

    def press(self, button: Locator) -> None:
        """A button of the panel, which may be further down than the page reaches."""
        self.page.wait_for_timeout(300)
        in_page(self.page, LOOK_BELOW, self.node)
        button.click()

    def found(self) -> set[str]:
        self.page.wait_for_timeout(400)
        return set(in_page(self.page, FOUND, self.node))

    def needed(self) -> set[str]:
        """Of what one needs, what this node has."""
        return NEEDED & self.values().keys()

    def values(self) -> dict[str, Any]:
        return in_page(self.page, WIDGETS, self.node)  # type: ignore[no-any-return]

    def set(self, name: str, value: Any) -> None:
        in_page(self.page, SET, [self.node, name, value])

    def height(self) -> float:
        self.page.wait_for_timeout(400)
        return float(in_page(self.page, SIZE, self.node)[1])

    def sent(self) -> dict[str, Any]:
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")  # type: ignore[no-any-return]

    def tell(self, **more: Any) -> None:
        report = {**REPORT, "node_id": self.node, **more}
        in_page(self.page, "report => app.api.dispatchCustomEvent('qr_lora.training', report)", report)


@pytest.fixture
def train(page: Page) -> Train:
    """A new node."""
    return Train(page, in_page(page, ADD, "QRLoRA_Train"))


def test_what_one_needs_or_every_setting_and_the_same_is_sent(page: Page, train: Train) -> None:
    every = set(train.values())
    assert every > train.needed() | OF_PRESET
    assert train.found() == train.needed(), "as a new node opens"
    assert train.switch.get_attribute("aria-expanded") == "false"
    train.set("rank", 32)
    train.set("custom_targets", "attn.to_v\nattn.to_q")
    values, sent, saved, folded = (
        train.values(),
        train.sent(),
        in_page(page, "() => app.graph.serialize()"),
        train.height(),
    )

    train.press(train.switch)
    assert train.found() == every
    assert train.switch.get_attribute("aria-expanded") == "true"
    assert (train.values(), train.sent()) == (values, sent)
    (node,) = in_page(page, "() => app.graph.serialize()")["nodes"]
    assert node["widgets_values"] == saved["nodes"][0]["widgets_values"]
    unfolded = train.height()
    assert unfolded > folded + 200

    for expected, names in ((folded, train.needed()), (unfolded, every), (folded, train.needed())):
        train.press(train.switch)
        assert (train.height(), train.found()) == (expected, names), "no change leaves anything behind"
    assert (train.values(), train.sent()) == (values, sent)


def test_by_keys_and_as_one_step_for_undo(page: Page, train: Train) -> None:
    train.switch.focus()
    for key, expected in (("Enter", "true"), ("Space", "false"), ("Enter", "true")):
        page.keyboard.press(key)
        expect(train.switch).to_have_attribute("aria-expanded", expected)
        expect(train.switch).to_be_focused()
        page.wait_for_timeout(400)  # until the renderer has given the node its size
    assert train.switch.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    every = set(train.values())
    in_page(page, "() => document.activeElement.blur()")
    undo(page)
    assert train.found() == train.needed()
    page.keyboard.press("Control+Shift+z")
    page.wait_for_timeout(600)
    assert train.found() == every
    train.press(train.switch)
    assert train.found() == train.needed(), "the page goes on with what undo has made anew"


def test_a_changed_setting_out_of_sight_is_told(train: Train) -> None:
    expect(train.changed).to_be_hidden()
    train.set("steps", 500)
    expect(train.changed).to_be_hidden()  # everybody sees it
    train.set("rank", 32)
    expect(train.changed).to_have_text("1 changed: rank 32")
    train.set("gradient_checkpointing", False)
    expect(train.changed).to_have_text("2 changed: rank 32, gradient_checkpointing off")
    train.press(train.changed)
    assert train.found() == set(train.values())
    expect(train.changed).to_be_hidden()
    expect(train.switch).to_be_focused()
    train.set("rank", 64)
    train.set("gradient_checkpointing", True)
    train.press(train.switch)
    expect(train.changed).to_be_hidden()


def test_a_link_is_never_out_of_sight(page: Page, train: Train) -> None:
    for name in ("rank", "batch_size"):
        in_page(page, LINK, [train.node, name])
    assert train.found() == train.needed() | {"rank", "batch_size"}
    assert isinstance(train.sent()[train.node]["inputs"]["rank"], list)
    in_page(page, UNLINK, [train.node, "rank"])
    assert train.found() == train.needed() | {"batch_size"}
    in_page(page, RELOAD)
    look_at(page, train.node)
    assert train.found() == train.needed() | {"batch_size"}


@pytest.mark.parametrize("is_folded", [True, False])
def test_the_view_is_kept_in_the_workflow(page: Page, train: Train, renderer: str, is_folded: bool) -> None:
    train.set("rank", 32)
    train.set("sample_every", 50)  # which has a place of its own on the panel
    if not is_folded:
        train.press(train.switch)
    names, values, sent = train.found(), train.values(), train.sent()
    heights = [train.height()]
    for _ in range(2):
        in_page(page, RELOAD)
        look_at(page, train.node)
        assert (train.found(), train.values(), train.sent()) == (names, values, sent)
        heights.append(train.height())
    assert heights[2] <= heights[1], "no reload adds to it"
    assert renderer == "vue" or len(set(heights)) == 1  # old frontends enlarge what they open in that renderer
    copied = Train(page, in_page(page, MOVE_COPY, train.node))
    assert copied.node != train.node
    assert (copied.found(), copied.values()) == (names, values)


def test_a_workflow_of_an_older_release_shows_everything(page: Page) -> None:
    workflow = json.loads(OLD.read_text("utf-8"))
    (old,) = (node for node in workflow["nodes"] if node["type"] == "QRLoRA_Train")
    in_page(page, "workflow => app.loadGraphData(workflow)", workflow)
    train = Train(page, str(old["id"]))
    values = train.values()
    assert train.found() == set(values)
    told = [values[name] for name in ("steps", "learning_rate", "rank", "alpha", "variant", "custom_targets")]
    assert told == [123, 0.003, 12, 6.5, "full", "attn.to_v\nattn.to_q"]
    sent = train.sent()
    (saved,) = (node for node in in_page(page, "() => app.graph.serialize()")["nodes"] if node["id"] == old["id"])
    assert "qr_lora_view" not in saved["properties"]
    train.press(train.switch)
    assert train.found() == train.needed()
    assert train.sent() == sent


def test_a_setting_on_the_node_of_a_subgraph_stays(page: Page, train: Train) -> None:
    outer = Outer(page, [train.node], [(train.node, "rank")])
    assert outer.values()["rank"] == 64
    outer.set("rank", 48)
    assert [node["inputs"]["rank"] for node in train.sent().values()] == [48]
    outer.open("QRLoRA_Train")
    assert train.found() == train.needed() | {"rank"}
    train.press(train.switch)
    assert train.found() == set(train.values())
    train.press(train.switch)
    outer.leave()
    assert outer.values()["rank"] == 48
    assert [node["inputs"]["rank"] for node in train.sent().values()] == [48]


def test_a_folded_setting_can_be_shown_without_the_graph(page: Page, train: Train) -> None:
    shown = in_page(page, ADD, "PreviewImage")
    workflow = in_page(page, "() => app.graph.serialize()")
    workflow["extra"] = {"linearData": {"inputs": [[int(train.node), "rank"]], "outputs": [int(shown)]}}
    in_page(page, "workflow => app.loadGraphData(workflow)", workflow)
    look_at(page, train.node)
    app = App(page)
    app.enter()
    rank = app.item("rank").locator("input")
    rank.fill("24")
    rank.press("Enter")
    assert train.sent()[train.node]["inputs"]["rank"] == 24


@pytest.mark.own_page
def test_a_preset_closes_what_it_decides_on(page: Page, train: Train, renderer: str) -> None:
    every = set(train.values())
    train.set("rank", 32)
    expect(train.changed).to_have_text("1 changed: rank 32")
    train.set("preset", "one picture")
    assert train.found() == train.needed() - {"steps"}
    expect(train.changed).to_be_hidden()  # it does not count
    train.set("keep_checkpoints", 5)
    expect(train.changed).to_have_text("1 changed: keep_checkpoints 5")
    train.press(train.switch)
    assert train.found() == every
    values = train.values()
    assert (values["rank"], values["steps"]) == (32, 1000)
    assert (closed(page, train, renderer), train.values()) == (OF_PRESET, values)
    train.set("preset", "none")
    assert closed(page, train, renderer) == set()


def closed(page: Page, train: Train, renderer: str) -> set[str]:
    """Settings that are seen and take neither mouse nor keys."""
    if renderer == "vue":
        script = """id => [...document.querySelectorAll(`[data-node-id="${id}"] [data-slot-key*="-in-"]`)]
          .filter(dot => dot.closest('[inert]') && getComputedStyle(dot.closest('[inert]')).opacity === '0.5')
          .map(dot => app.graph.getNodeById(id).inputs[Number(dot.dataset.slotKey.split('-').at(-1))].widget.name)"""
        return set(in_page(page, script, train.node))
    script = """id => app.graph.getNodeById(id).widgets.filter((widget, _, all) => {
      if (widget.element) return widget.element.inert && getComputedStyle(widget.element).opacity === '0.5';
      const node = app.graph.getNodeById(id), place = [node.pos[0] + 100, node.pos[1] + widget.y + 8];
      return node.getWidgetOnPos(...place, true) === widget && node.getWidgetOnPos(...place) === undefined;
    }).map(({ name }) => name)"""
    return set(in_page(page, script, train.node))


@pytest.mark.own_page
def test_the_values_of_a_preset_are_taken_over_in_one_step(page: Page, train: Train) -> None:
    train.set("preset", "one picture")
    preset = {"name": "one picture", "family": "FLUX", "source": "a paper", "values": {"rank": 16, "steps": 700}}
    expect(train.panel).to_contain_text("Preset: one picture")
    assert train.take.is_disabled(), "nobody has told its values"
    height = train.height()
    train.tell(preset={**preset, "name": "many pictures"})
    assert train.take.is_disabled(), "those of another are not its own"
    train.tell(preset=preset)
    expect(train.panel).to_contain_text("Preset: one picture, FLUX")
    expect(train.panel.get_by_title("From: a paper")).to_be_visible()
    assert train.height() == height
    page.wait_for_timeout(300)
    before = train.values()
    train.press(train.take)
    assert train.values() == {**before, "rank": 16, "steps": 700, "preset": "none"}
    assert train.found() == train.needed()
    expect(train.take).to_be_hidden()
    in_page(page, "() => document.activeElement.blur()")
    undo(page)
    assert train.values() == before
    assert train.height() == height


def test_what_will_not_fit_is_told_before_the_first_step(train: Train) -> None:
    train.tell()  # as earlier releases tell
    details = train.panel.locator(".qr-lora-train-details")
    expect(details).to_have_text("")
    train.tell(estimate={"seconds": 700, "memory": 9.3e9, "available": 24e9}, preset=None)
    expect(details).to_have_text("about 12 min, 9.3 GB of 24.0 GB")
    expect(details).not_to_contain_class("qr-lora-bad")
    train.tell(estimate={"seconds": None, "memory": 30e9, "available": 24e9})
    expect(details).to_have_text("30.0 GB of 24.0 GB")
    expect(details).to_contain_class("qr-lora-bad")
    train.tell(estimate={"seconds": 30, "memory": None, "available": None})
    expect(details).to_have_text("about 30 s")
    expect(details).not_to_contain_class("qr-lora-bad")
