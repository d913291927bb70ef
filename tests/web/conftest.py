"""A real browser on the page of a real server, in both of the host's renderers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from devtools.browser import ARGUMENTS, NONE, find
from devtools.server import Server
from generators.workflows import prompt_of, without_roles

from ..support.pages import SharedPage
from ..support.servers import SharedServer

# Nothing may cover the page: no tour of it, nor of the view without the graph, nor that the host's packages are old.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.OnboardingCoachmarks.Seen": ["appMode", "firstRun"],
    "Comfy.VersionCompatibility.DisableWarnings": True,
}


# Milliseconds until something counts as hanging, also where much else runs on the machine.
PATIENCE = 1000 * int(os.environ.get("QRLORA_PATIENCE", "300"))
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def opened() -> Iterator[ExitStack]:
    """What is open for all tests of the page."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module", autouse=True)
def closed_with_the_last_of_them(request: pytest.FixtureRequest, opened: ExitStack) -> None:
    """Not with the session: while Playwright is there, no test of another folder can run an event loop."""
    folder = request.node.getparent(pytest.Directory)
    folder.addfinalizer(opened.close)


@pytest.fixture(scope="session")
def browser(opened: ExitStack) -> Browser:
    """Chromium; the test is skipped where there is none, but never under CI."""
    found = find()
    if found is None:
        pytest.fail(NONE) if os.environ.get("CI") else pytest.skip(NONE)
    playwright = opened.enter_context(sync_playwright())
    return opened.enter_context(playwright.chromium.launch(executable_path=found, args=ARGUMENTS))


@pytest.fixture(scope="session")
def web_server(browser: Browser, shared_server: SharedServer) -> SharedServer:
    """With the playground's models and pictures; after the browser, so that nothing starts in vain without one."""
    shared_server.tidy()
    return shared_server


@pytest.fixture(scope="session")
def adapters(web_server: Server) -> tuple[str, str]:
    """Names of two adapters that the playground's model was trained for, of one basis, as the Load node lists them."""
    example = without_roles(prompt_of("compose_content_and_style"))
    prompt = {number: example[number] for number in "123456789"}
    for number, trained in (("8", "content"), ("9", "style")):
        prompt[number]["inputs"]["steps"] = 12
        saved = {"adapter": [number, 0], "filename_prefix": trained}
        prompt[f"{number}0"] = {"class_type": "QRLoRA_Save", "inputs": saved}
    web_server.queue(prompt)
    return "output/qr_loras/content_00001_.safetensors", "output/qr_loras/style_00001_.safetensors"


@pytest.fixture(scope="module", params=["canvas", pytest.param("vue", marks=pytest.mark.ci)])
def renderer(request: pytest.FixtureRequest) -> str:
    """Which of the host's two renderers draws the nodes; all tests of a file with the one, then with the other."""
    return str(request.param)


@pytest.fixture(scope="session")
def context(browser: Browser, opened: ExitStack) -> BrowserContext:
    """One for all tests, so that the page's script is compiled once; what a page stores is forgotten by the next."""
    made = opened.enter_context(browser.new_context(viewport={"width": 1600, "height": 1000}))
    made.add_init_script("localStorage.clear(); sessionStorage.clear()")
    made.set_default_timeout(PATIENCE)
    return made


@pytest.fixture(scope="module")
def shared_page(context: BrowserContext, web_server: SharedServer, renderer: str) -> Iterator[SharedPage]:
    """One for the tests of a file in one renderer: to open one takes as long as most tests."""
    made = SharedPage(context, web_server, {**SETTINGS, "Comfy.VueNodes.Enabled": renderer == "vue"})
    yield made
    made.close()


@pytest.fixture
def page(request: pytest.FixtureRequest, shared_page: SharedPage) -> Iterator[Page]:
    """The host's page, ready, as if it had just been opened; with the marker `own_page` it has."""
    alone = request.node.get_closest_marker("own_page") is not None
    if alone:
        shared_page.close()
    yield shared_page.ready(request.session.testsfailed)  # who knows in which state a failure leaves it
    if alone:
        shared_page.close()


@pytest.fixture
def load(page: Page, web_server: Server) -> Callable[[dict[str, Any]], None]:
    """Put an API-form prompt on the page, as a user's workflow."""

    def put(prompt: dict[str, Any]) -> None:
        from generators.workflows import to_editor

        workflow = to_editor(prompt, web_server.get("/object_info"))
        page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
        page.wait_for_function("count => window.app.graph.nodes.length === count", arg=len(prompt))

    return put
