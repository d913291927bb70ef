"""The pad, running while one drags, and what the desk says after a run, in both renderers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from playwright.sync_api import ConsoleMessage, Page, expect
from safetensors.torch import load_file, save_file

from devtools.server import Server

from ..support.desk import MERGE, READY, Desk, compose, in_page, look_at, sent, undo
from ..support.servers import SharedServer

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]
RUN = '[data-testid="queue-button"]'


def scales(page: Page) -> tuple[float, float]:
    inputs = sent(page)
    return inputs["scale_1"], inputs["scale_2"]


def open_desk(page: Page, load: Load, prompt: dict[str, Any]) -> Desk:
    load(prompt)
    look_at(page)
    desk = Desk(page)
    expect(desk.row(2)).to_be_visible()
    return desk


def test_one_drag_sets_two_scales(page: Page, load: Load, adapters: tuple[str, str], web_server: SharedServer) -> None:
    desk = open_desk(page, load, compose(adapters))
    desk.root.get_by_text("Pad", exact=True).click()
    square, thumb = desk.root.locator(".qr-lora-pad-square"), desk.root.locator(".qr-lora-pad-thumb")
    assert thumb.get_attribute("aria-valuetext") == "content_00001_ 0.9, style_00001_ 0.7"
    box = square.bounding_box()
    assert box

    def drag(first: float, second: float) -> None:
        place = thumb.bounding_box()
        assert place
        page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
        page.mouse.down()
        left, bottom = box["x"] + box["width"] * first / 2, box["y"] + box["height"] * (1 - second / 2)
        page.mouse.move(left, bottom, steps=6)
        page.wait_for_timeout(50)
        page.mouse.up()

    drag(0.5, 1.5)
    assert (desk.shown(1), desk.shown(2)) == scales(page) == pytest.approx((0.5, 1.5), abs=0.051)
    drag(3, -1)
    assert scales(page) == (2, 0), "it ends at its edges"
    undo(page)
    assert scales(page) == pytest.approx((0.5, 1.5), abs=0.051), "one drag is one step"

    thumb = desk.root.locator(".qr-lora-pad-thumb")
    thumb.focus()
    before = scales(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert scales(page) == pytest.approx((before[0] + 0.05, before[1] - 0.05))
    desk.root.get_by_label("Adapter across").select_option("2")
    before = scales(page)
    thumb.focus()
    page.keyboard.press("ArrowLeft")
    assert scales(page) == pytest.approx((before[0], before[1] - 0.05)), "across is the second adapter now"

    page.evaluate("() => { app.extensionManager.queueSettings.mode = 'change' }")
    done = len(web_server.get("/history"))
    box = square.bounding_box()
    steps = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"
    undoable, before = page.evaluate(steps), scales(page)
    page.mouse.move(box["x"] + 90, box["y"] + 90)
    page.mouse.down()
    page.mouse.move(box["x"] + 20, box["y"] + 150, steps=10)
    web_server.await_runs(done + 1)
    page.mouse.move(box["x"] + 40, box["y"] + 120, steps=4)
    page.mouse.up()
    page.evaluate("() => { app.extensionManager.queueSettings.mode = 'disabled' }")
    web_server.settle()
    assert page.evaluate(steps) == undoable + 1, "it ran while one dragged, and that is still one step"
    undo(page)
    assert scales(page) == before


def dense(server: Server, name: str) -> dict[str, torch.Tensor]:
    """Deltas of an adapter file in float64; alpha is the rank in the files of this test."""
    tensors = load_file(server.base / name)
    paths = {key.rpartition(".lora.")[0] for key in tensors if ".lora.q." in key}
    return {
        path: tensors[f"{path}.lora.q.weight"].double() @ tensors[f"{path}.lora.delta_r.weight"].double()
        for path in paths
    }


def test_what_was_applied(page: Page, load: Load, adapters: tuple[str, str], web_server: SharedServer) -> None:
    """Layers, basis, interference against dense deltas, and another base model."""
    ours: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and "comfyui-qr-lora" in message.text + message.location.get("url", ""):
            ours.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: ours.append(str(error)))
    source = web_server.base / adapters[1]
    other = source.with_name("other_base.safetensors")
    tensors = load_file(source)
    save_file({k: t * 1.5 if k.endswith("base_r.weight") else t for k, t in tensors.items()}, other, {"format": "pt"})
    page.reload()  # a new file is in the list after this
    page.wait_for_function("() => window.app?.extensionManager && LiteGraph.registered_node_types['QRLoRA_Merge']")

    desk = open_desk(page, load, compose((adapters[0], f"output/qr_loras/{other.name}")))
    box = desk.root.bounding_box()
    page.click(RUN)
    result = desk.root.locator(".qr-lora-merge-result")
    expect(result).to_contain_text("content_00001_.safetensors: 33 of 33 layers, rank 16, shared basis")
    warning = result.locator(".qr-lora-warning")
    expect(warning).to_contain_text("another base model: Q^T W has moved by 33.3%")
    assert page.locator(".dom-widget, .lg-node-widget").filter(has_text="33 of 33 layers").count() == 1, "said once"
    badge = page.locator(".qr-lora-load-badge:visible")
    assert badge.count() == 1

    def expected() -> float:
        a, b = dense(web_server, adapters[0]), dense(web_server, adapters[1])
        x, y = scales(page)
        product = sum(float((a[path] * b[path]).sum()) for path in a)
        energy = sum(float((x * d).square().sum()) for d in a.values())
        energy += sum(float((y * d).square().sum()) for d in b.values())
        return 200 * x * y * product / energy

    between = desk.root.locator(".qr-lora-merge-between")
    for value in ("0.7", "-1.3"):
        desk.type_scale(2, value)
        shown = between.inner_text().removeprefix("interference ").removesuffix(" %").replace("−", "-")
        assert float(shown) == pytest.approx(expected(), abs=0.051)
    assert abs(expected()) > 0.2, "it is something to measure"
    undo(page)
    assert desk.shown(2) == 0.7
    expect(badge).to_have_count(1)
    assert float(between.inner_text().split()[1].replace("−", "-")) == pytest.approx(expected(), abs=0.051)
    assert desk.root.bounding_box() == box, "nothing moved"
    assert not ours
    other.unlink()


def test_a_kept_merge_tells_a_page_that_was_opened_later(
    page: Page, load: Load, adapters: tuple[str, str], web_server: SharedServer
) -> None:
    prompt = compose(adapters, scales=(0.4, 0.6))
    desk = open_desk(page, load, prompt)
    page.click(RUN)
    result = desk.root.locator(".qr-lora-merge-result")
    expect(result).to_contain_text("33 of 33 layers")
    web_server.settle()
    page.reload()
    page.wait_for_function(READY)
    prompt["14"]["inputs"]["seed"] += 1
    desk = open_desk(page, load, prompt)
    assert "33 of 33 layers" not in result.inner_text()
    known = len(web_server.get("/history"))
    page.click(RUN)
    expect(result).to_contain_text("33 of 33 layers")
    web_server.await_runs(known + 1)
    (last,) = web_server.get("/history?max_items=1").values()
    assert MERGE not in last["outputs"], "it did not run again"


def test_a_large_workflow(page: Page, load: Load, adapters: tuple[str, str]) -> None:
    """Among a hundred nodes the desk goes on as alone, and redraws only what belongs to it."""
    prompt = compose(adapters)
    for number in range(100, 200):
        place = {"pos": [(number % 10) * 320, 900 + (number // 10) * 130]}
        prompt[str(number)] = {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}, "_meta": place}
    desk = open_desk(page, load, prompt)
    in_page(
        page,
        """() => { window.changed = new Set(); new MutationObserver(list => list.forEach(({target}) => {
        const found = target.parentElement?.closest('.qr-lora'); if (found) changed.add(found) }))
        .observe(document.body, {subtree: true, characterData: true, childList: true,
          attributeFilter: ['aria-valuenow']}) }""",
    )
    desk.drag(1, 1.4)
    assert desk.shown(1) == scales(page)[0] == pytest.approx(1.4, abs=0.051)
    assert page.evaluate("() => [...changed].every(panel => panel.querySelector('.qr-lora-merge-rows'))")
    assert sent(page, MERGE)["scale_2"] == 0.7
