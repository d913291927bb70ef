"""A scale that changes over the sampling: a curve through points."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from .errors import ScheduleError
from .text import listed


@dataclass(frozen=True)
class Schedule:
    """A piecewise linear factor over sampling progress, constant before the first point and after the last.

    Args:
        points: (progress, factor) pairs; progress from 0 (first step, pure noise) to 1 (last step), ascending.
            Two points at the same progress make a jump; the later one holds from there on.

    Raises:
        ScheduleError: no point, progress outside 0..1 or descending, or a number that is not finite.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise ScheduleError("a schedule needs at least one point, such as 0:1.")
        for progress, factor in self.points:
            if not (0 <= progress <= 1 and math.isfinite(factor)):
                raise ScheduleError(f"point {progress:g}:{factor:g}: expected progress 0 to 1 and a finite factor.")
        if any(later[0] < earlier[0] for earlier, later in zip(self.points, self.points[1:], strict=False)):
            listed = ", ".join(f"{progress:g}:{factor:g}" for progress, factor in self.points)
            raise ScheduleError(f"points must come in the order of progress, found {listed}.")

    def at(self, progress: float) -> float:
        """The factor at a progress from 0 to 1."""
        after = bisect_right([point[0] for point in self.points], progress)
        if after == 0:
            return self.points[0][1]
        if after == len(self.points):
            return self.points[-1][1]
        (left, start), (right, end) = self.points[after - 1], self.points[after]
        return start + (end - start) * (progress - left) / (right - left)


def parse_points(text: str) -> Schedule:
    """``0:1, 0.5:0.3, 1:0`` as a schedule.

    Raises:
        ScheduleError: text that does not read so; names the part.
    """
    points = []
    for part in listed(text):
        try:
            progress, factor = (float(number) for number in part.split(":"))
        except ValueError:
            raise ScheduleError(f"points: expected progress:factor such as 0.5:0.3, found {part!r}.") from None
        points.append((progress, factor))
    return Schedule(tuple(points))


# Each curve over its window: (share of the window, factor). Before and after it, a curve keeps its end values.
CURVES: dict[str, tuple[tuple[float, float], ...]] = {
    "constant": ((0.0, 1.0), (1.0, 1.0)),
    "ramp up": ((0.0, 0.0), (1.0, 1.0)),
    "ramp down": ((0.0, 1.0), (1.0, 0.0)),
    "early": ((0.0, 1.0), (0.4, 1.0), (0.6, 0.0)),
    "late": ((0.4, 0.0), (0.6, 1.0), (1.0, 1.0)),
}


def make_curve(curve: str | Schedule, start: float = 0.0, end: float = 1.0) -> Schedule:
    """A named curve, or one through own points, laid into the window from start to end.

    ``constant`` is off outside its window; every other curve keeps its first and last factor there.

    Args:
        curve: a name in `CURVES`, or a schedule over the window's own 0..1.
        start, end: the window in sampling progress, 0 <= start < end <= 1.

    Raises:
        ScheduleError: an unknown name, or a window that is empty or outside 0..1.
    """
    if not 0 <= start < end <= 1:
        raise ScheduleError(f"expected 0 <= start_percent < end_percent <= 1, found {start:g} and {end:g}.")
    if isinstance(curve, str) and curve not in CURVES:
        raise ScheduleError(f"curve: expected one of {', '.join(CURVES)}, found {curve!r}.")
    shape = CURVES[curve] if isinstance(curve, str) else curve.points
    if curve == "constant":
        before = ((0.0, 0.0),) if start > 0 else ()
        after = ((1.0, 0.0),) if end < 1 else ()
        shape = (*before, *shape, *after)
    return Schedule(tuple((start + share * (end - start), factor) for share, factor in shape))
