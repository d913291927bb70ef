"""Our nodes in a subgraph, with widgets of theirs on the node of the subgraph: both sides tell and set the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from ..support.desk import FIRST, MERGE, READY, SECOND, Desk, compose, in_page, sent
from ..support.subgraph import LEAVE, LOOK, OPEN, SET, VALUES, Outer

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]

EARLIER = Path(__file__).parent / "workflows" / "blueprint_0.1.0.json"


@pytest.fixture
def outer(page: Page, load: Load, adapters: tuple[str, str]) -> Outer:
    """Two adapters and their merge, with both scales and a setting shown outside."""
    load(compose(adapters))
    return Outer(page, [FIRST, SECOND, MERGE], [(MERGE, "scale_1"), (MERGE, "scale_2"), (MERGE, "apply")])


def scales(page: Page) -> tuple[float, float]:
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    (inputs,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "QRLoRA_Merge")
    return inputs["scale_1"], inputs["scale_2"]


def exact(desk: Desk, slot: int) -> Locator:
    return desk.row(slot).locator("input")


def test_the_desk_inside_and_the_widgets_outside_agree(page: Page, outer: Outer, renderer: str) -> None:
    assert outer.values() == {"scale_1": 0.9, "scale_2": 0.7, "apply": "live"}
    if renderer == "vue":
        rows = page.locator(f'[data-node-id="{outer.id}"] .lg-node-widget:visible')
        expect(rows).to_have_count(3)
    outer.set("scale_1", 0.55)
    assert scales(page) == (0.55, 0.7)

    outer.open("QRLoRA_Merge")
    desk = Desk(page)
    expect(exact(desk, 1)).to_have_value("0.55")
    assert desk.names() == ["content_00001_", "style_00001_"]
    desk.type_scale(2, "1.25")
    desk.drag(1, 1.4)
    desk.root.locator('[data-key="apply"]').select_option("patch")
    assert (desk.shown(1), desk.shown(2)) == (pytest.approx(1.4, abs=0.051), 1.25)
    outer.leave()
    assert outer.values() == {"scale_1": pytest.approx(1.4, abs=0.051), "scale_2": 1.25, "apply": "patch"}
    assert scales(page) == (outer.values()["scale_1"], 1.25)
    assert sent(page)["apply"] == "patch"

    outer.open("QRLoRA_Merge")
    desk.press(2, "M")
    assert (desk.shown(2), scales(page)[1]) == (1.25, 0)
    outer.leave()
    assert outer.values()["scale_2"] == 0, "what is sent is shown"
    outer.set("scale_2", 0.3)
    outer.open("QRLoRA_Merge")
    expect(exact(desk, 2)).to_have_value("0.3")
    assert desk.row(2).get_by_text("M", exact=True).get_attribute("aria-pressed") == "false", "what was set counts"
    assert scales(page)[1] == 0.3

    desk.row(1).locator("button").first.focus()
    page.keyboard.press("ArrowDown")
    assert desk.names() == ["style_00001_", "content_00001_"]
    before = scales(page)
    assert (desk.shown(1), desk.shown(2)) == before == (0.3, pytest.approx(1.4, abs=0.051)), "each goes along"
    outer.leave()
    assert scales(page) == before


def test_values_survive_copies_and_reloads(page: Page, outer: Outer) -> None:
    outer.set("scale_1", 0.35)
    outer.open("QRLoRA_Merge")
    Desk(page).type_scale(2, "-0.6")
    outer.leave()
    expected = {"scale_1": 0.35, "scale_2": -0.6, "apply": "live"}
    copied = in_page(
        page,
        """id => { const canvas = app.canvas; canvas.selectItems([app.graph.getNodeById(id)]); canvas.copyToClipboard();
        canvas.pasteFromClipboard(); return String([...canvas.selectedItems][0].id) }""",
        outer.id,
    )
    assert copied != outer.id
    saved = in_page(page, "() => JSON.stringify(app.graph.serialize())")
    page.reload()
    page.wait_for_function(READY)
    in_page(page, "saved => app.loadGraphData(JSON.parse(saved))", saved)
    page.wait_for_timeout(300)
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    for node in (outer.id, copied):
        assert in_page(page, VALUES, node) == expected
        (inputs,) = [
            entry["inputs"]
            for number, entry in prompt.items()
            if number.startswith(f"{node}:") and entry["class_type"] == "QRLoRA_Merge"
        ]
        assert {name: inputs[name] for name in expected} == expected
    outer.open("QRLoRA_Merge")
    desk = Desk(page)
    expect(exact(desk, 2)).to_have_value("-0.6")
    assert desk.shown(1) == 0.35


def test_of_a_subgraph_used_twice_each_has_its_own_scales(page: Page, outer: Outer) -> None:
    another = in_page(
        page,
        """id => { const made = LiteGraph.createNode(app.graph.getNodeById(id).subgraph.id); app.graph.add(made);
        return String(made.id) }""",
        outer.id,
    )
    outer.set("scale_1", 0.2)
    in_page(page, SET, [another, "scale_1", 0.8])
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert [prompt[f"{node}:{MERGE}"]["inputs"]["scale_1"] for node in (outer.id, another)] == [0.2, 0.8]
    outer.open("QRLoRA_Merge")
    row = Desk(page).row(1)
    expect(row).to_have_class("qr-lora-merge-row qr-lora-merge-linked")
    assert row.get_by_text("M", exact=True).is_disabled(), "neither is the one inside"


def test_a_blueprint_of_an_earlier_release_shows_its_scales(page: Page) -> None:
    """It names the widgets that it shows, the desk among them; frontends that know none of that make inputs of them."""
    in_page(page, "workflow => app.loadGraphData(workflow)", json.loads(EARLIER.read_text("utf-8")))
    outer = in_page(page, "() => String(app.graph.nodes[0].id)")
    name = "/^(\\d+: )?scale_2$/"
    find = f"app.graph.getNodeById(id).widgets.find(widget => {name}.test(widget.name))"
    assert in_page(page, f"id => app.graph.getNodeById(id).isWidgetVisible({find})", outer)
    in_page(page, f"id => {{ const widget = {find}; widget.value = 0.35; widget.callback?.(0.35) }}", outer)
    assert scales(page) == (1, 0.35)
    in_page(page, OPEN, outer)
    page.wait_for_timeout(500)
    in_page(page, LOOK, "QRLoRA_Merge")
    desk = Desk(page)
    expect(exact(desk, 2)).to_have_value("0.35")
    assert desk.names() == ["content", "style"]
    desk.type_scale(2, "0.8")
    in_page(page, LEAVE)
    assert (in_page(page, f"id => {find}.value", outer), scales(page)[1]) == (0.8, 0.8)


SCHEDULE, TRAIN = "5", "6"
OTHERS = [
    (FIRST, "adapter_name"), (SCHEDULE, "curve"), (SCHEDULE, "start_percent"), (SCHEDULE, "points"),
    (TRAIN, "steps"), (TRAIN, "sample_every"),
]  # fmt: skip


def test_panels_of_file_curve_and_training_go_by_what_is_outside(
    page: Page, load: Load, adapters: tuple[str, str]
) -> None:
    load(
        {
            FIRST: {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": adapters[0]}},
            SCHEDULE: {"class_type": "QRLoRA_Schedule", "inputs": {"curve": "early"}},
            TRAIN: {"class_type": "QRLoRA_Train", "inputs": {"sample_every": 0}},
        }
    )
    outer = Outer(page, [FIRST, SCHEDULE, TRAIN], OTHERS)
    assert {name for _, name in OTHERS} <= outer.values().keys()
    for name, value in {"start_percent": 0.2, "adapter_name": adapters[1], "sample_every": 10, "steps": 77}.items():
        outer.set(name, value)

    outer.open("QRLoRA_Schedule")
    start = page.locator(".qr-lora-schedule-end").first
    expect(start).to_have_attribute("aria-valuenow", "0.2")
    start.focus()
    page.keyboard.press("Shift+ArrowRight")
    page.locator(".qr-lora-schedule-point").first.focus()
    page.keyboard.press("ArrowDown")
    in_page(page, LOOK, "QRLoRA_Load")
    expect(page.locator(".qr-lora-load-name")).to_have_text("style_00001_")
    page.locator(".qr-lora-load").get_by_role("button", name="Choose an adapter file").click()
    page.locator(".qr-lora-picker-card").filter(has_text="content_00001_").first.click()
    expect(page.locator(".qr-lora-load-name")).to_have_text("content_00001_")
    in_page(page, LOOK, "QRLoRA_Train")
    expect(page.locator(".qr-lora-train-strip")).to_be_visible()
    outer.leave()

    told = outer.values()
    assert (told["adapter_name"], told["curve"], told["start_percent"]) == (adapters[0], "custom", 0.3)
    assert told["points"].startswith("0:0.95")
    assert sent(page, FIRST)["adapter_name"] == adapters[0]
    schedule = {name: told[name] for name in ("curve", "start_percent", "points")}
    assert {name: sent(page, SCHEDULE)[name] for name in schedule} == schedule
    assert (sent(page, TRAIN)["steps"], sent(page, TRAIN)["sample_every"]) == (77, 10)
