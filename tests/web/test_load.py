"""The Load node's panel, and that what is picked in its dialog is what it sends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, Route, expect
from safetensors.torch import save_file

from devtools.server import Server

from ..support.faults import faults

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]

MARKUP = '<img data-hostile src=x onerror="window.pwned=1"><script data-hostile>window.pwned=1</script>'
HOSTILE = f"{MARKUP}\u202e\u2066\x07" + "long " * 200_000
TRAINING = {"steps_done": 1000, "learning_rate": 1e-4, "optimizer": "adamw"}
STYLE, CONTENT, HOSTILE_FILE = (
    "loras/panel/style.safetensors",
    "loras/panel/deep/cat.safetensors",
    "loras/panel/x.safetensors",
)
GONE = "loras/panel/gone.safetensors"
FILES = {
    STYLE: {"qr_lora.base_model": "SD3", "qr_lora.triggers": "xyz style", "qr_lora.training": json.dumps(TRAINING)},
    CONTENT: {"ss_tag_frequency": json.dumps({"1_cat": {"a cat": 3}})},
    HOSTILE_FILE: {
        "qr_lora.base_model": HOSTILE, "qr_lora.triggers": HOSTILE, "modelspec.title": HOSTILE,
        "qr_lora.training": json.dumps({MARKUP: MARKUP, "steps_done": HOSTILE}),
    },
}  # fmt: skip
# What other programs write beside files.
BESIDE: dict[str, dict[str, object]] = {
    "style.json": {"notes": "Best at dusk", "preferred weight": 0.7},
    "style.civitai.info": {"description": "<p>unheard</p>"},
    "x.json": {"notes": HOSTILE, "description": HOSTILE, "preferred weight": HOSTILE},
    "x.metadata.json": {"notes": HOSTILE, "usage_tips": json.dumps({"strength_min": 0.5, "strength_max": 1.5})},
}
HARM = (
    """() => ({ pwned: window.pwned ?? null, made: document.querySelectorAll('[data-hostile], [onerror]').length })"""
)
SENT = "async () => (await window.app.graphToPrompt()).output['1'].inputs.adapter_name"
WARN = """async sentence => {
  const style = document.querySelector('link[href*="qr-lora"][href$="/style.css"]')
  const { showBaseWarning } = await import(style.href.replace('style.css', 'load/load.js'))
  showBaseWarning(window.app.graph.getNodeById(1), sentence)
}"""


@pytest.fixture(scope="module", autouse=True)
def files(web_server: Server) -> Iterator[None]:
    tensors = {"a.lora_down.weight": torch.zeros(4, 8), "a.lora_up.weight": torch.zeros(8, 4)}
    for name, metadata in FILES.items():
        path = web_server.models_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata)
    style = web_server.models_dir / STYLE
    pictures = [style.with_name(f"style{end}.png") for end in ("", "_sample_1", "_sample_2")]
    for number, path in enumerate(pictures):
        Image.new("RGB", (16 + number, 16)).save(path)
    beside = [style.with_name(name) for name in BESIDE]
    for path in beside:
        path.write_text(json.dumps(BESIDE[path.name]), encoding="utf-8")
    yield
    for path in [*(web_server.models_dir / name for name in FILES), *pictures, *beside]:
        path.unlink()


def of(name: str) -> dict[str, Any]:
    return {"1": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": name}}}


@pytest.mark.own_page
def test_the_panel_shows_the_file_and_copies_its_triggers(page: Page, load: Load) -> None:
    seen = faults(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    load(of(STYLE))
    panel = page.locator(".qr-lora-load")
    expect(panel).to_contain_text("made for SD3")
    expect(panel).to_contain_text("LoRA · rank 4 · 1 layers")
    expect(panel).to_contain_text("Triggers: xyz style")
    large = panel.locator(".qr-lora-load-picture img")
    expect(large).to_have_js_property("naturalWidth", 16)
    panel.get_by_role("button", name="style_sample_2.png").click()
    expect(large).to_have_js_property("naturalWidth", 18)
    height = panel.bounding_box()["height"]  # type: ignore[index]
    panel.get_by_role("button", name="Copy these words").click()
    expect(panel).to_contain_text("Copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == "xyz style"
    page.evaluate("""async () => {
      await navigator.clipboard.writeText('other')
      navigator.clipboard.writeText = () => Promise.reject()
    }""")  # as on a page without https
    panel.get_by_role("button", name="Copy these words").click()
    assert (
        page.evaluate("""async () => {
      let text = null;
      for (let tried = 0; tried < 100 && text !== 'xyz style'; tried++) {
        await new Promise((done) => setTimeout(done, 50));
        text = await navigator.clipboard.readText();
      }
      return text;
    }""")
        == "xyz style"
    )
    panel.get_by_role("button", name="What the file tells").click()
    for told in ("steps_done", "1000", "learning_rate", "0.0001", "adamw"):
        expect(panel.get_by_role("group", name="Settings")).to_contain_text(told)
    for told in ("recommended scale0.7", "notesBest at dusk", "told beside it bystyle.json"):
        expect(panel.get_by_role("group", name="Settings")).to_contain_text(told)
    expect(panel.get_by_role("group", name="Settings")).not_to_contain_text("unheard")
    panel.get_by_role("button", name="What the file tells").click()

    page.evaluate(WARN, "another base model: 7 of 48 layers")
    badge = panel.get_by_text("made for another base")
    expect(badge).to_have_attribute("title", "another base model: 7 of 48 layers")
    page.evaluate(WARN, "")
    expect(badge).to_have_count(0)
    page.evaluate(WARN, "another base model: 7 of 48 layers")
    choose_by_list(page, CONTENT)
    expect(panel).to_contain_text("Frequent tags: a cat")
    expect(badge).to_have_count(0)
    choose_by_list(page, GONE)
    expect(panel.locator(".qr-lora-warning")).to_contain_text("no such adapter file")
    choose_by_list(page, HOSTILE_FILE)
    expect(panel).to_contain_text(MARKUP)
    panel.get_by_role("button", name="What the file tells").click()
    expect(panel.get_by_role("group", name="Settings")).to_contain_text("recommended scale0.5 – 1.5")
    expect(panel.get_by_role("group", name="Settings")).to_contain_text(f"notes{MARKUP}")
    shown = panel.inner_text()
    assert len(shown) < 10_000
    assert not set(shown) & set("\u202e\u2066\x07")
    assert page.evaluate(HARM) == {"pwned": None, "made": 0}
    panel.get_by_role("button", name="What the file tells").click()
    assert panel.bounding_box()["height"] == height  # type: ignore[index]
    assert seen == []


@pytest.mark.own_page
def test_facts_that_come_again_leave_the_keyboard_at_the_picture_that_it_chose(page: Page, load: Load) -> None:
    """What is remembered of a file is shown at once, and again when the server has answered."""
    load(of(STYLE))
    thumb = page.locator(".qr-lora-load").get_by_role("button", name="style_sample_2.png")
    expect(thumb).to_be_visible()
    choose_by_list(page, CONTENT)
    expect(thumb).to_have_count(0)
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route)

    page.route("**/qr_lora/adapter?*", hold)
    with page.expect_request("**/qr_lora/adapter?*"):
        choose_by_list(page, STYLE)
    thumb.press("Enter")
    chosen = thumb.locator("img").get_attribute("src") or ""
    large = page.locator(".qr-lora-load-picture img")
    expect(large).to_have_attribute("src", chosen)
    thumb.evaluate("made => { made.dataset.mark = 'the first' }")
    waiting.pop().continue_()
    expect(thumb).not_to_have_attribute("data-mark", "the first")
    expect(thumb).to_be_focused()
    expect(large).to_have_attribute("src", chosen)


def choose_by_list(page: Page, name: str) -> None:
    """As the host's own list does."""
    page.evaluate(
        """name => { const widget = window.app.graph.getNodeById(1).widgets[0]
        widget.value = name; widget.callback(name) }""",
        name,
    )


def test_the_picker_sets_the_file(page: Page, load: Load, web_server: Server) -> None:
    seen = faults(page)
    load(of(STYLE))
    opener = page.get_by_role("button", name="Choose an adapter file")
    dialog, cards = page.locator("dialog.qr-lora-picker"), page.locator(".qr-lora-picker-card")
    opener.focus()
    page.keyboard.down("Enter")
    expect(cards.first).to_have_attribute("aria-selected", "true")
    expect(cards.first).to_contain_text("style")
    page.keyboard.down("Enter")  # still held
    page.keyboard.up("Enter")
    expect(dialog).to_have_count(1)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(opener).to_be_focused()

    page.keyboard.press("Enter")
    page.keyboard.type("deep cat")
    expect(cards).to_have_count(1)
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    assert page.evaluate(SENT) == CONTENT
    expect(page.locator(".qr-lora-load-name")).to_have_text("cat")
    expect(opener).to_be_focused()

    page.keyboard.press("Control+z")  # the node is made anew
    expect(page.locator(".qr-lora-load-name")).to_have_text("style")
    assert page.evaluate(SENT) == STYLE

    late = web_server.models_dir / "loras" / "panel" / "late.safetensors"
    late.write_bytes((web_server.models_dir / CONTENT).read_bytes())
    try:
        opener.click()
        dialog.get_by_label("Search").fill("late")
        cards.first.click()
        assert page.evaluate(SENT) == "loras/panel/late.safetensors"
        expect(page.locator(".qr-lora-load")).to_contain_text("rank 4")
        if page.evaluate("() => window.LiteGraph.vueNodesMode"):
            expect(page.locator("[data-node-id='1']").get_by_label("adapter_name")).to_contain_text("late")
    finally:
        late.unlink()
    assert seen == []
