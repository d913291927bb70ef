"""Train the adapters of one method and recipe, all contents and styles of a part at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.evidence.base import Adapters, Base, Factors
from benchmarks.evidence.methods import Method
from benchmarks.evidence.recipes import Lesson, Recipe, levels


@dataclass(frozen=True)
class Settings:
    """How long and how fast; `marks` are the updates after which the adapters are kept."""

    rate: float
    rank: int = 8
    batch: int = 2
    marks: tuple[int, ...] = (300,)


@torch.inference_mode(mode=False)
@torch.enable_grad()
def train(
    base: Base, method: Method, recipe: Recipe, lessons: Sequence[Lesson], how: Settings, seed: int
) -> dict[int, Adapters]:
    """Updates to the adapters after them, in the order of the lessons.

    AdamW goes by single numbers and the loss is the sum over adapters of each one's mean, so that none of them knows of
    the others. Noise levels and noise depend on the seed alone: all methods see the same.
    """
    roles = torch.tensor([lesson.is_style for lesson in lessons])
    trained = method.trained(base.slices, roles, how.rank, seed)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=how.rate, betas=(0.9, 0.99), weight_decay=0.0)
    rows = base.words.rows([lesson.caption for lesson in lessons]).repeat_interleave(how.batch)
    is_style, kept = roles.repeat_interleave(how.batch), dict[int, Adapters]()
    for step in range(how.marks[-1]):
        drawn = [_drawn(lesson, how.batch, seed, step, number) for number, lesson in enumerate(lessons)]
        x0, noise, u = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        sigma = levels(u, is_style, recipe.by_role)
        with base.with_adapters(trained.factors()):
            velocity = base.velocity(torch.lerp(x0, noise, sigma[:, None, None, None]), sigma, rows)
        loss = (velocity - (noise - x0)).square().mean() * len(lessons)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step + 1 in how.marks:
            kept[step + 1] = {name: _still(factors) for name, factors in trained.factors().items()}
    return kept


def _drawn(lesson: Lesson, count: int, seed: int, step: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, noise and the uniform numbers of their levels, for one adapter in one step, whoever else learns."""
    random = torch.Generator().manual_seed(((seed + 1) * 1_000_003 + step) * 1_009 + number)
    x0 = lesson.latents[torch.randint(len(lesson.latents), (count,), generator=random)]
    u = (torch.arange(count) + torch.rand(count, generator=random)) / count
    return x0, torch.randn(x0.shape, generator=random), u


def _still(factors: Factors) -> Factors:
    return Factors(factors.up.detach().clone(), factors.down.detach().clone())
