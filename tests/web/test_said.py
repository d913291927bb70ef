"""What a node without a panel of its own has to say stays on it when the run is over, and is said once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from ..support.desk import look_at
from ..support.servers import SharedServer

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]


def test_what_was_saved_is_told_after_the_run(
    page: Page, load: Load, adapters: tuple[str, str], web_server: SharedServer
) -> None:
    load(
        {
            "1": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": adapters[0]}},
            "2": {"class_type": "QRLoRA_Save", "inputs": {"adapter": ["1", 0], "filename_prefix": "said"}},
        }
    )
    look_at(page, "2")
    page.evaluate("() => window.app.queuePrompt(0)")
    said = page.locator(".qr-lora-said")
    expect(said).to_contain_text("saved as output/qr_loras/said_")
    web_server.settle()
    page.wait_for_timeout(1000)
    expect(said).to_be_visible()
    assert page.locator(".dom-widget, .lg-node-widget").filter(has_text="saved as").count() == 1
    names = page.evaluate("() => window.app.graph.getNodeById(2).widgets.map((widget) => widget.name)")
    assert [name for name in names if name.startswith("$$")] == []
