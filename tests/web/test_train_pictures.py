"""Rows of pictures on the panel of a training: what it saw, its samples by kind, and the step that does best."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from generators.workflows import prompt_of, without_roles

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]

REPORT = "() => window.app.graph.getNodeById(8).qrLoRATraining.report"
TELL = "report => window.app.api.dispatchCustomEvent('qr_lora.training', report)"
# How much the panel holds beyond its own height, what is left for the words, and how far it reaches out of its node.
FIT = """() => {
  const panel = document.querySelector('.qr-lora:has(.qr-lora-train-curve)');
  const words = panel.querySelector('.qr-lora-train-words');
  const [width] = window.app.graph.getNodeById(8).size;
  return [panel.scrollHeight - panel.clientHeight, words.clientHeight, panel.offsetWidth - width];
}"""


def training(seed: int, **given: Any) -> dict[str, Any]:
    """Train on the content picture, judged without the thing and in the style."""
    example = without_roles(prompt_of("compose_content_and_style"))
    prompt = {number: example[number] for number in ("1", "2", "3", "4", "7", "8")}
    encode = prompt["4"]["inputs"]
    prompt["6"] = {"class_type": "CLIPTextEncode", "inputs": {**encode, "text": "an orange circle"}}
    judged = {"vae": ["1", 2], "without_word": ["6", 0], "elsewhere": ["7", 0], "sample_steps": 2}
    prompt["8"]["inputs"] |= {"steps": 20, "seed": seed, "run_name": "pictures", **judged, **given}
    prompt["9"] = {"class_type": "QRLoRA_Save", "inputs": {"adapter": ["8", 0], "filename_prefix": "web"}}
    return prompt


def opened(page: Page, load: Load, prompt: dict[str, Any]) -> None:
    """With the lower end of the node in sight, where its panel is."""
    load(prompt)
    page.evaluate("""() => { const { ds, graph } = app.canvas, { pos, size } = graph.getNodeById(8);
      ds.scale = 0.8; ds.offset = [300 - pos[0], 900 - pos[1] - size[1]]; app.canvas.setDirty(true, true) }""")
    page.locator(".qr-lora-train-top button").wait_for()


def row(page: Page, kind: str) -> Locator:
    return page.locator(f'.qr-lora-train-row[data-kind="{kind}"]')


def screenshot(page: Page, name: str) -> None:
    """For whoever wants to look at it."""
    if folder := os.environ.get("QRLORA_LOOK"):
        panel = page.locator(".qr-lora:has(.qr-lora-train-curve)")
        panel.screenshot(path=Path(folder) / f"{name}.png")


def assert_it_fits(page: Page) -> None:
    page.wait_for_function(
        f"() => {{ const [over, words, out] = ({FIT})(); return over <= 0 && words >= 20 && out <= 0 }}"
    )


def test_a_training_shows_what_it_saw_and_judges_its_samples(page: Page, load: Load, renderer: str) -> None:
    opened(page, load, training(31, sample_every=5, mark_best="both"))
    expect(row(page, "own")).to_be_visible()
    for kind in ("seen", "without_word", "elsewhere"):
        expect(row(page, kind)).to_be_hidden()
    assert_it_fits(page)
    page.evaluate("() => window.app.queuePrompt(0)")
    page.wait_for_function(f"() => ({REPORT})()?.text")
    for kind, count in (("seen", 1), ("own", 4), ("without_word", 5), ("elsewhere", 5)):
        expect(row(page, kind).get_by_role("listitem")).to_have_count(count)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.qr-lora-train-tile img')].every((image) => image.naturalWidth)"
    )
    expect(row(page, "without_word").get_by_role("listitem").first).to_have_text("base")
    report = page.evaluate(REPORT)
    best = report["best"]["step"]
    numbers = {entry["step"]: entry for entry in report["samples"] if entry["kind"] == "own"}
    assert best == max(numbers, key=lambda step: numbers[step]["likeness"] * numbers[step]["freedom"])
    expect(row(page, "own").locator(".qr-lora-train-best")).to_have_text(f"★ {best}, best by both")
    expect(row(page, "own").locator(".qr-lora-train-label")).to_contain_text("likeness / freedom, rough")
    tile = row(page, "own").get_by_role("listitem").filter(has_text="★")
    expect(tile).to_have_count(1)
    likeness, freedom = (f"{numbers[best][name]:.2f}" for name in ("likeness", "freedom"))
    expect(tile).to_have_text(f"★ {best}{likeness} / {freedom}")
    expect(page.locator(".qr-lora-train-words")).to_contain_text(f"best by both: step {best}")
    assert_it_fits(page)
    screenshot(page, f"run_{renderer}")


def told(samples: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A report of a training that runs."""
    return {
        "node_id": "8", "workflow_id": None, "state": "running", "stopping": False, "step": 30, "steps": 100,
        "losses": [0.5, 0.4, 0.3], "loss": 0.3, "seconds_per_step": 1.5, "seconds_left": 105, "peak_memory": 9e9,
        "warnings": [], "samples": samples, "seen": [], "judge": None, "best": None, **more,
    }  # fmt: skip


def sample(step: int, kind: str = "own", **scores: float | None) -> dict[str, Any]:
    return {"step": step, "kind": kind, "filename": f"{kind}_{step}.png", "subfolder": "", "type": "temp", **scores}


def test_the_star_moves_and_who_looks_at_a_picture_keeps_it(page: Page, load: Load, renderer: str) -> None:
    opened(page, load, training(32))
    own = row(page, "own")
    samples = [sample(10, likeness=0.5, freedom=0.912), sample(20, likeness=0.61, freedom=None)]
    page.evaluate(TELL, told(samples, judge="encoder", best={"by": "likeness", "step": 10}))
    first = own.get_by_role("link", name="Sample at step 10; likeness 0.50, freedom 0.91; ★ 10, best by likeness")
    expect(own.get_by_role("listitem")).to_have_text(["★ 100.50 / 0.91", "200.61 / –"])
    first.focus()
    page.evaluate(TELL, told(samples, judge="encoder", best={"by": "likeness", "step": 20}))
    expect(own.get_by_role("listitem")).to_have_text(["100.50 / 0.91", "★ 200.61 / –"])
    kept = own.get_by_role("link", name="Sample at step 10; likeness 0.50, freedom 0.91", exact=True)
    expect(kept).to_be_focused()
    page.keyboard.press("Tab")
    expect(own.get_by_role("link").last).to_be_focused()
    expect(own.locator(".qr-lora-train-label")).to_have_text("Samples · likeness / freedom★ 20, best by likeness")


def test_rows_come_and_go_and_the_node_is_as_high_as_they_need(page: Page, load: Load, renderer: str) -> None:
    opened(page, load, training(33))
    expect(row(page, "own")).to_be_hidden()
    heights = """() => [window.app.graph.getNodeById(8).size[1],
      document.querySelector('.qr-lora:has(.qr-lora-train-curve)').offsetHeight]"""
    assert_it_fits(page)
    low = page.evaluate(heights)
    kinds = ("own", "without_word", "elsewhere")
    seen = [{"filename": f"seen_{n}.png", "subfolder": "", "type": "temp"} for n in range(12)]
    samples = [sample(step, kind, likeness=0.5, freedom=0.5) for step in range(10, 250, 10) for kind in kinds]
    best = {"by": "both", "step": 70}
    full = told(samples, seen=seen, judge="rough", best=best)
    page.evaluate(TELL, full)
    for kind in ("seen", *kinds):
        expect(row(page, kind)).to_be_visible()
    expect(row(page, "seen").get_by_role("list", name="What it saw").get_by_role("link")).to_have_count(12)
    expect(row(page, "without_word").get_by_role("list", name="Without its word")).to_be_visible()
    assert_it_fits(page)
    screenshot(page, f"full_{renderer}")
    high = page.evaluate(heights)
    page.evaluate(TELL, told([]))
    expect(row(page, "seen")).to_be_hidden()
    assert_it_fits(page)
    page.wait_for_function(f"low => ({heights})()[1] === low", arg=low[1])
    assert high[1] - low[1] == 96 + 124 + 110 + 110
    if renderer == "canvas":
        assert high[0] - low[0] == high[1] - low[1]
    report = full | {
        "state": "finished",
        "text": "21 layers",
        "samples": [{**one, "kind": None} for one in samples[:1]],
    }
    del report["seen"], report["judge"], report["best"]
    page.evaluate(TELL, report)  # as from the history of a release before there were kinds
    expect(row(page, "own").get_by_role("listitem")).to_have_text(["10"])


def test_without_samples_to_come_their_row_is_not_there(page: Page, load: Load) -> None:
    opened(page, load, training(34, sample_every=0))
    expect(page.locator(".qr-lora-train-row").locator("visible=true")).to_have_count(0)
