"""The view without the graph, which shows chosen inputs and outputs: scales and panels can be set there, and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from devtools.server import Server
from generators.workflows import to_editor

from ..support.app_mode import TOGGLE, App
from ..support.desk import FIRST, MERGE, Desk, compose, in_page, look_at, sent

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]

CHOSEN = [(MERGE, "scale_1"), (MERGE, "qr_lora_desk"), (FIRST, "adapter_name"), (FIRST, "qr_lora_file")]
PICTURE = "16"


@pytest.fixture
def app(page: Page, web_server: Server, adapters: tuple[str, str]) -> App:
    """The merge of two adapters, with inputs and the picture chosen for the view."""
    workflow = to_editor(compose(adapters), web_server.get("/object_info"))
    inputs = [[int(node), name] for node, name in CHOSEN]
    workflow["extra"] = {"linearData": {"inputs": inputs, "outputs": [int(PICTURE)]}}
    in_page(page, "workflow => app.loadGraphData(workflow)", workflow)
    look_at(page)
    app = App(page)
    app.enter()
    return app


def test_scales_and_panels_are_set_and_run_without_the_graph(page: Page, app: App, web_server: Server) -> None:
    expect(page.get_by_test_id("app-mode-widget-item")).to_have_count(len(CHOSEN))
    scale = app.item("scale_1").locator("input")
    scale.fill("0.35")
    scale.press("Enter")
    desk = Desk(page)
    expect(desk.row(1).locator("input")).to_have_value("0.35")
    desk.type_scale(2, "1.2")
    assert (sent(page)["scale_1"], sent(page)["scale_2"]) == (0.35, 1.2)
    desk.type_scale(1, "0.6")
    assert float(scale.input_value()) == sent(page)["scale_1"] == 0.6
    expect(app.item("Adapter file").locator(".qr-lora-load-name")).to_have_text("content_00001_")

    app.run.click()
    expect(desk.root.locator(".qr-lora-merge-result")).to_contain_text("33 of 33 layers")
    page.wait_for_function("node => app.nodeOutputs[node]?.images?.length", arg=PICTURE)
    (run,) = web_server.get("/history?max_items=1").values()
    ran = run["prompt"][2][MERGE]["inputs"]
    assert (ran["scale_1"], ran["scale_2"]) == (0.6, 1.2)
    (image,) = run["outputs"][PICTURE]["images"]
    expect(page.locator(f'img[src*="{image["filename"]}"]:visible').first).to_be_visible()

    in_page(page, TOGGLE)
    look_at(page)
    expect(desk.row(1)).to_be_visible()
    assert (desk.shown(1), desk.shown(2)) == (0.6, 1.2)


def test_every_widget_under_the_desk_can_be_chosen(page: Page, app: App) -> None:
    """While inputs are chosen, the desk stands for none of them."""
    page.get_by_text("Build an app").or_(page.get_by_text("Edit app")).first.click()
    in_page(page, "() => { app.extensionManager.workflow.activeWorkflow.activeMode = 'builder:inputs' }")
    look_at(page)
    rows = page.locator(f'[data-node-id="{MERGE}"] .lg-node-widget:visible')
    expect(rows.filter(has_text="scale_2")).to_be_visible()
    rows.filter(has_text="scale_2").click()
    rows.filter(has_text="density").click()
    chosen = page.get_by_test_id("builder-io-item")
    expect(chosen).to_have_count(len(CHOSEN) + 2)
    in_page(page, "() => { app.extensionManager.workflow.activeWorkflow.activeMode = 'app' }")
    expect(app.item("scale_2").locator("input")).to_have_value("0.70")
    expect(app.item("density")).to_be_visible()
