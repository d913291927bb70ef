"""A real browser on the page of a real server, in both of the host's renderers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from devtools.server import Server
from playground import assemble

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# As root it has no sandbox; it looks for nothing on the network.
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_READY = "() => !!(window.app?.extensionManager && window.LiteGraph?.registered_node_types['QRLoRA_Load'])"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium; the test is skipped where there is none, but never under CI."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        message = f"no browser: none of {', '.join(_NAMES)} is installed"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def web_server(browser: Browser) -> Iterator[Server]:
    """With the playground's models and pictures; after the browser, so that nothing starts in vain without one."""
    running = Server(args=["--cache-classic"])
    assemble.furnish(running.base)
    with running:
        yield running


@pytest.fixture(params=["canvas", "vue"])
def renderer(request: pytest.FixtureRequest) -> str:
    """Which of the host's two renderers draws the nodes."""
    return str(request.param)


@pytest.fixture
def page(browser: Browser, web_server: Server, renderer: str) -> Iterator[Page]:
    """The host's page, ready, in an empty profile."""
    settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": renderer == "vue"}
    web_server.post("/api/settings", settings)
    web_server.post("/free", {"free_memory": True})  # a node whose output is kept says nothing again
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    opened = context.new_page()
    opened.goto(web_server.url)
    opened.wait_for_function(_READY, timeout=60_000)
    yield opened
    context.close()


@pytest.fixture
def load(page: Page, web_server: Server) -> Callable[[dict[str, Any]], None]:
    """Put an API-form prompt on the page, as a user's workflow."""

    def put(prompt: dict[str, Any]) -> None:
        from devtools.workflows import to_editor

        workflow = to_editor(prompt, web_server.get("/object_info"))
        page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
        page.wait_for_function("count => window.app.graph.nodes.length === count", arg=len(prompt))

    return put
