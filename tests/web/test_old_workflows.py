"""Workflows that earlier releases saved open with the values that they were saved with.

Beside each workflow lies the prompt that the same release's page made of it. Both are as that release wrote them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page

from devtools.server import Server

from ..support.desk import Desk, look_at

pytestmark = [pytest.mark.web, pytest.mark.server]

FOLDER = Path(__file__).parent / "workflows"
RELEASES = sorted(path.name.removesuffix(".prompt.json") for path in FOLDER.glob("*.prompt.json"))


@pytest.mark.parametrize("release", RELEASES)
def test_every_value_is_as_saved(page: Page, web_server: Server, release: str) -> None:
    workflow = json.loads((FOLDER / f"{release}.json").read_text("utf-8"))
    expected = json.loads((FOLDER / f"{release}.prompt.json").read_text("utf-8"))
    assert len({node["class_type"] for node in expected.values() if "QRLoRA" in node["class_type"]}) >= 7
    for additions in (True, False):
        web_server.post("/api/settings", {"QRLoRA.Desk": additions})
        try:
            page.reload()
            page.wait_for_function("() => window.app?.extensionManager && LiteGraph.registered_node_types.QRLoRA_Merge")
            page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
            page.wait_for_timeout(500)
            for _ in range(2):
                found = page.evaluate("async () => (await app.graphToPrompt()).output")
                assert found.keys() == expected.keys()
                for number, node in expected.items():
                    told = found[number]["inputs"]
                    assert {name: told.get(name) for name in node["inputs"]} == node["inputs"], (number, additions)
                page.evaluate("async () => app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize())))")
                page.wait_for_timeout(500)
            look_at(page, next(number for number, node in expected.items() if node["class_type"] == "QRLoRA_Merge"))
            page.wait_for_timeout(300)
            assert (Desk(page).slots() == [1, 3, 8]) is additions
        finally:
            web_server.post("/api/settings", {"QRLoRA.Desk": True})


def test_there_is_a_release() -> None:
    assert RELEASES
