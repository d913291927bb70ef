"""One page for the tests of a file: in order between them, and opened anew where one left what another could see."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from .desk import READY
from .servers import SharedServer

# For a test of what is the same in both: a dialog, or what a script computes.
in_one_renderer = pytest.mark.parametrize("renderer", ["canvas"], indirect=True)

# Of windows that tests write to, and of the host: its workflows with their steps for undo, its view, what it stores.
_TIDY = """async known => {
  const { workflow } = app.extensionManager, left = [...workflow.openWorkflows];
  for (const name of Object.keys(window)) if (!known.includes(name)) delete window[name];
  const none = { version: 0.4, last_node_id: 0, last_link_id: 0, nodes: [], links: [], groups: [], config: {} };
  await app.loadGraphData({ ...none, extra: {} });
  for (const one of left) if (one !== workflow.activeWorkflow) await workflow.closeWorkflow(one);
  localStorage.clear(); sessionStorage.clear(); document.activeElement?.blur();
  Object.assign(app.canvas.ds, { scale: 1, offset: [0, 0] });
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""
# What tidying does not put back: reloads, sizes, fingers, kinds of nodes, messages, menus, dialogs, and other ways.
_SEEN = """() => [
  performance.timeOrigin, innerWidth, innerHeight, navigator.maxTouchPoints,
  Object.keys(LiteGraph.registered_node_types), Object.keys(navigator.clipboard),
  app.extensionManager.queueSettings.mode, app.extensionManager.sidebarTab.activeSidebarTabId,
  app.extensionManager.workflow.openWorkflows.length, app.graph.nodes.length,
  [...document.body.children].filter(({ id }) => id !== 'vue-app').map(({ outerHTML }) => outerHTML),
]"""


class SharedPage:
    """The host's page in one renderer."""

    def __init__(self, context: BrowserContext, server: SharedServer, settings: dict[str, Any]) -> None:
        self._context, self._server, self._settings = context, server, settings
        self._page: Page | None = None
        self._known: list[str] = []
        self._new: list[Any] = []

    def ready(self, *told: Any) -> Page:
        """As it is when it is opened; `told` is what else must be as it was then, or it is opened anew."""
        self._server.forget()  # a node whose output is kept says nothing again
        told = (*told, self._server.adapter_files(), self._server.get("/api/settings").get("QRLoRA.Desk", True))
        if self._page and self._look(told) == self._new:
            return self._page
        self.close()
        self._page = self._open()
        self._new = self._look(told)
        return self._page

    def close(self) -> None:
        """Whatever was done on it is gone."""
        if self._page:
            self._page.close()
        self._page = None

    def _open(self) -> Page:
        self._server.post("/api/settings", self._settings)
        page = self._context.new_page()
        page.goto(self._server.url)
        page.wait_for_function(READY)
        self._known = page.evaluate("() => Object.keys(window)")
        return page

    def _look(self, told: tuple[Any, ...]) -> list[Any]:
        """Put the page in order; returns all by which one that is not as new is known."""
        assert self._page
        self._page.evaluate(_TIDY, self._known)
        return [*told, *self._page.evaluate(_SEEN)]
