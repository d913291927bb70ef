"""From which margin on the judges are believed, and how good they then are: `python -m playground.judges.calibrate`.

Limits are chosen on blends of one seed and written to `limits.json`; the report is about pictures of other seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from playground.judges.analytic import AnalyticJudge
from playground.judges.blends import MIDDLE, Blend, blend, draw_all, drawing
from playground.judges.learned import LearnedJudge
from playground.judges.train import is_held_out
from playground.judges.verdict import LIMITS, UNCLEAR, WEIGHTS, Judge, Limits, Pictures, Verdict
from playground.train import cached

MARGINS = WEIGHTS / "judge_margins.safetensors"
REPORT = Path(__file__).parents[2] / "benchmarks" / "results" / "judges.txt"
RIGHT = 0.91  # of what is called clear where limits are chosen, so that 90 % holds on other pictures
CHOOSE, ANSWER, DRAWN, UNSEEN = 101, 102, 103, 104  # seeds
PARTS = ("shape", "look")

Margins = dict[str, NDArray[np.float32]]  # "<judge>.<part>.margin" and "<judge>.<part>.right"


@dataclass(frozen=True)
class Case:
    """Pictures with what is known of them, and each judge's guesses."""

    blends: Sequence[Blend]
    guesses: dict[str, list[Verdict]]

    def right(self, judge: str, part: str) -> NDArray[np.bool_]:
        """Whether the first candidates are true; around the middle none is."""
        pairs = zip(self.guesses[judge], self.blends, strict=True)
        return np.array([getattr(seen, part) == getattr(true, part) for seen, true in pairs])

    def margin(self, judge: str, part: str) -> NDArray[np.float32]:
        """How far these are ahead."""
        return np.array([getattr(seen, f"{part}_margin") for seen in self.guesses[judge]], dtype=np.float32)


def limit(margin: NDArray[np.float32], right: NDArray[np.bool_], share: float = RIGHT) -> float:
    """The least margin from which on so many are right; just above the largest where there is none."""
    order = np.argsort(-margin, kind="stable")
    enough = np.nonzero(np.cumsum(right[order]) >= share * np.arange(1, len(order) + 1))[0]
    return round(float(margin[order[enough[-1]]]) - 5e-5, 4) if len(enough) else 1.1


def limits_from(margins: Margins) -> dict[str, dict[str, float]]:
    """The limits of every judge, as they are written."""
    judges = dict.fromkeys(key.split(".")[0] for key in sorted(margins))
    return {
        judge: {part: limit(margins[f"{judge}.{part}.margin"], margins[f"{judge}.{part}.right"] > 0) for part in PARTS}
        for judge in judges
    }


def stored_limits(path: Path = MARGINS) -> dict[str, dict[str, float]]:
    """What `limits.json` must say."""
    return limits_from(load_file(path))


def margins_of(case: Case) -> Margins:
    """What limits are chosen from."""
    kept = {}
    for judge in case.guesses:
        for part in PARTS:
            kept[f"{judge}.{part}.margin"] = case.margin(judge, part)
            kept[f"{judge}.{part}.right"] = case.right(judge, part).astype(np.float32)
    return kept


def unseen(rng: np.random.Generator) -> Blend:
    """A drawing of a shape in a style that the learned judge never saw with it."""
    while True:
        made = drawing(rng)
        if is_held_out(made.shapes[0], made.looks[0]):
            return made


def case_of(
    make: Callable[[np.random.Generator], Blend], count: int, seed: int, judges: Sequence[Judge], work: Path
) -> Case:
    """Draw and judge; pictures are kept in a folder."""
    rng = np.random.default_rng(seed)
    blends = [make(rng) for _ in range(count)]
    path = work / f"pictures_{make.__name__}_{seed}_{count}.pt"
    pictures: Pictures = cached(path, lambda: torch.from_numpy(draw_all(blends, seed))).numpy()
    return Case(blends, {judge.name: judge.guesses(pictures) for judge in judges})


def on_drawings(title: str, case: Case, limits: dict[str, Limits]) -> list[str]:
    """How often the first candidate is right, and how much is unclear."""
    lines = [f"{title}, {len(case.blends)}"]
    for judge in case.guesses:
        row = []
        for part in PARTS:
            clear = case.margin(judge, part) >= getattr(limits[judge], part)
            row.append(f"{part} {case.right(judge, part).mean():.1%} right, {1 - clear.mean():.1%} unclear")
        lines.append(f"  {judge:9} {'; '.join(row)}")
    return lines


def on_blends(case: Case, limits: dict[str, Limits]) -> list[str]:
    """How often what is clear is right, how much is unclear, and what of that is so by its nature."""
    lines = [
        f"Blends, {len(case.blends)}: shares of the second end from 0 to 1; neither end within {MIDDLE} of the middle"
    ]
    shuffled = np.random.default_rng(0).permutation(len(case.blends))
    for judge in case.guesses:
        for part in PARTS:
            clear = case.margin(judge, part) >= getattr(limits[judge], part)
            right = case.right(judge, part)
            truth = [getattr(one, part) for one in case.blends]
            none = np.array([not one or one == UNCLEAR for one in truth])
            guesses = [getattr(seen, part) for seen in case.guesses[judge]]
            chance = np.mean([guesses[row] == truth[shuffled[row]] for row in np.flatnonzero(clear)])
            lines.append(
                f"  {judge:9} {part:5} {right[clear].mean():.1%} of the clear right, {1 - clear.mean():.1%} unclear "
                f"({1 - clear[none].mean():.1%} of the neithers, {1 - clear[~none].mean():.1%} of the others); "
                f"with shuffled labels {chance:.1%}"
            )
    return lines


def among_themselves(case: Case, limits: dict[str, Limits]) -> list[str]:
    """How often the two judges say the same."""
    one, two = ([limits[judge].applied(verdict) for verdict in case.guesses[judge]] for judge in case.guesses)
    lines = ["The judges among themselves, on the same blends"]
    for part in PARTS:
        pairs = [(getattr(a, part), getattr(b, part)) for a, b in zip(one, two, strict=True)]
        both = [a == b for a, b in pairs if a not in ("", UNCLEAR) and b not in ("", UNCLEAR)]
        same = np.mean([a == b for a, b in pairs])
        lines.append(f"  {part:5} both clear in {len(both) / len(pairs):.1%}, of these the same {np.mean(both):.1%}; "
                     f"the same with unclear as an answer {same:.1%}")  # fmt: skip
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--blends", type=int, default=900, help="of the report; limits are chosen on twice as many")
    parser.add_argument("--drawings", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path(".run/judges"), help="pictures are kept here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    judges: list[Judge] = [AnalyticJudge(), LearnedJudge()]
    margins = margins_of(case_of(blend, 2 * options.blends, CHOOSE, judges, options.work))
    save_file(margins, MARGINS)
    table = limits_from(margins)
    LIMITS.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    limits = {judge: Limits(**row) for judge, row in table.items()}
    blends = case_of(blend, options.blends, ANSWER, judges, options.work)
    report = [
        "The judges of blends; made by `python -m playground.judges.calibrate`",
        f"Limits, chosen on {2 * options.blends} other blends so that {RIGHT:.0%} of the clear are right: "
        + "; ".join(f"{judge} {asdict(each)}" for judge, each in limits.items()),
        *on_drawings("Drawings", case_of(drawing, options.drawings, DRAWN, judges, options.work), limits),
        *on_drawings("Drawings of pairs that the learned judge never saw",
                     case_of(unseen, options.drawings, UNSEEN, judges, options.work), limits),
        *on_blends(blends, limits),
        *among_themselves(blends, limits),
    ]  # fmt: skip
    REPORT.write_text("\n".join(report) + "\n", "utf-8")
    print(REPORT.read_text("utf-8"), end="")


if __name__ == "__main__":
    main()
