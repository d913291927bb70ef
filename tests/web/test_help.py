"""The help page of every node, as the host shows it beside the graph: text, equation, tables and picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

from generators.locales import schemas

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]

SCHEMAS = schemas()
EQUATIONS = {
    "QRLoRA_Merge": "y = W x + sum_i", "QRLoRA_Train": "y = W x", "QRLoRA_Schedule": "curve(progress)",
    "QRLoRA_Blocks": "effect of a layer =", "QRLoRA_Objective": "weight(t)", "QRLoRA_Optimizer": "rate(step)",
    "QRLoRA_TrainingData": "prior_weight *", "QRLoRA_Role": "fold(A p + b)", "QRLoRA_Rebase": "dR' =",
    "QRLoRA_Compare": "interference =",
}  # fmt: skip
# Right of the sidebar, with room above for the buttons of a selected node.
SELECT = """id => {
  const { ds, graph } = app.canvas, node = graph.getNodeById(id);
  ds.scale = 1; ds.offset = [900 - node.pos[0], 300 - node.pos[1]];
  app.canvas.deselectAll(); app.canvas.selectNode(node); app.canvas.setDirty(true, true);
}"""


def test_every_page_opens_with_its_equation_tables_and_picture(page: Page, load: Load) -> None:
    load({str(number): {"class_type": schema.node_id, "inputs": {}} for number, schema in enumerate(SCHEMAS, 1)})
    for number, schema in enumerate(SCHEMAS, 1):
        page.evaluate(SELECT, number)
        page.get_by_test_id("info-button").click()
        shown = page.locator(".node-help-content :is(.markdown-content, .comfy-markdown-content)")
        shown.locator("h1", has_text=schema.display_name).wait_for()
        assert shown.locator("h2", has_text="Inputs").count() == 1
        assert shown.locator("table").count() >= 2
        assert shown.locator("table code", has_text=schema.inputs[0].id).count() >= 1
        assert EQUATIONS.get(schema.node_id, "") in shown.inner_text()
        picture = shown.locator(f'img[src$="/docs/{schema.node_id}.jpg"]')
        picture.wait_for()
        page.wait_for_function("image => image.complete", arg=picture.element_handle())
        assert picture.evaluate("image => image.naturalWidth") > 200, schema.node_id
        assert picture.get_attribute("alt")
