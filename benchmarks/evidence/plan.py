"""What is run: the cells of three crossings, the points of each, and how much of everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.evidence.merging import MERGES, Scales
from benchmarks.evidence.methods import METHODS
from benchmarks.evidence.recipes import OWN, PUBLISHED, RECIPES
from playground.world.splits import Part, splits

EQUAL: tuple[Scales, ...] = ((0.5, 0.5), (0.7, 0.7), (1.0, 1.0), (1.3, 1.3))
BOTH = ("qr_full", "lora")  # the two methods that all recipes and merges are tried with
PEERS = ("lora", "lora_half")  # at equal rank, and at about as many trained numbers


@dataclass(frozen=True)
class Cell:
    """A method, a recipe and a merge."""

    method: str
    recipe: str
    merge: str = "sum"

    @property
    def training(self) -> str:
        """Names the adapters, which all merges share."""
        return f"{self.method}.{self.recipe}"

    def __str__(self) -> str:
        return f"{self.training}.{self.merge}"


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        own: recipes that were made after the test split had been judged, and tried on the tuning split.
        later: the preset, and of the others the best on the tuning split: the test split is asked with them too, at
            their tuned points. None of them can be the best recipe.
        rates, marks, scales: the grid on the tuning split; marks are updates.
        contents, styles: how many of each, of the test part and of the tuning part, from the head.
        pictures: of each pair, point and training seed. steps, cfg: of the sampler.
    """

    methods: tuple[str, ...] = tuple(METHODS)
    recipes: tuple[str, ...] = tuple(RECIPES)
    later: tuple[str, ...] = ("own_mild", "own_still")
    own: tuple[str, ...] = tuple(OWN)
    merges: tuple[str, ...] = MERGES
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    marks: tuple[int, ...] = (50, 100, 200, 400)
    scales: tuple[Scales, ...] = (
        (1.0, 1.0), (0.8, 0.8), (1.2, 1.2), (1.2, 0.8), (0.8, 1.2), (1.5, 1.5), (1.5, 1.0), (1.0, 1.5), (1.5, 0.7),
    )  # fmt: skip
    seeds: tuple[int, ...] = (0, 1, 2)
    contents: int = 16
    styles: int = 12
    pictures: int = 2
    rank: int = 8
    batch: int = 2
    steps: int = 12
    cfg: float = 2.0

    def cells(self, best: str) -> Iterator[Cell]:
        """Each once: all methods at two recipes; all recipes and, at the best one, all merges for two methods."""
        both = [method for method in self.methods if method in BOTH]
        every = [
            *(Cell(method, recipe) for recipe in (PUBLISHED.name, best) for method in self.methods),
            *(Cell(method, recipe) for recipe in (*self.recipes, *self.later) for method in both),
            *(Cell(method, best, merge) for merge in self.merges for method in both),
        ]
        yield from dict.fromkeys(every)

    def compared(self) -> list[tuple[Cell, Cell]]:
        """QR-LoRA and its peers, as published: what is compared at equal quality of the single adapters too."""
        peers = [peer for peer in PEERS if peer in self.methods]
        return [(Cell(BOTH[0], PUBLISHED.name), Cell(peer, PUBLISHED.name)) for peer in peers]

    def part(self, *, tuning: bool) -> Part:
        """Contents and styles of the tuning or of the test."""
        whole = splits().tuning if tuning else splits().test
        return Part(whole.contents[: self.contents], whole.styles[: self.styles])


FULL = Plan()
QUICK = Plan(
    methods=BOTH, recipes=("published", "mild"), later=(), own=(), merges=("sum",), rates=(3e-3,), marks=(100, 200),
    scales=((1.0, 1.0),), contents=4, styles=4,
)  # fmt: skip
