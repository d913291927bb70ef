"""A click on a cell of a sweep's picture puts its scales into QR-LoRA Merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

from generators.workflows import prompt_of, without_roles

from ..support.desk import look_at

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]

CLICK = "index => document.querySelectorAll('.qr-lora-grid-cell')[index].click()"
SENT = "async () => (await window.app.graphToPrompt()).output['10']?.inputs"
MESSAGE = "() => document.querySelector('.qr-lora-grid-message').textContent"


def sweeping(adapters: tuple[str, str]) -> dict[str, Any]:
    """A sweep over two adapters, and a merge that has them in other slots than the sweep."""
    example = without_roles(prompt_of("compose_content_and_style"))
    prompt = {number: example[number] for number in ("1", "11", "12", "13")}
    for number, name in zip(("8", "9"), adapters, strict=True):
        prompt[number] = {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": name}}
    swept = {"model": ["1", 0], "adapter_x": ["8", 0], "scales_x": "0, 0.5, 1", "adapter_y": ["9", 0]}
    prompt["10"] = {
        "class_type": "QRLoRA_Merge",
        "inputs": {"model": ["1", 0], "adapter_1": ["9", 0], "adapter_2": ["8", 0], "scale_1": 0.9, "scale_2": 0.8},
    }
    prompt["20"] = {"class_type": "QRLoRA_Sweep", "inputs": {**swept, "scales_y": "0.25, 1.5"}}
    sampling = {**example["14"]["inputs"], "model": ["20", 0], "steps": 1}
    prompt["21"] = {"class_type": "KSampler", "inputs": sampling}
    prompt["22"] = {"class_type": "VAEDecode", "inputs": {"samples": ["21", 0], "vae": ["1", 2]}}
    prompt["23"] = {"class_type": "QRLoRA_Grid", "inputs": {"images": ["22", 0], "grid": ["20", 1]}}
    prompt["24"] = {"class_type": "PreviewImage", "inputs": {"images": ["23", 0]}}
    prompt["25"] = {"class_type": "PreviewAny", "inputs": {"source": ["10", 2]}}
    return prompt


def test_a_cell_sets_the_scales_of_the_merge(page: Page, load: Load, adapters: tuple[str, str]) -> None:
    load(sweeping(adapters))
    look_at(page, "23")  # out of sight a frontend makes no panel
    page.evaluate("() => window.app.queuePrompt(0)")
    cells = page.locator(".qr-lora-grid-cell")
    page.wait_for_function("() => document.querySelectorAll('.qr-lora-grid-cell').length === 6")
    page.wait_for_function("() => document.querySelector('.qr-lora-grid-frame img').naturalWidth")

    def scales() -> tuple[float, float]:
        sent = page.evaluate(SENT)
        return sent["scale_2"], sent["scale_1"]  # across, up and down

    assert scales() == (0.8, 0.9)
    page.evaluate(CLICK, 4)
    assert scales() == (0.5, 1.5)
    assert cells.nth(4).get_attribute("aria-pressed") == "true"
    told = page.evaluate(MESSAGE)
    assert all(part in told for part in ("content", "0.5", "node 10"))

    look_at(page, "23")
    page.evaluate("() => document.querySelectorAll('.qr-lora-grid-cell')[4].focus()")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert scales() == (1, 0.25)
    page.evaluate("() => window.app.graph.getNodeById(23).onExecuted(window.app.nodeOutputs['23'])")  # it ran again
    assert page.evaluate("() => document.activeElement === document.querySelectorAll('.qr-lora-grid-cell')[2]")

    page.evaluate("""() => {
      const merge = window.app.graph.getNodeById(10);
      merge.disconnectInput(merge.inputs.findIndex(({ name }) => name === "adapter_1"));
    }""")
    page.evaluate(CLICK, 0)
    assert page.evaluate(SENT)["scale_2"] == 0
    assert "as far as the adapters are connected" in page.evaluate(MESSAGE)

    page.evaluate("() => window.app.graph.remove(window.app.graph.getNodeById(10))")
    page.evaluate(CLICK, 1)
    assert "no QR-LoRA Merge" in page.evaluate(MESSAGE)
    assert cells.nth(1).get_attribute("aria-pressed") == "false"
