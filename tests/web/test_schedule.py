"""The schedule's curve on the page is the server's, and moving its points is writing the node's widgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

from comfyui_qr_lora.qrlora_core.errors import ScheduleError
from comfyui_qr_lora.qrlora_core.schedule import CURVES, Schedule, make_curve, parse_points
from devtools.server import Server

from ..support.desk import look_at
from ..support.pages import in_one_renderer

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]

WRITTEN = (
    "0:1, 0.5:0.5, 1:0", "0.25:1\n0.25:0,0.75:-2", "0.5:3", " .5 : 1e-3 ,1.:+2", "0:1_0", "", "0:1, 0:2, 0:3, 1:1",
    "0.5", "0.5:1:2", "0.6:1, 0.5:0", "1.5:1", "0:inf", "0:nan", "0:", "0x1:1", "0:1e999", "0.1:2, 0.3:1.7, 0.9:0.1",
)  # fmt: skip
PROGRESS = [*(step / 97 for step in range(98)), *(step / 100 for step in range(101))]
EVALUATE = """async ([url, cases, places]) => {
  const { makeCurve, factorAt } = await import(url);
  const each = ([curve, written, start, end]) => {
    try {
      const points = makeCurve(curve, written, start, end);
      return places.map((progress) => factorAt(points, progress));
    } catch (error) { return error.constructor.name }
  };
  return cases.map(each);
}"""
VALUES = "() => window.app.graph.getNodeById(1).widgets.slice(0, 4).map((widget) => widget.value)"
PROMPT = "async () => (await window.app.graphToPrompt()).output['1'].inputs"


def on_server(curve: str, written: str, start: float, end: float) -> list[float] | str:
    try:
        shape: str | Schedule = parse_points(written) if curve == "custom" else curve
        made = make_curve(shape, start, end)
    except ScheduleError:
        return "ScheduleError"
    return [made.at(progress) for progress in PROGRESS]


def scheduled(**values: Any) -> dict[str, Any]:
    given = {"curve": "early", "start_percent": 0.0, "end_percent": 1.0, "points": "0:1, 0.5:0.5, 1:0", **values}
    return {"1": {"class_type": "QRLoRA_Schedule", "inputs": given}}


@in_one_renderer
def test_the_curve_is_the_servers_number_for_number(page: Page, web_server: Server) -> None:
    windows = [(0.0, 1.0), (0.1, 0.7), (0.33, 0.34), (0.03, 0.29), (0.5, 1.0), (0.0, 0.01), (0.7, 0.7), (0.9, 0.2)]
    cases = [(curve, "", start, end) for curve in CURVES for start, end in windows]
    cases += [("custom", written, start, end) for written in WRITTEN for start, end in windows]
    cases += [("constant", "", start / 100, end / 100) for start in range(0, 100, 3) for end in range(start, 101)]
    (module,) = (path for path in web_server.get("/extensions") if path.endswith("/schedule/curve.js"))
    for case, drawn in zip(cases, page.evaluate(EVALUATE, [module, cases, PROGRESS]), strict=True):
        assert drawn == on_server(*case), case


def drag(page: Page, what: str, to: tuple[float, float]) -> None:
    """From the middle of an element to a place of the plot, in shares from its left and top."""
    plot, box = page.locator(".qr-lora-schedule-plot").bounding_box(), page.locator(what).bounding_box()
    assert plot
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(plot["x"] + to[0] * plot["width"], plot["y"] + to[1] * plot["height"], steps=4)
    page.mouse.up()


def test_points_and_window_are_moved_added_and_removed(page: Page, load: Load) -> None:
    load(scheduled())
    look_at(page, "1")
    points = page.locator(".qr-lora-schedule-point")
    points.first.wait_for()
    assert points.count() == 3

    drag(page, ".qr-lora-schedule-point >> nth=1", (0.25, 0.5))
    curve, start, end, written = page.evaluate(VALUES)
    (_, first), (progress, factor), last = parse_points(written).points
    assert (curve, start, end, first, last) == ("custom", 0, 1, 1, (0.6, 0))
    assert progress == pytest.approx(0.25, abs=0.02)
    assert factor == pytest.approx(0.625, abs=0.03)  # half of 0 to 1.25
    assert page.evaluate(PROMPT)["points"] == written
    drag(page, ".qr-lora-schedule-point >> nth=1", (0.95, 0.5))
    assert parse_points(page.evaluate(VALUES)[3]).points[1][0] == 0.6  # not past the next

    points.nth(1).focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    moved = parse_points(page.evaluate(VALUES)[3]).points[1]
    assert moved[0] == 0.59
    assert moved[1] == pytest.approx(factor - 0.5, abs=0.02)
    assert "59 %" in str(points.nth(1).get_attribute("aria-valuetext"))
    assert points.nth(1).get_attribute("role") == "slider"

    page.locator(".qr-lora-schedule-tools button").first.click()
    assert points.count() == 4
    page.keyboard.press("Delete")  # the new one has the focus
    assert points.count() == 3
    points.nth(1).dblclick()
    assert page.evaluate(VALUES)[3] == "0:1, 0.6:0"
    box = page.locator(".qr-lora-schedule-plot").bounding_box()
    assert box
    page.mouse.dblclick(box["x"] + 0.8 * box["width"], box["y"] + 0.2 * box["height"])
    assert len(parse_points(page.evaluate(VALUES)[3]).points) == 3

    ends = page.locator(".qr-lora-schedule-end")
    ends.nth(0).focus()
    page.keyboard.press("Shift+ArrowRight")
    assert page.evaluate(VALUES)[1] == 0.1
    ends.nth(1).focus()
    for _ in range(12):
        page.keyboard.press("Shift+ArrowLeft")
    assert page.evaluate(VALUES)[2] == 0.11  # never before the start
    assert page.evaluate(PROMPT)["end_percent"] == 0.11

    line = page.locator(".qr-lora-schedule-line")
    before = line.get_attribute("points")
    page.evaluate("""() => {
      const widget = window.app.graph.getNodeById(1).widgets.find(({ name }) => name === "curve");
      widget.value = "late";
      widget.callback(widget.value);
    }""")
    assert line.get_attribute("points") != before
    page.evaluate("() => window.app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    page.wait_for_function(f"() => ({VALUES})()[2] === 0.2")


def test_points_that_do_not_read_are_told_and_inert(page: Page, load: Load) -> None:
    load(scheduled(curve="custom", points="<img src=x onerror=window.pwned=1>"))
    message = page.locator(".qr-lora-schedule-message")
    message.wait_for()
    assert "is not progress:factor" in message.inner_text()
    assert page.locator(".qr-lora-schedule-point").count() == 0
    assert page.evaluate("() => window.pwned ?? null") is None
