"""The mixing desk on QR-LoRA Merge, in both renderers: what is shown is what is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from devtools.server import Server
from generators.workflows import to_editor

from ..support.desk import FIRST, MERGE, SECOND, SOCKET, Desk, compose, drag_link, in_page, look_at, sent, undo

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]


@pytest.fixture
def desk(page: Page, load: Load, adapters: tuple[str, str]) -> Desk:
    load(compose(adapters))
    desk = Desk(page)
    look_at(page)
    expect(desk.row(2)).to_be_visible()
    return desk


def scales(page: Page) -> tuple[float, float]:
    inputs = sent(page)
    return inputs["scale_1"], inputs["scale_2"]


def test_a_row_per_adapter(page: Page, desk: Desk) -> None:
    """Slider, exact entry, keys, mute, solo, and undo of each."""
    assert desk.names() == ["content_00001_", "style_00001_"]
    assert desk.sockets() == ["model", "adapter_1", "adapter_2", "adapter_3", "schedule_1", "schedule_2", "clip"]
    assert (desk.shown(1), desk.shown(2)) == scales(page) == (0.9, 0.7)
    height = desk.root.bounding_box()

    desk.drag(1, 0.5)
    assert desk.shown(1) == scales(page)[0] == pytest.approx(0.5, abs=0.051)
    undo(page)
    assert (desk.shown(1), desk.shown(2)) == scales(page) == (0.9, 0.7)

    desk.type_scale(2, "1.237")
    assert desk.shown(2) == scales(page)[1] == 1.24, "as the host's own widget rounds"
    desk.type_scale(2, "-3")
    assert desk.shown(2) == scales(page)[1] == -3
    desk.type_scale(2, "99")
    assert desk.shown(2) == scales(page)[1] == 10, "the widget's own limit"
    desk.slider(2).dblclick()
    assert desk.shown(2) == scales(page)[1] == 1

    desk.slider(1).focus()
    for key, expected in (("ArrowRight", 0.95), ("ArrowDown", 0.9), ("Shift+ArrowUp", 0.91), ("End", 2), ("Home", 0)):
        page.keyboard.press(key)
        assert desk.shown(1) == scales(page)[0] == expected, key
    desk.type_scale(1, "0.8")

    desk.press(1, "M")
    assert (desk.shown(1), scales(page)) == (0.8, (0, 1))
    desk.drag(1, 1.5)
    assert (desk.shown(1), scales(page)) == (pytest.approx(1.5, abs=0.051), (0, 1)), "a muted row keeps its value"
    undo(page)
    assert (desk.shown(1), scales(page)) == (0.8, (0, 1))
    desk.press(1, "M")
    assert scales(page) == (0.8, 1)
    desk.press(1, "S")
    assert (desk.shown(2), scales(page)) == (1, (0.8, 0))
    desk.press(2, "S")
    assert scales(page) == (0.8, 1), "both are soloed"
    undo(page)
    undo(page)
    assert scales(page) == (0.8, 1)
    assert "qr_lora_mix" not in page.evaluate("id => app.graph.getNodeById(id).properties", MERGE)
    assert desk.root.bounding_box() == height, "nothing moved"
    colour = "() => getComputedStyle(document.documentElement).getPropertyValue('--color-datatype-QR_LORA')"
    assert page.evaluate(colour), "the sockets have a colour in Nodes 2.0"


def test_rows_change_places(page: Page, desk: Desk) -> None:
    """With the keyboard and with the mouse: adapter, scale and mute go along."""
    desk.press(2, "M")
    desk.row(1).locator("button").first.focus()
    page.keyboard.press("ArrowDown")
    assert desk.names() == ["style_00001_", "content_00001_"]
    inputs = sent(page)
    assert (inputs["adapter_1"], inputs["adapter_2"]) == ([SECOND, 0], [FIRST, 0])
    assert (inputs["scale_1"], inputs["scale_2"], desk.shown(1), desk.shown(2)) == (0, 0.9, 0.7, 0.9)
    desk.press(1, "M")
    assert scales(page) == (0.7, 0.9)
    boxes = [desk.row(slot).locator("button").first.bounding_box() for slot in (1, 2)]
    assert boxes[0]
    assert boxes[1]
    page.mouse.move(boxes[1]["x"] + 5, boxes[1]["y"] + 8)
    page.mouse.down()
    page.mouse.move(boxes[0]["x"] + 5, boxes[0]["y"] + 8, steps=8)
    page.mouse.up()
    assert desk.names() == ["content_00001_", "style_00001_"]
    inputs = sent(page)
    assert (inputs["adapter_1"], inputs["adapter_2"], scales(page)) == ([FIRST, 0], [SECOND, 0], (0.9, 0.7))
    undo(page)
    assert desk.names() == ["style_00001_", "content_00001_"]
    assert sent(page)["adapter_1"] == [SECOND, 0]


def test_connections_come_and_go(page: Page, desk: Desk) -> None:
    """Only what is connected has a row; a scale waits for its adapter to come back."""
    disconnect = "id => { const n = app.graph.getNodeById(id); n.disconnectInput(n.findInputSlot('adapter_1')) }"
    in_page(page, disconnect, MERGE)
    assert desk.slots() == [2]
    assert desk.sockets() == ["model", "adapter_1", "adapter_2", "schedule_2", "clip"]
    assert "adapter_1" not in sent(page)
    assert sent(page)["adapter_2"] == [SECOND, 0]
    connect = "([from, to, name]) => { const [a, b] = [from, to].map(id => app.graph.getNodeById(id)); "
    connect += "a.connect(0, b, b.findInputSlot(name)) }"
    in_page(page, connect, [FIRST, MERGE, "adapter_1"])
    assert desk.slots() == [1, 2]
    assert scales(page) == (0.9, 0.7)
    in_page(page, connect, [FIRST, MERGE, "adapter_3"])
    assert desk.slots() == [1, 2, 3]
    assert desk.sockets()[1:5] == ["adapter_1", "adapter_2", "adapter_3", "adapter_4"]
    in_page(page, connect, ["1", MERGE, "model"])
    links = page.evaluate(
        "id => { const n = app.graph.getNodeById(id); return n.inputs.map((s, i) => [s.link, i])"
        ".filter(([l]) => l != null).map(([l, i]) => [app.graph.getLink(l).target_slot, i]) }",
        MERGE,
    )
    assert len(links) == 4
    assert all(told == place for told, place in links), "links know their sockets"


def test_a_scale_is_linked_at_its_row(page: Page, adapters: tuple[str, str], web_server: Server) -> None:
    """By the mouse, to the socket beside the row; the row is not to be set then."""
    prompt = {**compose(adapters), "40": {"class_type": "PrimitiveFloat", "inputs": {"value": 0.33}}}
    workflow = to_editor(prompt, web_server.get("/object_info"))
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    nodes["40"]["pos"] = [nodes[MERGE]["pos"][0], nodes[MERGE]["pos"][1] + 360]
    in_page(page, "workflow => app.loadGraphData(workflow)", workflow)
    look_at(page)
    desk = Desk(page)
    expect(desk.row(2)).to_be_visible()
    page.wait_for_timeout(300)
    (_, at), row = page.evaluate(SOCKET, [MERGE, "scale_2", True]), desk.row(2).bounding_box()
    assert row
    assert at == pytest.approx(row["y"] + row["height"] / 2, abs=2)
    drag_link(page, ("40", "FLOAT"), (MERGE, "scale_2"))
    assert sent(page)["scale_2"] == ["40", 0]
    expect(desk.row(2)).to_have_class("qr-lora-merge-row qr-lora-merge-linked")
    assert desk.row(1).locator("input").is_enabled()
    in_page(page, "id => { const n = app.graph.getNodeById(id); n.disconnectInput(n.findInputSlot('scale_2')) }", MERGE)
    expect(desk.row(2)).to_have_class("qr-lora-merge-row")
    assert sent(page)["scale_2"] == 0.7


def test_merge_settings(page: Page, desk: Desk) -> None:
    """What a mode needs is shown with it, and sent."""
    choose = desk.root.locator('[data-key="mode"]')
    choose.select_option("null_space")
    desk.root.locator('[data-key="protect"]').select_option("1")
    desk.root.locator('[data-key="mu"]').fill("2.5")
    desk.root.locator('[data-key="mu"]').press("Tab")
    chosen = {"mode": "null_space", "protect": 1, "mu": 2.5}
    assert {key: sent(page)[key] for key in chosen} == chosen
    desk.row(1).locator("button").first.focus()
    page.keyboard.press("ArrowDown")
    assert sent(page)["protect"] == 2, "the same adapter is protected"
    choose.select_option("ties")
    assert desk.root.locator('[data-key="mu"]').count() == 0
    assert desk.root.locator('[data-key="density"]').input_value() == "0.5"
    desk.root.locator('[data-key="apply"]').select_option("patch")
    assert (sent(page)["mode"], sent(page)["apply"]) == ("ties", "patch")


def test_the_keyboard_stays_where_it_is_while_the_desk_changes(page: Page, desk: Desk) -> None:
    """A mode with settings of its own puts the lines anew; what has the focus keeps it."""
    choose = desk.root.locator('[data-key="mode"]')
    choose.focus()
    for mode in ("null_space", "ties", "add"):
        choose.select_option(mode)
        expect(choose).to_be_focused()
    number = desk.row(2).locator("input")
    number.focus()
    in_page(page, "id => app.graph.getNodeById(id).widgets.find((w) => w.name === 'mode').callback('ties')", MERGE)
    in_page(page, "id => app.graph.getNodeById(id).disconnectInput(1)", MERGE)
    expect(desk.root.locator(".qr-lora-merge-row")).to_have_count(1)
    expect(number).to_be_focused()


def test_one_change_draws_the_desk_once(page: Page, desk: Desk) -> None:
    """The widget tells of a step of the slider, the slider itself, and the host where it runs on every change."""
    in_page(
        page,
        """id => {
          const desk = app.graph.getNodeById(id).qrLoRADesk, draw = desk.draw
          window.drawn = 0
          desk.draw = function () { window.drawn += 1; return draw.call(this) }
        }""",
        MERGE,
    )
    slider = desk.slider(1).element_handle()
    step = """slider => {
      window.drawn = 0
      slider.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true, cancelable: true}))
      return new Promise((done) => queueMicrotask(() => queueMicrotask(() => queueMicrotask(() => done(window.drawn)))))
    }"""
    in_page(page, "() => { app.extensionManager.queueSettings.mode = 'change' }")
    assert page.evaluate(step, slider) == 1
    assert desk.shown(1) == scales(page)[0] == 0.85


def test_values_survive(page: Page, desk: Desk, web_server: Server) -> None:
    """Copies, subgraphs, and saving and opening again, also without this page's additions."""
    desk.press(1, "M")
    desk.type_scale(2, "0.35")

    def whole(node: str) -> tuple[Any, ...]:
        inputs = sent(page, node)
        told = page.evaluate("id => app.graph.getNodeById(id).properties.qr_lora_mix", node)
        return inputs["scale_1"], inputs["scale_2"], inputs["adapter_1"], inputs["adapter_2"], told

    before = whole(MERGE)
    assert before[:4] == (0, 0.35, [FIRST, 0], [SECOND, 0])
    assert before[4]["kept"] == {"1": 0.9}

    copied = in_page(
        page,
        """id => { const c = app.canvas; c.selectItems([app.graph.getNodeById(id)]); c.copyToClipboard();
        c.pasteFromClipboard({connectInputs: true}); return String([...c.selectedItems][0].id) }""",
        MERGE,
    )
    assert copied != MERGE
    assert whole(copied) == before

    saved = page.evaluate("() => JSON.stringify(app.graph.serialize())")
    page.reload()
    page.wait_for_function("() => window.app?.extensionManager && LiteGraph.registered_node_types['QRLoRA_Merge']")
    in_page(page, "saved => app.loadGraphData(JSON.parse(saved))", saved)
    page.wait_for_timeout(300)
    assert whole(MERGE) == whole(copied) == before
    again = json.loads(page.evaluate("() => JSON.stringify(app.graph.serialize())"))
    told = {node["id"]: node for node in json.loads(saved)["nodes"]}
    for node in again["nodes"]:
        if node["type"] == "QRLoRA_Merge":
            assert node["widgets_values"] == told[node["id"]]["widgets_values"]
            assert [slot["name"] for slot in node["inputs"]] == [slot["name"] for slot in told[node["id"]]["inputs"]]

    in_page(
        page,
        """ids => { app.canvas.selectItems(ids.map(id => app.graph.getNodeById(id)));
        app.graph.convertToSubgraph(app.canvas.selectedItems) }""",
        [FIRST, SECOND, MERGE],
    )
    page.wait_for_timeout(300)
    inputs = sent(page)
    assert (inputs["scale_1"], inputs["scale_2"]) == (0, 0.35)
    assert [inputs[name][0].split(":")[-1] for name in ("adapter_1", "adapter_2")] == [FIRST, SECOND]

    web_server.post("/api/settings", {"QRLoRA.Desk": False})
    try:
        page.reload()
        page.wait_for_function("() => window.app?.extensionManager && LiteGraph.registered_node_types['QRLoRA_Merge']")
        in_page(page, "saved => app.loadGraphData(JSON.parse(saved))", saved)
        assert page.locator(".qr-lora").count() == 0
        assert (sent(page)["scale_1"], sent(page)["scale_2"], sent(page)["adapter_2"]) == (0, 0.35, [SECOND, 0])
        slots = page.evaluate("id => app.graph.getNodeById(id).inputs.filter(i => !i.widget).length", MERGE)
        assert slots == 18, "all sockets are there"
    finally:
        web_server.post("/api/settings", {"QRLoRA.Desk": True})
