"""The last mixes of a Mixer with their pictures, and the picture without the mix while a key is held."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from devtools.server import Server

from ..support.desk import in_page, look_at, undo
from ..support.servers import SharedServer

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]

NEON = "loras/playground_neon.safetensors"
# In how many of the steps that can be undone the Mixer changed; the host may note the size of a preview as one more.
STEPS = """() => {
  const { undoQueue, activeState } = app.extensionManager.workflow.activeWorkflow.changeTracker
  const mixers = [...undoQueue, activeState].map(({ nodes }) => nodes.find(({ id }) => String(id) === '2'))
  const told = mixers.map(node => JSON.stringify(node?.widgets_values))
  return told.filter((own, at) => own !== told[at - 1]).length - 1
}"""
SHOWN = """() => { const [shown] = app.nodeOutputs['16']?.images ?? []; return shown?.filename ?? null }"""
SENT = """() => app.graphToPrompt().then(({ output }) => output['2'].inputs.mix)"""


def prompt(scale: float = 1.0) -> dict[str, Any]:
    mix = {"version": 1, "rows": [{"file": NEON, "scale": scale}]}
    sampler = {
        "model": ["2", 0], "positive": ["11", 0], "negative": ["11", 0], "latent_image": ["13", 0], "seed": 5,
        "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
    }  # fmt: skip
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "qrlora_playground.safetensors"}},
        "2": {
            "class_type": "QRLoRA_Mixer",
            "inputs": {"model": ["1", 0], "mix": json.dumps(mix)},
            "_meta": {"pos": [500, 0]},
        },
        "11": {"class_type": "CLIPTextEncode", "inputs": {"text": "a house", "clip": ["1", 1]}},
        "13": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "14": {"class_type": "KSampler", "inputs": sampler},
        "15": {"class_type": "VAEDecode", "inputs": {"samples": ["14", 0], "vae": ["1", 2]}},
        "16": {"class_type": "PreviewImage", "inputs": {"images": ["15", 0]}},
    }


class Mixer:
    """The panel, with a workflow in which a noise seed stays as it is."""

    def __init__(self, page: Page, server: SharedServer) -> None:
        self.page, self.server = page, server
        self.strip = page.locator(".qr-lora-history")
        self.mixes = page.locator(".qr-lora-history-mix")
        self.off = page.get_by_role("button", name="Hold to see the picture without this mix")

    def set(self, scale: float) -> None:
        """Another scale, as a step for undo."""
        script = """scale => { const mixer = app.graph.getNodeById(2).qrLoRAMixer, { rows } = mixer.mix();
          mixer.setMix({ on: true, rows: rows.map(row => ({ ...row, scale })) }) }"""
        in_page(self.page, script, scale)

    def scale(self) -> float:
        """The scale that would be sent."""
        (row,) = json.loads(self.page.evaluate(SENT))["rows"]
        return float(row.get("scale", 1))

    def run(self, scale: float) -> str:
        """Run with a scale; returns the file that was shown."""
        self.set(scale)
        before = self.shown()
        in_page(self.page, "() => app.queuePrompt(0, 1)")
        self.page.wait_for_function(
            f"before => {{ const shown = ({SHOWN})(); return shown && shown !== before }}", arg=before
        )
        expect(self.mixes.first).to_have_attribute("aria-label", f"Go back to this mix: playground_neon {scale:g}")
        return str(self.shown())

    def shown(self) -> str | None:
        """The file that the preview shows."""
        return self.page.evaluate(SHOWN)  # type: ignore[no-any-return]

    def steps(self) -> int:
        """How many of its steps can be undone, with all that is not yet told of."""
        record = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()"
        in_page(self.page, record)
        return int(self.page.evaluate(STEPS))


@pytest.fixture
def mixer(page: Page, load: Load, web_server: SharedServer) -> Mixer:
    load(prompt())
    fixed = """() => { for (const { widgets } of app.graph.nodes) for (const widget of widgets ?? [])
      if (widget.name === 'control_after_generate') widget.value = 'fixed' }"""
    in_page(page, fixed)
    look_at(page, "2")
    return Mixer(page, web_server)


def test_back_to_a_mix_with_its_picture(page: Page, mixer: Mixer) -> None:
    """Newest first, equal ones once, one step for undo, and none for what a run shows."""
    expect(mixer.strip).to_be_hidden()
    first = mixer.run(0.25)
    expect(mixer.mixes).to_have_count(1)
    before = mixer.steps()
    picture = mixer.mixes.first.locator("img")
    expect(picture).to_have_js_property("naturalWidth", 64)
    assert first in str(picture.get_attribute("src"))
    mixer.run(0.5)
    assert mixer.steps() == before + 1, "the scale alone"
    mixer.run(0.75)
    expect(mixer.mixes).to_have_count(3)
    expect(mixer.mixes.nth(0)).to_have_attribute("aria-pressed", "true")

    mixer.mixes.nth(2).click()
    assert mixer.scale() == 0.25
    expect(mixer.mixes.nth(2)).to_have_attribute("aria-pressed", "true")
    undo(page)
    assert mixer.scale() == 0.75
    expect(mixer.mixes).to_have_count(3)  # of a node made anew

    mixer.mixes.nth(1).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert mixer.scale() == 0.25
    mixer.run(0.5)
    expect(mixer.mixes).to_have_count(3)
    labels = [made.get_attribute("aria-label") for made in mixer.mixes.all()]
    assert [str(label).rsplit(" ", 1)[1] for label in labels] == ["0.5", "0.75", "0.25"]
    assert "history" not in page.evaluate("() => JSON.stringify(app.graph.serialize())")


def test_the_oldest_of_more_than_twelve_goes(mixer: Mixer) -> None:
    scales = [number / 10 for number in range(1, 14)]
    for scale in scales:
        mixer.run(scale)
    expect(mixer.mixes).to_have_count(12)
    expect(mixer.mixes.last).to_have_attribute("aria-label", "Go back to this mix: playground_neon 0.2")


def held(page: Page, how: str, mixer: Mixer) -> Callable[[], None]:
    """Hold it in one of several ways; returns what lets it go."""
    if how == "pointer":
        box = mixer.off.bounding_box()
        assert box
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        return page.mouse.up
    focus: Locator = mixer.mixes.first if how == "o" else mixer.off
    focus.focus()
    page.keyboard.down(how)
    if how == "Enter":
        return lambda: in_page(page, "() => window.dispatchEvent(new Event('blur'))")
    return lambda: page.keyboard.up(how)


@pytest.mark.parametrize("how", ["pointer", "Space", "o", "Enter"])
def test_without_the_mix_while_it_is_held(page: Page, mixer: Mixer, how: str) -> None:
    """The picture of the plain model; then the one of before, and no step for undo."""
    with_mix = mixer.run(0.9)
    before, text = mixer.steps(), page.evaluate(SENT)
    release = held(page, how, mixer)
    expect(mixer.off).to_have_attribute("aria-pressed", "true")
    assert json.loads(page.evaluate(SENT))["on"] is False
    page.wait_for_function(f"before => ({SHOWN})() !== before", arg=with_mix)
    mixer.server.settle()
    release()
    expect(mixer.off).to_have_attribute("aria-pressed", "false")
    assert page.evaluate(SENT) == text
    page.wait_for_function(f"before => ({SHOWN})() === before", arg=with_mix)
    assert mixer.steps() == before
    expect(mixer.mixes).to_have_count(1)
    page.keyboard.up("Enter")


def test_let_go_before_the_run_is_over(page: Page, mixer: Mixer) -> None:
    with_mix = mixer.run(0.9)
    mixer.off.focus()
    page.keyboard.press("Space")
    expect(mixer.off).to_have_attribute("aria-pressed", "false")
    mixer.server.await_runs(2)
    page.wait_for_timeout(1500)
    assert mixer.shown() == with_mix
    assert "on" not in json.loads(page.evaluate(SENT))


def test_a_letter_that_is_typed_is_a_letter(page: Page, mixer: Mixer) -> None:
    field = page.locator(".qr-lora input").first
    field.focus()
    page.keyboard.press("o")
    expect(mixer.off).to_have_attribute("aria-pressed", "false")
    assert mixer.server.get("/queue")["queue_running"] == []


def test_a_screen_reader_presses_twice(page: Page, mixer: Mixer, web_server: Server) -> None:
    mixer.run(0.9)
    mixer.off.evaluate("made => made.click()")
    expect(mixer.off).to_have_attribute("aria-pressed", "true")
    mixer.off.evaluate("made => made.click()")
    expect(mixer.off).to_have_attribute("aria-pressed", "false")
    assert "on" not in json.loads(page.evaluate(SENT))
