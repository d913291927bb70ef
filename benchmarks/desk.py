"""What a frame costs on the page while a scale is dragged: `python dev.py bench desk`.

A real browser on a real server shows QR-LoRA Merge among a hundred other nodes. The pointer drags a slider of the
mixing desk, and for comparison the host's own number widget of the same node with the desk switched off. Counted is
the browser's own `ScriptDuration` over the frames that were drawn meanwhile, the host's redrawing included.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from benchmarks.ratios import claim, finish
from devtools import browser as installed
from devtools.environment import SetupError
from devtools.server import Server
from generators.workflows import to_editor

FRAME = 16.0  # milliseconds of script in a frame, at most
SLIDER = ".qr-lora-merge-row .qr-lora-slider"
MERGE = 4
READY = "() => window.app?.extensionManager && window.LiteGraph?.registered_node_types.QRLoRA_Merge"
COUNT_FRAMES = "() => { window.drawn = 0; const next = () => { drawn += 1; requestAnimationFrame(next) }; next() }"
LOOK = """id => { const { ds, graph } = app.canvas; const [x, y] = graph.getNodeById(id).pos;
  ds.scale = 1; ds.offset = [300 - x, 150 - y]; app.canvas.setDirty(true, true) }"""
# On the host's own widget: the middle of scale_1, in pixels of the page.
OWN_WIDGET = """id => { const node = app.graph.getNodeById(id); const widget = node.widgets[0];
  return app.canvasPosToClientPos([node.pos[0] + node.size[0] / 2, node.pos[1] + widget.last_y + 10]) }"""


def workflow(others: int) -> dict[str, Any]:
    """Two adapters on a Merge, and other nodes around it, in API form; nothing of it is run."""
    text = {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}}
    merge = {"model": ["1", 0], "adapter_1": ["2", 0], "adapter_2": ["3", 0], "scale_1": 0.5}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "none.safetensors"}},
        "2": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": "content"}, "_meta": {"pos": [0, 200]}},
        "3": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": "style"}, "_meta": {"pos": [0, 600]}},
        str(MERGE): {"class_type": "QRLoRA_Merge", "inputs": merge, "_meta": {"pos": [500, 0], "size": [420, 400]}},
        **{str(10 + i): text | {"_meta": {"pos": [1000 + i % 10 * 240, i // 10 * 140]}} for i in range(others)},
    }


@contextmanager
def opened(browser: Browser, server: Server, prompt: dict[str, Any], *, vue: bool, desk: bool) -> Iterator[Page]:
    """The page with the workflow on it, looking at the Merge node."""
    settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": vue, "QRLoRA.Desk": desk}
    server.post("/api/settings", settings)
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.goto(server.url)
    page.wait_for_function(READY, timeout=120_000)
    page.evaluate("workflow => app.loadGraphData(workflow)", to_editor(prompt, server.get("/object_info")))
    page.wait_for_timeout(1500)
    page.evaluate(LOOK, MERGE)
    page.wait_for_timeout(500)
    yield page
    page.close()


def script_seconds(session: CDPSession) -> float:
    """Script that the page has run so far."""
    metrics = {entry["name"]: entry["value"] for entry in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["ScriptDuration"])


def drag(page: Page, start: tuple[float, float], moves: int) -> float:
    """Milliseconds of script per frame drawn while the pointer goes to and fro."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    page.evaluate(COUNT_FRAMES)
    page.mouse.move(*start)
    page.mouse.down()
    before, drawn = script_seconds(session), page.evaluate("() => drawn")
    for move in range(moves):
        page.mouse.move(start[0] + 3 * abs(move % 20 - 10), start[1])
    frames = page.evaluate("() => drawn") - drawn
    spent = script_seconds(session) - before
    page.mouse.up()
    return 1e3 * spent / max(1, frames)


def middle(page: Page, *, desk: bool) -> tuple[float, float]:
    """Where to take hold."""
    if not desk:
        x, y = page.evaluate(OWN_WIDGET, MERGE)
        return float(x), float(y)
    box = page.locator(SLIDER).first.bounding_box()
    if box is None:
        raise SetupError("the mixing desk is not on the page")
    return box["x"] + box["width"] / 4, box["y"] + box["height"] / 2


def measure(browser: Browser, server: Server, moves: int, *, vue: bool, desk: bool) -> float:
    """One drag on a page of its own; it must have changed the scale."""
    with opened(browser, server, workflow(100), vue=vue, desk=desk) as page:
        found = drag(page, middle(page, desk=desk), moves)
        scale = page.evaluate("id => app.graph.getNodeById(id).widgets[0].value", MERGE)
        if scale == 0.5:
            raise SetupError("dragging changed nothing")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few moves; decides nothing")
    quick = parser.parse_args().quick
    moves = 40 if quick else 400
    found = installed.find()
    if found is None:
        raise SetupError(installed.NONE)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {moves} moves of the pointer, 100 other nodes")
    with sync_playwright() as playwright, Server() as server:
        browser = playwright.chromium.launch(executable_path=found, args=installed.ARGUMENTS)
        print(f"Chromium {browser.version}")
        own = measure(browser, server, moves, vue=False, desk=False)
        print(f"the host's own widget, canvas renderer: {own:.2f} ms of script in a frame")
        for name, vue in (("canvas", False), ("Nodes 2.0", True)):
            ours = measure(browser, server, moves, vue=vue, desk=True)
            print(f"the desk's slider, {name}: {ours:.2f} ms, {ours / own:.2f} times the host's own widget")
            claim(f"script in a frame over {FRAME:g} ms, {name}", ours / FRAME, 1.0, at_least=False)
        browser.close()
    if not quick:
        finish()


if __name__ == "__main__":
    main()
