"""Train the adapters of one method and recipe, all contents and styles of a part at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from benchmarks.evidence.base import LATENT, Adapters, Base, Factors
from benchmarks.evidence.methods import Method, Trained
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
    trained = method.trained(base.slices, roles, how.rank, seed).to(base.device)
    on_gpu = base.device.type == "cuda"
    optimizer = torch.optim.AdamW(
        trained.parameters(), lr=how.rate, betas=(0.9, 0.99), weight_decay=0.0, capturable=on_gpu
    )
    at = torch.zeros(1, dtype=torch.long, device=base.device)  # the step, where a recording can count it
    loss = _loss(base, trained, recipe, lessons, how, seed, at)

    def update() -> None:
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    repeat, kept = _recorded(update, optimizer, at) if on_gpu else update, dict[int, Adapters]()
    for step in range(1, how.marks[-1] + 1):
        repeat()
        if step in how.marks:
            kept[step] = {name: _still(factors) for name, factors in trained.factors().items()}
    return kept


def _loss(
    base: Base, trained: Trained, recipe: Recipe, lessons: Sequence[Lesson], how: Settings, seed: int, at: Tensor
) -> Callable[[], Tensor]:
    """The loss of the step `at` (1,), which goes on by one each time that it is asked for."""
    latents = torch.cat([lesson.latents for lesson in lessons]).to(base.device)
    draws = _draws(tuple(len(lesson.latents) for lesson in lessons), how.batch, seed, how.marks[-1], base.device)
    rows = base.words.rows([lesson.caption for lesson in lessons]).repeat_interleave(how.batch)
    is_style = torch.tensor([lesson.is_style for lesson in lessons], device=base.device).repeat_interleave(how.batch)

    def loss() -> Tensor:
        variant, noise, u = (every[at][0] for every in draws)
        at.add_(1)
        sigma, x0 = levels(u, is_style, recipe.by_role), latents[variant]
        with base.with_adapters(trained.factors()):
            velocity = base.velocity(torch.lerp(x0, noise, sigma[:, None, None, None]), sigma, rows)
        return (velocity - (noise - x0)).square().mean() * len(lessons)

    return loss


@lru_cache(maxsize=3)
def _draws(
    variants: tuple[int, ...], count: int, seed: int, steps: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each step the latents' rows, noise and uniform numbers of levels of all items, one adapter's after another's.

    An adapter's depend on the seed, the step and its number: whoever else learns, they are the same.
    """
    starts = list(accumulate(variants, initial=0))[:-1]
    rows = torch.empty(steps, len(variants) * count, dtype=torch.long)
    noise, u = torch.empty(*rows.shape, *LATENT), torch.empty(rows.shape)
    for step in range(steps):
        for number, (start, many) in enumerate(zip(starts, variants, strict=True)):
            own = slice(number * count, (number + 1) * count)
            random = torch.Generator().manual_seed(((seed + 1) * 1_000_003 + step) * 1_009 + number)
            rows[step, own] = start + torch.randint(many, (count,), generator=random)
            u[step, own] = (torch.arange(count) + torch.rand(count, generator=random)) / count
            noise[step, own] = torch.randn(count, *LATENT, generator=random)
    return rows.to(device), noise.to(device), u.to(device)


def _recorded(update: Callable[[], None], optimizer: torch.optim.Optimizer, at: Tensor) -> Callable[[], object]:
    """The update as a CUDA graph, which runs without gaps between its kernels.

    What is recorded must have run before: parameters, moments and the step are set back.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        update()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update()
    with torch.no_grad():
        for parameter, start in zip(parameters, before, strict=True):
            parameter.copy_(start)
        for number in (at, *(moment for state in optimizer.state.values() for moment in state.values())):
            number.zero_()
    return graph.replay


def _still(factors: Factors) -> Factors:
    return Factors(factors.up.detach().clone(), factors.down.detach().clone())
