"""The mixing desk on the page, used by mouse and keys, and read from what is shown and what would be sent."""

from __future__ import annotations

import contextlib
from typing import Any

from playwright.sync_api import Locator, Page, TimeoutError

MERGE, FIRST, SECOND = "4", "2", "3"
READY = "() => !!(window.app?.extensionManager && window.LiteGraph?.registered_node_types['QRLoRA_Load'])"


def compose(adapters: tuple[str, str], *, scales: tuple[float, float] = (0.9, 0.7)) -> dict[str, Any]:
    """Two loaded adapters, merged, to a picture, in API form."""

    def text(words: str) -> dict[str, Any]:
        inputs = {"text": words, "clip": ["1", 1]}
        return {"class_type": "CLIPTextEncode", "inputs": inputs, "_meta": {"pos": [900, 420]}}

    sampler = {
        "model": [MERGE, 0], "positive": ["11", 0], "negative": ["12", 0], "latent_image": ["13", 0], "seed": 5,
        "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
    }  # fmt: skip
    merge = {
        "model": ["1", 0], "adapter_1": [FIRST, 0], "adapter_2": [SECOND, 0],
        "scale_1": scales[0], "scale_2": scales[1],
    }  # fmt: skip
    return {
        "1": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": "qrlora_playground.safetensors"},
            "_meta": {"pos": [0, 500]},
        },
        FIRST: {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": adapters[0]}, "_meta": {"pos": [0, 0]}},
        SECOND: {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": adapters[1]}, "_meta": {"pos": [0, 250]}},
        MERGE: {"class_type": "QRLoRA_Merge", "inputs": merge, "_meta": {"pos": [420, 0], "size": [420, 300]}},
        "11": text("an orange house"),
        "12": text(""),
        "13": {
            "class_type": "EmptySD3LatentImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1},
            "_meta": {"pos": [900, 250]},
        },
        "14": {"class_type": "KSampler", "inputs": sampler, "_meta": {"pos": [1300, 0]}},
        "15": {"class_type": "VAEDecode", "inputs": {"samples": ["14", 0], "vae": ["1", 2]}},
        "16": {"class_type": "PreviewImage", "inputs": {"images": ["15", 0]}, "_meta": {"pos": [900, 100]}},
    }


SOCKET = """([id, name, isInput]) => {
  const node = app.graph.getNodeById(id), index = isInput ? node.findInputSlot(name) : node.findOutputSlot(name);
  const dot = document.querySelector(`[data-slot-key="${id}-${isInput ? 'in' : 'out'}-${index}"]`);
  if (dot) {
    const { left, top, width, height } = dot.getBoundingClientRect();
    return [left + width / 2, top + height / 2];
  }
  const [x, y] = isInput ? node.getInputPos(index) : node.getOutputPos(index), { ds, canvas } = app.canvas;
  const { left, top } = canvas.getBoundingClientRect();
  return [(x + ds.offset[0]) * ds.scale + left, (y + ds.offset[1]) * ds.scale + top];
}"""


def drag_link(page: Page, source: tuple[str, str], target: tuple[str, str]) -> None:
    """From an output to an input, each a node and a name, by the mouse, in either renderer."""
    (start, end) = (page.evaluate(SOCKET, [*source, False]), page.evaluate(SOCKET, [*target, True]))
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=8)
    page.wait_for_timeout(100)
    page.mouse.up()
    page.wait_for_timeout(200)


def look_at(page: Page, node: str = MERGE) -> None:
    """Bring a node to the upper left, at full size: far away a panel is not drawn."""
    place = """id => { const { ds, graph } = app.canvas; const [x, y] = graph.getNodeById(id).pos;
      ds.scale = 1; ds.offset = [260 - x, 160 - y]; app.canvas.setDirty(true, true) }"""
    page.wait_for_timeout(300)
    in_page(page, place, node)


class Desk:
    """The desk of one Merge node."""

    def __init__(self, page: Page, node: str = MERGE) -> None:
        self.page, self.node = page, node

    @property
    def root(self) -> Locator:
        """The panel."""
        return self.page.locator(".qr-lora:has(.qr-lora-merge-rows)").first

    def row(self, slot: int) -> Locator:
        """The row of an adapter."""
        return self.root.locator(f'.qr-lora-merge-row[data-slot="{slot}"]')

    def slots(self) -> list[int]:
        """Rows as they stand."""
        return [int(row.get_attribute("data-slot") or 0) for row in self.root.locator(".qr-lora-merge-row").all()]

    def names(self) -> list[str]:
        """What the rows are called, in order."""
        return self.root.locator(".qr-lora-merge-name").all_inner_texts()

    def shown(self, slot: int) -> float:
        """The scale that the row shows, in both of its controls."""
        exact = float(self.row(slot).locator("input").input_value())
        slid = float(self.slider(slot).get_attribute("aria-valuenow") or "nan")
        assert exact == slid
        return exact

    def slider(self, slot: int) -> Locator:
        """The slider of a row."""
        return self.row(slot).locator(".qr-lora-slider")

    def drag(self, slot: int, to: float) -> None:
        """Drag the slider of a row from where it is to a scale between 0 and 2."""
        box = self.slider(slot).bounding_box()
        assert box
        places = [box["x"] + box["width"] * share / 2 for share in (self.shown(slot), to)]
        height = box["y"] + box["height"] / 2
        self.page.mouse.move(places[0], height)
        self.page.mouse.down()
        self.page.mouse.move(places[1], height, steps=5)
        self.page.mouse.up()

    def type_scale(self, slot: int, value: str) -> None:
        """Enter an exact scale."""
        self.row(slot).locator("input").fill(value)
        self.row(slot).locator("input").press("Tab")

    def press(self, slot: int, label: str) -> None:
        """Press a button of a row, `M` or `S`."""
        self.row(slot).get_by_text(label, exact=True).click()

    def sockets(self) -> list[str]:
        """The sockets of the node that belong to no widget, in order."""
        return self.page.evaluate(  # type: ignore[no-any-return]
            "id => app.graph.getNodeById(id).inputs.filter(i => !i.widget).map(i => i.name)", self.node
        )


def sent(page: Page, node: str = MERGE) -> dict[str, Any]:
    """The inputs of a node in the prompt that the page would send; also found within a subgraph."""
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    return next(entry["inputs"] for key, entry in prompt.items() if key == node or key.endswith(f":{node}"))


def undo(page: Page) -> None:
    """Control-Z, as the host hears it, until the host has loaded what was before."""
    tracker = "app.extensionManager.workflow.activeWorkflow.changeTracker"
    before = page.evaluate_handle(f"() => {tracker}.activeState")  # set last, after the graph is there again
    page.keyboard.press("Control+z")
    with contextlib.suppress(TimeoutError):  # what a test asserts next tells whether anything was undone
        page.wait_for_function(f"before => {tracker}.activeState !== before", arg=before, timeout=3000)
    page.wait_for_timeout(300)


def in_page(page: Page, script: str, argument: Any = None) -> Any:
    """Run a script, then let the page draw."""
    result = page.evaluate(script, argument)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return result
