"""A training as the page shows it: the curve, the samples, the end, and the button that ends it early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from generators.workflows import prompt_of, without_roles

from ..support.servers import SharedServer

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]

REPORT = "() => window.app.graph.getNodeById(8).qrLoRATraining.report"
ENDED = f"() => !['running', undefined].includes(({REPORT})()?.state)"
COUNT = "() => document.querySelector('.qr-lora-train-losses').getAttribute('points').split(' ').length"
HOST_PICTURES = """() => [...document.querySelectorAll('[data-node-id="8"] img')]
  .filter((image) => image.offsetParent && !image.closest('.qr-lora')).length"""


def training(steps: int, seed: int, **given: Any) -> dict[str, Any]:
    """Train on the content picture and save; a new seed each time, since what was run before is kept."""
    example = without_roles(prompt_of("compose_content_and_style"))
    prompt = {number: example[number] for number in ("1", "2", "3", "4", "8")}
    prompt["8"]["inputs"] |= {"steps": steps, "seed": seed, "run_name": "web", **given}
    prompt["9"] = {"class_type": "QRLoRA_Save", "inputs": {"adapter": ["8", 0], "filename_prefix": "web"}}
    return prompt


def test_curve_and_samples_while_and_after_it_runs(page: Page, load: Load) -> None:
    load(training(40, 1, sample_every=10, sample_steps=2))
    page.evaluate("""() => { const { ds, graph } = app.canvas, { pos, size } = graph.getNodeById(8);
      ds.scale = 0.8; ds.offset = [300 - pos[0], 900 - pos[1] - size[1]]; app.canvas.setDirty(true, true) }""")
    button = page.locator(".qr-lora-train-top button")
    button.wait_for()
    assert button.is_disabled()
    page.evaluate("""() => {
      const told = (window.told = []);
      const count = () => document.querySelector('.qr-lora-train-losses').getAttribute('points').split(' ').length;
      window.app.api.addEventListener('qr_lora.training', ({ detail }) => told.push([detail.losses.length, count()]));
    }""")
    page.evaluate("() => window.app.queuePrompt(0)")
    page.wait_for_function(f"() => ({REPORT})()?.samples.length")
    assert page.evaluate(HOST_PICTURES) == 0, "the host's preview is not shown beside ours"
    page.wait_for_function(f"() => ({REPORT})()?.text")
    told = [pair for pair in page.evaluate("() => window.told") if pair[0]]
    assert len({losses for losses, _ in told}) > 2  # it grew
    assert all(losses == drawn for losses, drawn in told)
    assert page.evaluate(COUNT) == 40
    pictures = page.locator(".qr-lora-train-sample img")
    assert pictures.count() == 4
    page.wait_for_function(
        "() => [...document.querySelectorAll('.qr-lora-train-sample img')].every((image) => image.naturalWidth)"
    )
    last = page.locator(".qr-lora-train-sample a").last
    last.focus()
    page.evaluate(f"""() => {{
      const report = ({REPORT})();
      const another = {{ ...report.samples[0], step: 41, filename: 'another.png' }};
      window.app.api.dispatchCustomEvent('qr_lora.training', {{ ...report, samples: [...report.samples, another] }});
      window.app.api.dispatchCustomEvent('qr_lora.training', report);
    }}""")
    expect(last).to_be_focused()
    assert pictures.count() == 4
    panel = page.locator(".qr-lora:has(.qr-lora-train-curve)").inner_text()
    assert "Finished: 40 steps" in panel
    assert "layers, rank 16" in panel
    assert button.is_disabled()
    page.wait_for_timeout(300)
    assert page.evaluate(HOST_PICTURES) == 0
    names = page.evaluate("() => window.app.graph.getNodeById(8).widgets.map((widget) => widget.name)")
    assert not [name for name in names if name.startswith("$$")]  # nor the host's own text and picture

    page.evaluate("() => window.app.loadGraphData(window.app.graph.serialize())")
    page.wait_for_function(f"() => ({REPORT})() == null")
    page.evaluate("""async () => {
      const [last] = Object.values(await (await window.app.api.fetchApi('/history?max_items=1')).json());
      window.app.nodeOutputs = last.outputs;
    }""")  # as the host does where a run of the past is opened
    assert page.evaluate(f"() => ({REPORT})().losses.length") == 40


def test_stop_and_keep_from_a_page_opened_later(page: Page, load: Load, web_server: SharedServer) -> None:
    prompt = training(100000, 2)
    running = web_server.submit(prompt)
    while not any(report["step"] > 2 for report in web_server.get("/qr_lora/training")["running"]):
        web_server.get("/system_stats")
    load(prompt)
    page.wait_for_function(f"() => ({REPORT})()?.losses.length > 2")
    assert page.evaluate(f"() => ({COUNT})() === ({REPORT})().losses.length")
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url) if request.url.endswith("/training/stop") else None)
    said = page.evaluate("""() => {
      const button = document.querySelector('.qr-lora-train-top button');
      button.click();
      button.click();
      return button.textContent;
    }""")
    assert said == "Stopping…"
    history = web_server.result(running, prompt)
    assert len(posts) == 1
    (report,) = history["outputs"]["8"]["qr_lora_training"]
    assert report["state"] == "stopped"
    assert 2 < report["step"] < 100000
    assert "adapter kept" in report["text"]
    assert list(web_server.output_dir.glob("qr_loras/web_*.safetensors"))


def test_stop_and_keep_of_a_run_of_the_page(page: Page, load: Load, web_server: SharedServer) -> None:
    load(training(100000, 3))
    button = page.locator(".qr-lora-train-top button")
    page.evaluate("() => window.app.queuePrompt(0)")
    page.wait_for_function(f"() => ({REPORT})()?.step > 2")
    page.evaluate("() => document.querySelector('.qr-lora-train-top button').click()")
    page.wait_for_function(f"() => ({REPORT})()?.text")
    assert page.evaluate(REPORT)["state"] == "stopped"
    assert button.inner_text() == "Stopped and kept"
    assert button.is_disabled()
    assert "adapter kept" in page.locator(".qr-lora-train-words").inner_text()
    web_server.settle()
    assert web_server.get("/qr_lora/training") == {"running": []}


def test_another_workflow_with_a_node_of_that_number_shows_nothing_of_it(
    page: Page, load: Load, web_server: SharedServer
) -> None:
    load(training(100000, 4))
    page.evaluate("() => window.app.queuePrompt(0)")
    page.wait_for_function(f"() => ({REPORT})()?.step > 2")
    first = page.evaluate("() => JSON.stringify(window.app.graph.serialize())")
    load(training(500, 5))
    step = web_server.get("/qr_lora/training")["running"][0]["step"]
    while web_server.get("/qr_lora/training")["running"][0]["step"] < step + 10:
        page.wait_for_timeout(200)
    assert page.evaluate(REPORT) is None
    assert page.locator(".qr-lora-train-top button").is_disabled()
    page.evaluate("first => window.app.loadGraphData(JSON.parse(first))", first)
    page.wait_for_function(f"() => ({REPORT})()?.step > {step}")
    page.evaluate("() => document.querySelector('.qr-lora-train-top button').click()")
    page.wait_for_function(f"() => ({REPORT})()?.state === 'stopped'")
