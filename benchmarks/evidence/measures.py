"""Draw merged pairs and count what the judges see in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.evidence.base import LATENT, Adapters, Base
from benchmarks.evidence.merging import Pair
from benchmarks.evidence.statistics import FIRST
from playground.judges.verdict import Judge, Verdict
from playground.world.scene import Look
from playground.world.splits import Carried, Content, Part

Judges = Mapping[str, Judge]

# The last two by first candidates, however unclear.
COUNTS = ("content", "style", "both", "carrier", "colours", "unclear", *FIRST.values())
AT_ONCE = {"cpu": 24, "cuda": 64}  # adapters in one batch


@dataclass(frozen=True)
class Asked:
    """A picture of a shape in a look, with what else is looked for in it."""

    caption: str
    shape: str
    look: Look
    carrier: str = ""
    colours: Look | None = None

    def counts(self, verdict: Verdict, guess: Verdict) -> tuple[int, ...]:
        """1 or 0 for each of `COUNTS`, by a verdict and by the first candidates that it was made of."""
        shape, look = verdict.shape == self.shape, verdict.look == self.look
        carrier = verdict.shape == self.carrier != ""
        colours = self.colours is not None and verdict.look == self.colours
        unclear = not verdict.shape or verdict.look == Look()
        first = (guess.shape == self.shape, guess.look == self.look)
        return tuple(int(seen) for seen in (shape, look, shape and look, carrier, colours, unclear, *first))


def asked_of(content: Content, style: Carried) -> Asked:
    """The picture of a pair."""
    look = Look(style=style.style)
    return Asked(look.caption(content.shape), content.shape, look, style.carrier, content.look)


def asked_pairs(part: Part) -> list[tuple[Pair, Asked]]:
    """All pairs of a part; styles stand behind the contents among the adapters."""
    return [
        ((c, len(part.contents) + s), asked_of(content, style))
        for c, content in enumerate(part.contents)
        for s, style in enumerate(part.styles)
    ]


def content_alone(content: Content, look: Look) -> Asked:
    """The content in a look that the base knows."""
    return Asked(look.caption(content.shape), content.shape, look, colours=content.look)


def style_alone(style: Carried, shape: str) -> Asked:
    """The style on a shape that the base knows."""
    look = Look(style=style.style)
    return Asked(look.caption(shape), shape, look, style.carrier)


def plain(shape: str, look: Look) -> Asked:
    """What an adapter has nothing to do with: its word is not in the caption."""
    return Asked(look.caption(shape), shape, look)


def first_noise(count: int, seed: int) -> Tensor:
    """The noise that pictures start from, (count, 16, 16, 16): for all methods the same."""
    return torch.randn(count, *LATENT, generator=torch.Generator().manual_seed(77_000 + seed))


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn."""

    pictures: int
    steps: int
    cfg: float


def pictures_of(
    base: Base, adapters: Adapters, asked: Sequence[Asked], how: Drawing, seed: int, times: int = 1
) -> NDArray[np.uint8]:
    """Pictures (asked, pictures, 128, 128, 3), each asked of the adapter at its place.

    Where the same is asked several times, of other adapters, it starts from the same noise.
    """
    noise = first_noise(len(asked) // times * how.pictures, seed).repeat(times, 1, 1, 1)
    rows = base.words.rows([one.caption for one in asked]).repeat_interleave(how.pictures)
    made, count = [], AT_ONCE[base.device.type]
    for start in range(0, len(asked), count):
        few = range(start, min(start + count, len(asked)))
        items = slice(few.start * how.pictures, few.stop * how.pictures)
        own = {name: factors.chosen(list(few)) for name, factors in adapters.items()}
        with base.with_adapters(own):
            made.append(base.decode(base.sample(rows[items], noise[items], steps=how.steps, cfg=how.cfg)))
    pixels = torch.cat(made).numpy()
    return pixels.reshape(len(asked), how.pictures, *pixels.shape[1:])


def judged(judges: Judges, pictures: NDArray[np.uint8], asked: Sequence[Asked]) -> dict[str, NDArray[np.int64]]:
    """Judge to how many of the pictures of each that was asked show each of `COUNTS`, (asked, counts)."""
    flat = pictures.reshape(-1, *pictures.shape[2:])
    counts = {}
    for name, judge in judges.items():
        guesses = judge.guesses(flat)
        seen = zip(judge.limited(guesses), guesses, strict=True)
        counts[name] = np.array(
            [np.sum([one.counts(*next(seen)) for _ in range(pictures.shape[1])], axis=0) for one in asked]
        )
    return counts


def non_additivity(
    base: Base, alone: tuple[Adapters, Adapters], together: Adapters, rows: Tensor, seed: int
) -> list[float]:
    """``|joint - (content + style)| / |content + style|`` of the effects on the velocity, mean of three levels."""
    x = first_noise(len(rows), seed).to(base.device)
    levels = (0.9, 0.6, 0.3)

    def effects(sigma: float) -> list[Tensor]:
        at = torch.full((len(rows),), sigma, device=base.device)
        plain_velocity = base.velocity(x, at, rows)
        found = []
        for adapters in (*alone, together):
            with base.with_adapters(adapters):
                found.append((base.velocity(x, at, rows) - plain_velocity).flatten(1))
        return found

    shares = []
    with torch.inference_mode():
        for sigma in levels:
            content, style, joint = effects(sigma)
            shares.append((joint - content - style).norm(dim=1) / (content + style).norm(dim=1).clamp_min(1e-9))
    return torch.stack(shares).mean(0).tolist()
