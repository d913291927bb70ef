"""The tables of a run, as Markdown: what is kept by every method, and what may be said of their differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from benchmarks.evidence.real.judges import COUNTS, ROLES, STAND_IN, Judge
from benchmarks.evidence.real.plan import NONE, Cell, point_name
from benchmarks.evidence.real.run import Run
from benchmarks.evidence.statistics import Outcome, difference, level, outcomes, read
from benchmarks.evidence.tables import NAMES, table, verdict

TEXT = """# What a mix keeps on {model}

{warning}- Contents: {contents}. Styles: {styles}. Trainings of each adapter: {seeds}. Pictures of a pair: {pictures}.
- An adapter learns from one picture: {training}.
- Pictures: {drawing}.
- Judges: {judges}. A picture keeps its
  content when, of all content pictures given, the one most like it is its own, by the cosine of the embeddings;
  likewise its style. By chance {chance_content:.2f} of the contents and {chance_style:.2f} of the styles are kept.
- Brackets are 95 % of a paired bootstrap over contents, styles and trainings. "Better" is written where the lower bound
  is above zero under all judges.
- Made on {machine}.
"""
WARNING = "**No evidence: the judge `{judge}` is a stand-in for one that can see. This shows the command alone.**\n\n"


@dataclass(frozen=True)
class Report:
    """A run that was judged, with what is told of it.

    Attributes:
        model, machine: in words.
    """

    run: Run
    judges: Sequence[Judge]
    model: str
    machine: str

    def text(self) -> str:
        """The whole document."""
        return "\n\n".join([self._head().rstrip(), *self._tables()]) + "\n"

    def _head(self) -> str:
        run, plan = self.run, self.run.plan
        stand_in = any(judge.name == STAND_IN for judge in self.judges)
        return TEXT.format(
            model=self.model, warning=WARNING.format(judge=STAND_IN) if stand_in else "", machine=self.machine,
            contents=len(run.contents), styles=len(run.styles), pictures=plan.pictures, seeds=plan.seeds,
            training=self._training(), drawing=self._drawing(), judges=", ".join(map(_told, self.judges)),
            chance_content=1 / len(run.contents), chance_style=1 / len(run.styles),
        )  # fmt: skip

    def _training(self) -> str:
        how, plan = self.run.plan.training, self.run.plan
        rates = ", ".join(f"{how.rates[method]:g} ({_name(method)})" for method in plan.methods if method != NONE)
        return f"{how.steps} updates of {how.batch}, rank {how.rank}, layers `{how.targets}`, {how.dtype}, rate {rates}"

    def _drawing(self) -> str:
        how = self.run.plan.drawing
        return (
            f'{how.size} pixels, {how.steps} steps of {how.sampler}, {how.scheduler}, cfg {how.cfg:g}, "{how.prompt}"'
        )

    def _tables(self) -> Iterator[str]:
        for scales in self.run.plan.scales:
            point = point_name(scales)
            seen = {cell: self._outcome(cell, point) for cell in self.run.plan.cells()}
            yield f"## Scales {scales[0]:g} (content) and {scales[1]:g} (style)"
            yield table(["", *self._titles()], [[_title(cell), *self._kept(cell, point, seen[cell])] for cell in seen])
            yield table(["harmonic mean, paired difference", *(judge.name for judge in self.judges), ""],
                        [self._gain(*pair, seen) for pair in combinations(seen, 2)])  # fmt: skip

    def _titles(self) -> Iterator[str]:
        for judge in self.judges:
            yield from (f"{count}, {judge.name}" for count in COUNTS)
            yield f"harmonic mean, {judge.name}"
            yield f"cosine with own content / style, {judge.name}"

    def _kept(self, cell: Cell, point: str, seen: Outcome) -> Iterator[str]:
        similar = [row for row in read(self.run.cell_of(cell, "similarity")) if row["point"] == point]
        for judge in self.judges:
            yield from (f"{seen.mean(judge.name, count):.2f}" for count in COUNTS)
            yield str(level(seen, judge.name))
            cosines = (sum(float(row[f"{judge.name}_{role}"]) for row in similar) / len(similar) for role in ROLES)
            yield " / ".join(f"{cosine:.2f}" for cosine in cosines)

    def _gain(self, first: Cell, second: Cell, seen: dict[Cell, Outcome]) -> list[object]:
        found = [difference(seen[first], seen[second], judge.name) for judge in self.judges]
        return [f"{_title(first)} less {_title(second)}", *found, verdict(found)]

    def _outcome(self, cell: Cell, point: str) -> Outcome:
        return outcomes(self.run.cell_of(cell), self.run.plan.pictures)[point]


def _told(judge: Judge) -> str:
    return f"`{judge.name}` ({', '.join(judge.files)})"


def _name(method: str) -> str:
    return "the model alone" if method == NONE else NAMES[method]


def _title(cell: Cell) -> str:
    return _name(cell.method) if cell.merge == "sum" else f"{_name(cell.method)}, {cell.merge}"
