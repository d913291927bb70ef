"""What a frame costs on the page while a scale is dragged: `python dev.py bench desk`.

A real browser on a real server shows QR-LoRA Merge among a hundred other nodes. The pointer drags a slider of the
mixing desk, and for comparison the host's own number widget of the same node with the desk switched off. The same for
QR-LoRA Mixer with twenty rows, and with as many as there may be. Counted is the browser's own `ScriptDuration` over the
frames that were drawn meanwhile, the host's redrawing included. Of twenty rows, the script until their workflow is open
is counted too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from benchmarks.ratios import claim, finish
from devtools import browser as installed
from devtools.environment import SetupError
from devtools.server import Server
from generators.workflows import to_editor

FRAME = 16.0  # milliseconds of script in a frame, at most
OPENING = 1000.0  # milliseconds of script until a workflow with `ROWS` rows is open, at most
ROWS, MOST_ROWS = 20, 64
RENDERERS = (("canvas", False), ("Nodes 2.0", True))
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
    merge = {"model": ["1", 0], "adapter_1": ["2", 0], "adapter_2": ["3", 0], "scale_1": 0.5}
    return {
        **around(others),
        "2": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": "content"}, "_meta": {"pos": [0, 200]}},
        "3": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": "style"}, "_meta": {"pos": [0, 600]}},
        str(MERGE): {"class_type": "QRLoRA_Merge", "inputs": merge, "_meta": {"pos": [500, 0], "size": [420, 400]}},
    }


def mixer_workflow(rows: int, others: int) -> dict[str, Any]:
    """A Mixer with so many rows, and other nodes around it."""
    mix = {"version": 1, "rows": [{"file": f"loras/file_{number}.safetensors"} for number in range(rows)]}
    inputs = {"model": ["1", 0], "mix": json.dumps(mix)}
    mixer = {"class_type": "QRLoRA_Mixer", "inputs": inputs, "_meta": {"pos": [450, 0], "size": [460, 700]}}
    return {**around(others), str(MERGE): mixer}


def around(others: int) -> dict[str, Any]:
    """A checkpoint and text encoders."""
    text = {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "none.safetensors"}},
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


def measure(browser: Browser, server: Server, prompt: dict[str, Any], moves: int, *, vue: bool, desk: bool) -> float:
    """One drag on a page of its own; it must have changed the scale."""
    value = "id => app.graph.getNodeById(id).widgets[0].value"
    with opened(browser, server, prompt, vue=vue, desk=desk) as page:
        before = page.evaluate(value, MERGE)
        found = drag(page, middle(page, desk=desk), moves)
        if page.evaluate(value, MERGE) == before:
            raise SetupError("dragging changed nothing")
    return found


def measure_opening(browser: Browser, server: Server, *, vue: bool) -> float:
    """Milliseconds of script until a Mixer is open and has rested, on a page that had one before."""
    prompt = mixer_workflow(ROWS, 0)
    with opened(browser, server, prompt, vue=vue, desk=True) as page:
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        saved = page.evaluate("() => app.graph.serialize()")
        before = script_seconds(session)
        page.evaluate("workflow => app.loadGraphData(workflow)", saved)
        page.locator(".qr-lora-mixer-row").nth(ROWS - 1).wait_for()
        page.wait_for_timeout(1000)
        return 1e3 * (script_seconds(session) - before)


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
        own = measure(browser, server, workflow(100), moves, vue=False, desk=False)
        print(f"the host's own widget, canvas renderer: {own:.2f} ms of script in a frame")
        panels = {
            "the desk": workflow(100),
            f"a Mixer of {ROWS} rows": mixer_workflow(ROWS, 100),
            f"a Mixer of {MOST_ROWS} rows": mixer_workflow(MOST_ROWS, 100),
        }
        for (panel, prompt), (name, vue) in product(panels.items(), RENDERERS):
            ours = measure(browser, server, prompt, moves, vue=vue, desk=True)
            print(f"a slider of {panel}, {name}: {ours:.2f} ms, {ours / own:.2f} times the host's own widget")
            claim(f"script in a frame over {FRAME:g} ms, {panel}, {name}", ours / FRAME, 1.0, at_least=False)
        for name, vue in RENDERERS:
            spent = measure_opening(browser, server, vue=vue)
            print(f"a Mixer of {ROWS} rows, {name}: {spent:.0f} ms of script to open its workflow")
            claim(f"script to open over {OPENING:g} ms, {name}", spent / OPENING, 1.0, at_least=False)
        browser.close()
    if not quick:
        finish()


if __name__ == "__main__":
    main()
