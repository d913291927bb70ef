"""Schedules against straight lines worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_qr_lora.qrlora_core import Schedule, ScheduleError
from comfyui_qr_lora.qrlora_core.schedule import CURVES, make_curve, parse_points


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-5, 5)), min_size=1, max_size=6), st.floats(0, 1))
def test_is_the_piecewise_linear_interpolation(points: list[tuple[float, float]], progress: float) -> None:
    distinct = sorted(dict(points).items())
    expected = np.interp(progress, *zip(*distinct, strict=True))
    assert Schedule(tuple(distinct)).at(progress) == pytest.approx(expected, abs=1e-6)


def test_a_jump_holds_its_later_value_from_there_on() -> None:
    schedule = Schedule(((0.2, 1.0), (0.5, 1.0), (0.5, 0.25), (1.0, 0.25)))
    assert [schedule.at(x) for x in (0.0, 0.4999, 0.5, 0.9)] == [1.0, 1.0, 0.25, 0.25]


def test_constant_is_off_outside_its_window() -> None:
    gate = make_curve("constant", 0.25, 0.75)
    assert [gate.at(x) for x in (0.0, 0.24, 0.25, 0.7, 0.75, 1.0)] == [0, 0, 1, 1, 0, 0]
    whole = make_curve("constant")
    assert [whole.at(x) for x in (0.0, 0.5, 1.0)] == [1, 1, 1]


def test_early_and_late_mirror_each_other() -> None:
    early, late = make_curve("early"), make_curve("late")
    for step in range(11):
        assert early.at(step / 10) + late.at(step / 10) == pytest.approx(1)
    assert (early.at(0.0), late.at(0.0)) == (1, 0)


@pytest.mark.parametrize("name", CURVES)
def test_a_window_squeezes_the_curve(name: str) -> None:
    whole, half = make_curve(name), make_curve(name, 0.5, 1.0)
    for share in (0.0, 0.3, 0.5, 0.9, 1.0):
        assert half.at(0.5 + share / 2) == pytest.approx(whole.at(share))


def test_points_as_text() -> None:
    assert parse_points("0:1, 0.5:-0.3\n1:0").points == ((0, 1), (0.5, -0.3), (1, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one point"),
        ("0:1, half:2", "found 'half:2'"),
        ("0", "found '0'"),
        ("0.5:1, 0.2:1", "in the order of progress"),
        ("1.5:1", "progress 0 to 1"),
        ("0:nan", "finite factor"),
    ],
)
def test_text_that_does_not_read(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        parse_points(text)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.8, 0.2), (-0.1, 1), (0, 1.1)])
def test_windows_that_cannot_be(start: float, end: float) -> None:
    with pytest.raises(ScheduleError, match="start_percent < end_percent"):
        make_curve("early", start, end)


def test_unknown_curve() -> None:
    with pytest.raises(ScheduleError, match="ramp up"):
        make_curve("sideways")
