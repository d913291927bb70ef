"""The view without the graph, which shows chosen inputs and outputs."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page

from .desk import in_page

TOGGLE = "() => app.extensionManager.command.execute('Comfy.ToggleLinear')"


class App:
    """That view, as a user sees it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def enter(self) -> None:
        """Leave the graph, where the frontend has something else to show."""
        if not in_page(self.page, "() => 'activeMode' in app.extensionManager.workflow.activeWorkflow"):
            pytest.skip("this frontend has no view in which chosen inputs are shown")
        in_page(self.page, TOGGLE)
        self.run.wait_for()

    @property
    def run(self) -> Locator:
        """The button that queues it."""
        return self.page.get_by_test_id("linear-run-button").get_by_role("button", name="Run", exact=True).first

    def item(self, label: str) -> Locator:
        """A chosen input."""
        items = self.page.get_by_test_id("app-mode-widget-item")
        return items.filter(has=self.page.get_by_text(label, exact=True))
