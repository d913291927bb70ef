"""The panel of QR-LoRA Mixer, in both renderers: all that it does is in the text that is sent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from devtools.server import Server
from generators.workflows import to_editor

from ..support.app_mode import TOGGLE, App
from ..support.desk import MERGE, READY, SOCKET, Desk, compose, in_page, look_at, sent, undo
from ..support.servers import SharedServer
from ..support.subgraph import Outer

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]
RUN = '[data-testid="queue-button"]'
MIXER = MERGE
HOSTILE = '<img data-hostile src=x onerror="window.pwned=1">\u202egnp'
SET = """([id, name, value]) => { const widget = app.graph.getNodeById(id).widgets.find(widget => widget.name === name);
  widget.value = value; widget.callback?.(value) }"""
STEPS = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"


class Panel(Desk):
    """The panel of one Mixer."""

    def button(self, slot: int, label: str) -> Locator:
        """A button in the line of a row, by how its label begins."""
        return self.row(slot).locator(f'[aria-label^="{label}"]')

    def handle(self, slot: int) -> Locator:
        return self.row(slot).locator(".qr-lora-merge-handle")

    def switch(self, slot: int) -> Locator:
        return self.row(slot).get_by_role("switch")

    def name(self, slot: int) -> Locator:
        return self.row(slot).locator(".qr-lora-merge-name")

    def details(self, slot: int) -> Locator:
        """What a row unfolds, unfolded."""
        more = self.row(slot).locator("[aria-expanded]")
        if more.get_attribute("aria-expanded") == "false":
            more.click()
        return self.root.locator(f'.qr-lora-mixer-item:has([data-slot="{slot}"]) .qr-lora-mixer-details')

    def mix(self) -> dict[str, Any]:
        """What is sent, parsed."""
        text = sent(self.page, self.node)["mix"]
        return json.loads(text) if text else {"rows": []}  # type: ignore[no-any-return]

    def sent_rows(self) -> list[dict[str, Any]]:
        """Without what the server knows of the files' content."""
        rows: list[dict[str, Any]] = self.mix()["rows"]
        return [{key: row[key] for key in row if key not in ("size", "sha256")} for row in rows]

    def files(self) -> list[str]:
        return [row["file"] for row in self.mix()["rows"]]

    def add(self, *files: str) -> None:
        """By the dialog, at once."""
        self.root.get_by_text("+ Add", exact=True).click()
        for file in files:
            self.choose(file)
        self.page.locator("dialog .qr-lora-picker-add").click()
        expect(self.page.locator("dialog")).to_have_count(0)

    def choose(self, file: str) -> None:
        """In the dialog."""
        self.page.locator("dialog input[type=search]").fill(file.rpartition("/")[2])
        self.page.locator(f'dialog [role=option][data-name="{file}"]').click()


def mixed(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A workflow with a mix of these rows, in API form."""
    prompt = compose(("", ""))
    text = json.dumps({"version": 1, **more, "rows": rows}) if rows or more else ""
    inputs = {"model": ["1", 0], "clip": ["1", 1], "mix": text}
    prompt[MIXER] = {
        "class_type": "QRLoRA_Mixer",
        "inputs": inputs,
        "_meta": {"pos": [420, 0], "size": [460, 300]},
    }
    return {number: prompt[number] for number in prompt if prompt[number]["class_type"] != "QRLoRA_Load"}


@pytest.fixture
def open_panel(page: Page, load: Load) -> Callable[..., Panel]:
    """A Mixer on the page, with a number of rows."""

    def put(rows: list[dict[str, Any]], **more: Any) -> Panel:
        load(mixed(rows, **more))
        look_at(page, MIXER)
        panel = Panel(page, MIXER)
        expect(panel.root).to_be_visible()
        return panel

    return put


Open = Callable[..., Panel]


def two(adapters: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"file": adapters[0], "scale": 0.9}, {"file": adapters[1], "scale": 0.7}]


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"file": f"loras/file_{number:02}.safetensors"} for number in range(1, count + 1)]


def test_files_are_added_and_set(page: Page, open_panel: Open, adapters: tuple[str, str]) -> None:
    """Slider, exact entry, keys, switch, solo, all off, and undo of each."""
    panel = open_panel([])
    assert sent(page, MIXER)["mix"] == ""
    panel.add(*adapters)
    assert panel.names() == ["content_00001_", "style_00001_"]
    assert panel.sent_rows() == [{"file": adapters[0]}, {"file": adapters[1]}]
    undo(page)
    assert sent(page, MIXER)["mix"] == "", "one step"
    panel.add(adapters[1])
    panel.add(adapters[0])
    undo(page)
    assert panel.files() == [adapters[1]]
    undo(page)
    assert sent(page, MIXER)["mix"] == ""
    panel.add(*adapters)

    panel.drag(1, 0.5)
    assert panel.shown(1) == panel.sent_rows()[0]["scale"] == pytest.approx(0.5, abs=0.051)
    undo(page)
    assert (panel.shown(1), panel.sent_rows()) == (1, [{"file": adapters[0]}, {"file": adapters[1]}])
    panel.type_scale(2, "-3.14159")
    assert panel.shown(2) == panel.sent_rows()[1]["scale"] == -3.1416
    panel.type_scale(2, "999")
    assert panel.shown(2) == panel.sent_rows()[1]["scale"] == 100
    panel.slider(2).dblclick()
    assert panel.sent_rows()[1] == {"file": adapters[1]}, "what equals its default is left out"
    panel.slider(1).focus()
    for key, expected in (("ArrowRight", 1.05), ("Shift+ArrowDown", 1.04), ("End", 2)):
        page.keyboard.press(key)
        assert panel.shown(1) == panel.sent_rows()[0]["scale"] == expected, key

    panel.switch(1).click()
    assert panel.sent_rows()[0] == {"file": adapters[0], "on": False, "scale": 2}
    expect(panel.switch(1)).to_have_attribute("aria-checked", "false")
    undo(page)
    expect(panel.switch(1)).to_have_attribute("aria-checked", "true")
    panel.button(2, "Solo").click()
    assert panel.sent_rows()[1] == {"file": adapters[1], "solo": True}
    expect(panel.row(1)).to_have_class("qr-lora-merge-row qr-lora-mixer-row qr-lora-merge-silent")
    undo(page)
    assert panel.sent_rows()[1] == {"file": adapters[1]}
    panel.root.get_by_label("All rows on or off").click()
    assert panel.mix()["on"] is False
    undo(page)
    assert "on" not in panel.mix()
    assert panel.sent_rows() == [{"file": adapters[0], "scale": 2}, {"file": adapters[1]}]


def test_rows_change_places(page: Page, open_panel: Open, adapters: tuple[str, str]) -> None:
    """By mouse and keys, are duplicated and removed; what names a row follows it."""
    panel = open_panel([*two(adapters), {"file": "loras/third.safetensors", "on": False}])
    panel.root.locator('[data-key="mode"]').select_option("null_space")
    panel.root.locator('[data-key="protect"]').select_option("2")
    panel.handle(1).focus()
    page.keyboard.press("ArrowDown")
    expect(panel.handle(2)).to_be_focused()
    assert panel.names()[:2] == ["style_00001_", "content_00001_"]
    assert [row.get("scale") for row in panel.sent_rows()] == [0.7, 0.9, None]
    assert sent(page, MIXER)["protect"] == 1
    undo(page)
    assert (panel.files()[0], sent(page, MIXER)["protect"]) == (adapters[0], 2)

    boxes = [panel.handle(slot).bounding_box() for slot in (1, 3)]
    assert boxes[0]
    assert boxes[1]
    page.mouse.move(boxes[0]["x"] + 5, boxes[0]["y"] + 8)
    page.mouse.down()
    page.mouse.move(boxes[1]["x"] + 5, boxes[1]["y"] + 8, steps=8)
    page.wait_for_timeout(100)
    page.mouse.up()
    assert panel.files() == [adapters[1], "loras/third.safetensors", adapters[0]]
    assert sent(page, MIXER)["protect"] == 1
    undo(page)
    assert panel.files() == [adapters[0], adapters[1], "loras/third.safetensors"], "a drag is one step"

    panel.handle(1).focus()
    page.keyboard.press("d")
    assert panel.files() == [adapters[0], *adapters, "loras/third.safetensors"]
    assert panel.sent_rows()[1]["scale"] == 0.9
    assert sent(page, MIXER)["protect"] == 3
    expect(panel.handle(2)).to_be_focused()
    page.keyboard.press("Delete")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Delete")
    assert panel.files() == [adapters[0], "loras/third.safetensors"]
    assert sent(page, MIXER)["protect"] == 1, "the one that was meant is gone"
    for _ in range(3):
        undo(page)
    assert panel.files() == [adapters[0], *adapters, "loras/third.safetensors"]
    assert sent(page, MIXER)["protect"] == 3


def test_details(page: Page, open_panel: Open, adapters: tuple[str, str]) -> None:
    """Scale of text encoders, blocks, schedule; the height of the node goes along."""
    panel = open_panel(two(adapters))
    height = "id => app.graph.getNodeById(id).size[1]"
    before = page.evaluate(height, MIXER)
    panel.name(2).click()  # what the host itself changes when a workflow is opened is a step of its own
    page.wait_for_timeout(300)
    steps = page.evaluate(STEPS)
    details = panel.details(1)
    expect(details).to_be_visible()
    assert page.evaluate(height, MIXER) >= before + 100
    panel.name(2).click()
    page.wait_for_timeout(300)
    assert page.evaluate(STEPS) == steps, "unfolding is no step"

    same, clip = details.get_by_label("same as scale"), details.get_by_label("Text encoder")
    expect(same).to_be_checked()
    expect(clip).to_be_disabled()
    same.uncheck()
    assert panel.sent_rows()[0]["clip_scale"] == 0.9
    clip.fill("0.25")
    clip.press("Tab")
    assert panel.sent_rows()[0]["clip_scale"] == 0.25
    panel.type_scale(1, "1.1")
    assert panel.sent_rows()[0] == {"file": adapters[0], "scale": 1.1, "clip_scale": 0.25}
    same.check()
    assert "clip_scale" not in panel.sent_rows()[0]

    details.get_by_label("Blocks").fill("joint_blocks.0: 0.5")
    details.get_by_label("Blocks").press("Tab")
    assert panel.sent_rows()[0]["blocks"] == "joint_blocks.0: 0.5"
    schedule, points = details.locator("select"), details.get_by_placeholder("0:1, 0.5:0.3")
    schedule.select_option("early")
    assert panel.sent_rows()[0]["schedule"] == "early"
    expect(points).to_be_hidden()
    schedule.select_option("custom")
    assert panel.sent_rows()[0]["schedule"] == "0:1, 0.4:1, 0.6:0", "own points start as the curve before"
    points.fill("0.5:1, 0.2:0")
    points.press("Tab")
    expect(details.locator(".qr-lora-mixer-error")).to_contain_text("order")
    points.fill("0:1, 1:0.5")
    points.press("Tab")
    expect(details.locator(".qr-lora-mixer-error")).to_be_hidden()
    assert panel.sent_rows()[0]["schedule"] == "0:1, 1:0.5"

    details.get_by_text("Duplicate", exact=True).click()
    assert panel.sent_rows()[0] == panel.sent_rows()[1]
    panel.details(1).get_by_text("Choose another…", exact=True).click()
    panel.choose(adapters[1])
    expect(page.locator("dialog")).to_have_count(0)
    assert panel.sent_rows()[0] == {**panel.sent_rows()[1], "file": adapters[1]}
    panel.details(1).get_by_text("Remove", exact=True).click()
    assert panel.files() == list(adapters)
    undo(page)
    assert len(panel.files()) == 3
    expect(panel.row(1)).to_be_visible()


def test_values_survive(page: Page, open_panel: Open, adapters: tuple[str, str], web_server: Server) -> None:
    """Copies, saving and opening again, also without this page's additions."""
    panel = open_panel([*two(adapters), {"file": "loras/gone.safetensors", "on": False, "blocks": "a: 1\nb: 0"}])
    panel.switch(2).click()
    before = sent(page, MIXER)["mix"]
    copied = in_page(
        page,
        """id => { const c = app.canvas; c.selectItems([app.graph.getNodeById(id)]); c.copyToClipboard();
        c.pasteFromClipboard({connectInputs: true}); return String([...c.selectedItems][0].id) }""",
        MIXER,
    )
    assert copied != MIXER
    assert sent(page, copied)["mix"] == before
    saved = page.evaluate("() => JSON.stringify(app.graph.serialize())")
    page.reload()
    page.wait_for_function(READY)
    in_page(page, "saved => app.loadGraphData(JSON.parse(saved))", saved)
    page.wait_for_timeout(300)
    assert sent(page, MIXER)["mix"] == sent(page, copied)["mix"] == before
    look_at(page, MIXER)
    expect(panel.switch(2)).to_have_attribute("aria-checked", "false")
    web_server.post("/api/settings", {"QRLoRA.Desk": False})
    try:
        page.reload()
        page.wait_for_function(READY)
        in_page(page, "saved => app.loadGraphData(JSON.parse(saved))", saved)
        assert page.locator(".qr-lora").count() == 0
        assert sent(page, MIXER)["mix"] == before
        in_page(page, SET, [MIXER, "mix", '{"version": 1, "rows": []}'])
        assert sent(page, MIXER)["mix"] == '{"version": 1, "rows": []}', "the plain text works"
    finally:
        web_server.post("/api/settings", {"QRLoRA.Desk": True})


def test_the_text_does_not_show_beside_the_panel(page: Page, open_panel: Open, renderer: str) -> None:
    open_panel(numbered(1))
    shown = "id => { const n = app.graph.getNodeById(id); return n.widgets.filter(w => n.isWidgetVisible(w)) }"
    assert page.evaluate(f"id => ({shown})(id).map(w => w.name)", MIXER) == ["qr_lora_mixer"]
    if renderer == "vue":
        rows = page.locator(f'[data-node-id="{MIXER}"] .lg-node-widget:visible')
        expect(rows).to_have_count(1)
        expect(page.locator(f'[data-node-id="{MIXER}"] input[type=text]:visible')).to_have_count(0)


def test_in_a_subgraph_the_text_may_be_outside(page: Page, open_panel: Open, adapters: tuple[str, str]) -> None:
    open_panel(two(adapters))
    outer = Outer(page, [MIXER], [(MIXER, "mix"), (MIXER, "mode")])
    text = json.dumps({"version": 1, "rows": [{"file": adapters[1], "scale": 0.25}]})
    outer.set("mix", text)
    assert sent(page, MIXER)["mix"] == text
    outer.open("QRLoRA_Mixer")
    panel = Panel(page, MIXER)
    expect(panel.row(1).locator("input")).to_have_value("0.25")
    panel.type_scale(1, "1.5")
    panel.handle(1).focus()
    page.keyboard.press("d")
    panel.root.locator('[data-key="mode"]').select_option("ties")
    outer.leave()
    told = outer.values()
    assert json.loads(told["mix"])["rows"] == [{"file": adapters[1], "scale": 1.5}] * 2
    assert told["mode"] == "ties"
    assert sent(page, MIXER)["mix"] == told["mix"]


def test_without_the_graph(page: Page, adapters: tuple[str, str], web_server: Server) -> None:
    """The panel can be chosen for the view that shows inputs alone, and the text beside it."""
    workflow = to_editor(mixed(two(adapters)), web_server.get("/object_info"))
    inputs = [[int(MIXER), name] for name in ("qr_lora_mixer", "mix")]
    workflow["extra"] = {"linearData": {"inputs": inputs, "outputs": [16]}}
    in_page(page, "workflow => app.loadGraphData(workflow)", workflow)
    look_at(page, MIXER)
    App(page).enter()
    expect(page.get_by_test_id("app-mode-widget-item")).to_have_count(2)
    panel = Panel(page, MIXER)
    panel.type_scale(2, "1.2")
    panel.switch(1).click()
    panel.details(2).locator("select").select_option("late")
    expected = [
        {"file": adapters[0], "on": False, "scale": 0.9},
        {"file": adapters[1], "scale": 1.2, "schedule": "late"},
    ]
    assert panel.sent_rows() == expected
    in_page(page, TOGGLE)
    look_at(page, MIXER)
    expect(panel.row(2)).to_be_visible()
    assert panel.shown(2) == 1.2


def test_a_linked_mix_is_shown_and_not_set(page: Page, load: Load) -> None:
    """Its socket is beside the buttons above the rows."""
    string = {"class_type": "PrimitiveString", "inputs": {"value": ""}, "_meta": {"pos": [0, 0]}}
    load({**mixed(numbered(2)), "40": string})
    look_at(page, MIXER)
    panel = Panel(page, MIXER)
    expect(panel.row(2)).to_be_visible()
    (_, socket), button = page.evaluate(SOCKET, [MIXER, "mix", True]), panel.root.get_by_text("+ Add").bounding_box()
    assert button
    assert socket == pytest.approx(button["y"] + button["height"] / 2, abs=3)
    connect = """id => { const mixer = app.graph.getNodeById(id);
      app.graph.getNodeById(40).connect(0, mixer, mixer.findInputSlot('mix')) }"""
    in_page(page, connect, MIXER)
    assert sent(page, MIXER)["mix"] == ["40", 0]
    expect(panel.root).to_contain_text("The mix comes from a link")
    expect(panel.root.get_by_text("+ Add", exact=True)).to_be_disabled()
    for control in (panel.switch(1), panel.handle(1), panel.row(1).locator("input")):
        expect(control).to_be_visible()
        expect(control).to_be_disabled()
    in_page(page, "id => { const n = app.graph.getNodeById(id); n.disconnectInput(n.findInputSlot('mix')) }", MIXER)
    expect(panel.switch(1)).to_be_enabled()
    expect(panel.root).not_to_contain_text("The mix comes from a link")


@pytest.mark.parametrize(
    "text",
    [
        "loras/cat.safetensors",
        '{"version": 2, "rows": []}',
        '{"version": 1, "rows": [{"file": "a", "scale": "1"}]}',
        '{"version": 1, "rows": [{"file": "a", "weight": 1}]}',
        f"{HOSTILE}",
    ],
)
def test_a_text_that_is_no_mix_stays_until_one_starts_anew(page: Page, open_panel: Open, text: str) -> None:
    panel = open_panel(numbered(1))
    in_page(page, SET, [MIXER, "mix", text])
    message = panel.root.locator(".qr-lora-mixer-message")
    expect(message).to_be_visible()
    expect(panel.root.locator(".qr-lora-merge-row")).to_have_count(0)
    expect(panel.root.get_by_text("+ Add", exact=True)).to_be_disabled()
    panel.root.locator('[data-key="apply"]').select_option("patch")
    page.wait_for_timeout(600)
    assert sent(page, MIXER)["mix"] == text
    assert page.evaluate("() => [window.pwned, document.querySelectorAll('[data-hostile]').length]") == [None, 0]
    message.get_by_role("button").click()
    assert sent(page, MIXER)["mix"] == ""
    expect(message).to_be_hidden()
    undo(page)
    assert sent(page, MIXER)["mix"] == text


def test_hostile_names_are_shown_as_text(page: Page, open_panel: Open) -> None:
    rows = [{"file": f"loras/{HOSTILE}.safetensors", "blocks": HOSTILE, "schedule": HOSTILE}, {"file": "../../x"}]
    panel = open_panel(rows)
    expect(panel.root.locator(".qr-lora-merge-row")).to_have_count(2)
    panel.details(1)
    panel.details(2)
    page.wait_for_timeout(600)
    assert page.evaluate("() => [window.pwned, document.querySelectorAll('[data-hostile]').length]") == [None, 0]
    assert "\u202e" not in panel.root.inner_text()
    panel.handle(2).focus()
    page.keyboard.press("Delete")
    assert panel.files() == [rows[0]["file"]]


def test_missing_files(page: Page, open_panel: Open, adapters: tuple[str, str], web_server: Server) -> None:
    """Are told from those that are there, with what they likely are now."""
    content = web_server.get(f"/qr_lora/hash?name={adapters[0]}")
    gone = {"file": "loras/renamed.safetensors", "scale": 0.6, **content}
    elsewhere = {"file": "loras/other/style_00001_.safetensors", "on": False}
    panel = open_panel([gone, elsewhere, {"file": adapters[1]}])
    expect(panel.row(1)).to_have_class("qr-lora-merge-row qr-lora-mixer-row qr-lora-mixer-missing")
    assert panel.names() == ["renamed", "style_00001_", "style_00001_"]
    for slot, is_there in ((1, False), (2, False), (3, True)):
        expect(panel.row(slot).get_by_text("not on this machine")).to_be_visible(visible=not is_there)
    expect(panel.row(2)).to_have_class("qr-lora-merge-row qr-lora-mixer-row qr-lora-merge-silent")
    offers = panel.details(1).locator(".qr-lora-mixer-likely button")
    expect(offers.first).to_have_text(f"Use {adapters[0]} (same content)")
    offers.first.click()
    assert panel.sent_rows()[0] == {"file": adapters[0], "scale": 0.6}
    expect(panel.row(1)).to_have_class("qr-lora-merge-row qr-lora-mixer-row")
    panel.details(2).locator(".qr-lora-mixer-likely button").first.click()
    assert panel.sent_rows()[1] == {"file": adapters[1], "on": False}
    expect(panel.root.locator(".qr-lora-mixer-likely button")).to_have_count(0)


def test_a_file_that_comes_is_seen_when_the_host_looks_again(
    page: Page, open_panel: Open, adapters: tuple[str, str], web_server: Server
) -> None:
    panel = open_panel([{"file": "loras/late.safetensors"}])
    absent = panel.row(1).get_by_text("not on this machine")
    expect(absent).to_be_visible()
    late = web_server.models_dir / "loras" / "late.safetensors"
    late.parent.mkdir(exist_ok=True)
    shutil.copy(web_server.base / adapters[0], late)
    try:
        in_page(page, "() => app.refreshComboInNodes()")
        expect(absent).to_be_hidden()
    finally:
        late.unlink()


def test_what_a_file_is_is_noted_without_a_step_for_undo(
    page: Page, open_panel: Open, adapters: tuple[str, str], web_server: Server
) -> None:
    panel = open_panel([])
    panel.add(adapters[0])
    steps = page.evaluate(STEPS)
    content = web_server.get(f"/qr_lora/hash?name={adapters[0]}")
    page.wait_for_function("id => app.graph.getNodeById(id).widgets[0].value.includes('sha256')", arg=MIXER)
    assert panel.mix()["rows"] == [{"file": adapters[0], **content}]
    panel.slider(1).focus()
    page.keyboard.press("End")
    assert page.evaluate(STEPS) == steps + 1
    undo(page)
    assert panel.mix()["rows"] == [{"file": adapters[0], **content}]
    undo(page)
    assert sent(page, MIXER)["mix"] == ""


def test_a_refused_row_says_why(page: Page, open_panel: Open, adapters: tuple[str, str]) -> None:
    panel = open_panel([{"file": adapters[0]}, {"file": adapters[1], "blocks": "joint_blocks"}])
    expect(panel.root.locator(".qr-lora-mixer-message")).to_contain_text("expected pattern: factor")
    expect(panel.row(2)).to_have_class("qr-lora-merge-row qr-lora-mixer-row qr-lora-mixer-refused")
    blocks = panel.details(2).get_by_label("Blocks")
    expect(panel.details(2).locator(".qr-lora-mixer-error")).to_contain_text("expected pattern: factor")
    blocks.fill("joint_blocks.*: 0.5")
    blocks.press("Tab")
    expect(panel.root.locator(".qr-lora-mixer-message")).to_be_hidden()


def test_a_run_shows_what_was_applied(
    page: Page, open_panel: Open, adapters: tuple[str, str], web_server: SharedServer
) -> None:
    """And how rows disturb each other, at the scales as they are then."""
    panel = open_panel([*two(adapters), {"file": "loras/gone.safetensors", "on": False}])
    page.click(RUN)
    result = panel.root.locator(".qr-lora-merge-result")
    expect(result).to_contain_text("content_00001_.safetensors: 33 of 33 layers")
    expect(result).to_contain_text("style_00001_.safetensors: 33 of 33 layers")
    between = panel.root.locator(".qr-lora-merge-between")
    expect(between.first).to_contain_text("interference")
    told = between.first.inner_text()
    panel.type_scale(2, "-0.7")
    expect(between.first).not_to_have_text(told)
    panel.switch(2).click()
    expect(between.first).to_have_text("")
    panel.switch(2).click()
    expect(between.first).to_contain_text("interference")
    panel.handle(1).focus()
    page.keyboard.press("Delete")
    expect(result).not_to_contain_text("33 of 33 layers")
    panel.switch(2).click()
    undo(page)
    expect(result).not_to_contain_text("33 of 33 layers"), "it was said of other rows"
    web_server.settle()


def test_sixty_four_rows(page: Page, open_panel: Open) -> None:
    """The list scrolls; a row that is dragged to its edge goes on."""
    panel = open_panel(numbered(64))
    expect(panel.root.locator(".qr-lora-merge-row")).to_have_count(64)
    expect(panel.root.get_by_text("+ Add", exact=True)).to_be_disabled()
    box = panel.root.bounding_box()
    assert box
    assert box["height"] < 760
    listed = panel.root.locator(".qr-lora-merge-rows").bounding_box()
    assert listed
    handle = panel.handle(1).bounding_box()
    assert handle
    page.mouse.move(handle["x"] + 5, handle["y"] + 8)
    page.mouse.down()
    page.mouse.move(handle["x"] + 5, listed["y"] + listed["height"] - 12, steps=12)
    page.wait_for_function("() => document.querySelector('.qr-lora-merge-rows').scrollTop > 200")
    page.mouse.up()
    place = panel.files().index("loras/file_01.safetensors")
    assert place > 12
    undo(page)
    assert panel.files()[0] == "loras/file_01.safetensors", "one step"
    panel.handle(64).scroll_into_view_if_needed()
    panel.type_scale(64, "0.3")
    assert panel.sent_rows()[63]["scale"] == 0.3
    panel.handle(64).focus()
    page.keyboard.press("d")
    assert len(panel.files()) == 64, "there is no room for more"


def test_others_use_the_mixer(page: Page, open_panel: Open) -> None:
    """What recipes and history are built on."""
    panel = open_panel(numbered(2))
    steps = page.evaluate(STEPS)
    told = in_page(
        page,
        """id => {
          const mixer = app.graph.getNodeById(id).qrLoRAMixer, { on, rows } = mixer.mix();
          mixer.setMix({ on, rows: [...rows].reverse() }, { mode: "ties", density: 0.25, unknown: 1 });
          mixer.addTool(Object.assign(document.createElement("button"), { textContent: "Further" }));
          const strip = document.createElement("div");
          strip.style.height = "60px";
          const before = mixer.desk.height();
          mixer.below.append(strip); mixer.resize();
          return [mixer.settings(), mixer.desk.height() - before]
        }""",
        MIXER,
    )
    assert told[0] == {"apply": "live", "mode": "ties", "protect": 2, "mu": 1, "density": 0.25}
    assert told[1] == 64
    assert panel.files() == ["loras/file_02.safetensors", "loras/file_01.safetensors"]
    assert page.evaluate(STEPS) == steps + 1
    expect(panel.root.get_by_text("Further")).to_be_visible()


@pytest.mark.own_page
def test_a_finger_does_what_a_mouse_does(page: Page, open_panel: Open, adapters: tuple[str, str]) -> None:
    """A slider follows it, a row goes where it is dragged, switch and details answer a tap; the canvas stays."""
    panel = open_panel(two(adapters))
    place = page.evaluate("() => [...app.canvas.ds.offset]")
    touch = page.context.new_cdp_session(page)
    touch.send("Emulation.setTouchEmulationEnabled", {"enabled": True})

    def at(target: Locator, share: float = 0.5) -> dict[str, float]:
        box = target.bounding_box()
        assert box
        return {"x": box["x"] + share * box["width"], "y": box["y"] + box["height"] / 2}

    def drag(start: dict[str, float], end: dict[str, float]) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [start]})
        for part in (0.25, 0.5, 0.75, 1):
            point = {axis: start[axis] + part * (end[axis] - start[axis]) for axis in start}
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
            page.wait_for_timeout(50)
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def tap(target: Locator) -> None:
        """Short, where the target rests: a selected node makes the host open a panel, which moves all others."""
        target.click(trial=True)
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at(target)]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    drag(at(panel.slider(1), 0.45), at(panel.slider(1), 0.75))
    assert panel.sent_rows()[0]["scale"] == pytest.approx(1.5, abs=0.11)
    drag(at(panel.handle(2)), at(panel.handle(1)))
    assert panel.files() == [adapters[1], adapters[0]]
    tap(panel.switch(1))
    assert panel.sent_rows()[0]["on"] is False
    tap(panel.row(2).locator("[aria-expanded]"))
    expect(panel.root.locator(".qr-lora-mixer-details")).to_be_visible()
    assert page.evaluate("() => [...app.canvas.ds.offset]") == place
