"""What is run on a model: methods, merges, points, and how pictures are learned and drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.evidence.real.errors import InputError

Scales = tuple[float, float]  # of the content and of the style
NONE = "none"  # the model by itself, asked in the same words: what is kept without having learned it
# Method to the variant of Train QR-LoRA, and to the share of the rank: half makes about as many trained numbers.
METHODS = {
    "qr_full": ("full", 1),
    "qr_triu": ("triu", 1),
    "qr": ("qr", 1),
    "lora": ("lora", 1),
    "lora_half": ("lora", 2),
}
# Merge to the nodes' mode and to what is not its default: the position of the adapter that is protected.
MERGES: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "sum": ("add", {}),
    "null_space_content": ("null_space", {"protect": 0}),
    "null_space_style": ("null_space", {"protect": 1}),
    "ties": ("ties", {}),
}


class Cell(NamedTuple):
    """A method with a merge."""

    method: str
    merge: str = "sum"

    def __str__(self) -> str:
        return f"{self.method}.{self.merge}"


@dataclass(frozen=True)
class Training:
    """How an adapter learns; rates by method."""

    rates: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(METHODS, 1e-4))
    steps: int = 500
    rank: int = 16
    batch: int = 1
    targets: str = "paper"
    dtype: str = "bf16"
    checkpointing: bool = True


@dataclass(frozen=True)
class Drawing:
    """How a picture is sampled; size is its side in pixels, and that of the pictures that are learned from."""

    size: int = 1024
    steps: int = 20
    cfg: float = 1.0
    sampler: str = "euler"
    scheduler: str = "simple"
    prompt: str = "{content} {style}"

    def prompt_of(self, content: str, style: str) -> str:
        """Of a pair, by what stands for either."""
        return self.prompt.replace("{content}", content).replace("{style}", style)


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        seeds: how many trainings of each adapter. pictures: of each pair, point and training.
    """

    methods: tuple[str, ...] = ("qr_full", "lora", NONE)
    merges: tuple[str, ...] = ("sum",)
    scales: tuple[Scales, ...] = ((1.0, 1.0),)
    seeds: int = 1
    pictures: int = 2
    training: Training = field(default_factory=Training)
    drawing: Drawing = field(default_factory=Drawing)

    @property
    def trained(self) -> list[str]:
        """The methods that learn."""
        return [method for method in self.methods if method != NONE]

    def cells(self) -> Iterator[Cell]:
        """Each once; without adapters there is nothing to merge."""
        yield from (Cell(method, merge) for method in self.trained for merge in self.merges)
        if NONE in self.methods:
            yield Cell(NONE)

    def settings(self, model: str, contents: str, styles: str) -> dict[str, object]:
        """What all results in a folder must have in common; methods, merges and points may be added later.

        Args:
            model, contents, styles: what says which they are.
        """
        training = {name: value for name, value in vars(self.training).items() if name != "rates"}
        return {
            "model": model, "contents": contents, "styles": styles, "seeds": self.seeds, "pictures": self.pictures,
            **{f"training {name}": value for name, value in training.items()},
            **{f"drawing {name}": value for name, value in vars(self.drawing).items()},
            **{f"rate of {method}": self.training.rates[method] for method in self.trained},
        }  # fmt: skip


def point_name(scales: Scales) -> str:
    """Of scales in results: one number where both are equal."""
    content, style = scales
    return f"{content:g}" if content == style else f"{content:g},{style:g}"


def require_same(path: Path, settings: Mapping[str, object]) -> None:
    """Refuse settings that differ from those of the results beside which they were kept.

    Raises:
        InputError: names every difference.
    """
    before = _kept(path)
    differing = [f"{name} ({before[name]} there, {value} here)" for name, value in settings.items()
                 if name in before and before[name] != value]  # fmt: skip
    if differing:
        raise InputError(
            f"{path.parent}: its results were made with other settings: {'; '.join(differing)}. Take the same again, "
            "or another folder with --out."
        )


def keep(path: Path, settings: Mapping[str, object]) -> None:
    """Keep the settings beside the results, with those of the methods that came before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**_kept(path), **settings}, indent=1) + "\n", "utf-8")


def _kept(path: Path) -> dict[str, object]:
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}
