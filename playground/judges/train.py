"""Train the learned judge: `python -m playground.judges.train`, 15 minutes of one core; resumes by itself.

Shapes and looks are drawn apart from each other, all of both, unmixed and as blends, and answered by their shares.
Most pictures are composed on the way; some went through the autoencoder, with noise on their latents, before; a few
show no shape. Pairs that `is_held_out` names are never shown, to see whether the judge knows a shape in a look that is
new for it.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from playground import draw as plain
from playground.judges import composing
from playground.judges.blends import Blend, blend, draw_all, drawing
from playground.judges.learned import EYE, Answers, Eye
from playground.judges.verdict import SIDE, halved, shape_names
from playground.train import cached, fit, generator, save_half
from playground.world.scene import Look
from playground.world.styles import styles

HELD_OUT = 16  # one pair of shape and style in so many
DECODED = 0.3  # of a batch: pictures from the store
EMPTY = 0.05  # of a batch: pictures without a shape
SMOOTH = 0.02  # of a share is given to all


def is_held_out(shape: str, look: Look) -> bool:
    """Whether the judge never sees these two together."""
    if not look.style:
        return False
    return (shape_names().index(shape) + 5 * list(styles()).index(look.style)) % HELD_OUT == 0


@dataclass(frozen=True)
class Mixes:
    """Truths of pictures, each field (n,): two shapes, two looks (rows of `composing.layers`), and the seconds' shares.

    Attributes:
        crossed: the ground is the second look's, all else the first's.
    """

    one: Tensor
    two: Tensor
    shape_share: Tensor
    first: Tensor
    second: Tensor
    look_share: Tensor
    crossed: Tensor

    def rows(self, index: Tensor) -> Mixes:
        """Some of them."""
        return Mixes(*(getattr(self, field.name)[index] for field in fields(self)))

    def answers(self) -> Answers:
        """What the judge is to answer: shares; none of colour and ground for a style."""
        table = composing.layers()
        share = torch.where(self.crossed, 0.5, self.look_share)

        def shares(one: Tensor, two: Tensor, share: Tensor, count: int) -> Tensor:
            return torch.lerp(F.one_hot(one, count).float(), F.one_hot(two, count).float(), share[:, None])

        shape = shares(self.one, self.two, self.shape_share, len(shape_names()))
        style = shares(table.style[self.first], table.style[self.second], share, len(styles()) + 1)
        parts = [(names[self.first], names[self.second]) for names in (table.tint, table.backdrop)]
        plains = [(table.style[look] == len(styles())).float()[:, None] for look in (self.first, self.second)]
        seen = [
            F.one_hot(one, count).float() * plains[0] * (1 - share[:, None])
            + F.one_hot(two, count).float() * plains[1] * share[:, None]
            for (one, two), count in zip(parts, (len(plain.COLOURS), len(plain.BACKGROUNDS)), strict=True)
        ]
        return Answers(shape, style, *seen)


def random_mixes(count: int, random: torch.Generator) -> Mixes:
    """Half of them unmixed; of the others a third each between shapes, between looks, and between both."""
    known = may_stand_together()
    first, second = _random_looks(count, random), _random_looks(count, random)
    kind = torch.randint(6, (count,), generator=random)  # 0 to 2: unmixed
    second = torch.where(kind >= 4, second, first)
    one, two = torch.multinomial(known[first] * known[second], 2, generator=random).unbind(1)
    two = torch.where((kind == 3) | (kind == 5), two, one)
    shares = torch.rand(2, count, generator=random)
    named = (first < len(styles())) & (second < len(styles())) & (first != second)
    crossed = named & (torch.rand(count, generator=random) < 0.2)
    return Mixes(one, two, shares[0], first, second, torch.where(crossed, 0.0, shares[1]), crossed)


def _random_looks(count: int, random: torch.Generator) -> Tensor:
    """Rows of `composing.layers`; the plain ones less often than there are of them."""
    weights = torch.ones(len(composing.layers().style))
    weights[len(styles()) :] = 0.35 * len(styles()) / (len(weights) - len(styles()))
    return torch.multinomial(weights, count, replacement=True, generator=random)


def may_stand_together() -> Tensor:
    """(looks, shapes), 1 or 0."""
    looks, shapes = torch.arange(len(composing.layers().style))[:, None], torch.arange(len(shape_names()))
    return (((shapes + 5 * looks) % HELD_OUT != 0) | (looks >= len(styles()))).float()


def composed(mixes: Mixes, random: torch.Generator) -> Tensor:
    """Pictures (n, 3, SIDE, SIDE), turned, shifted and of changed size by a little."""
    shapes = composing.fields()
    distance = torch.lerp(shapes[mixes.one], shapes[mixes.two], mixes.shape_share[:, None, None])
    ground = torch.where(mixes.crossed, mixes.second, mixes.first)
    picture = composing.compose(distance, mixes.first, random, ground)
    other = (mixes.first != mixes.second) & ~mixes.crossed
    if other.any():
        ends = picture[other], composing.compose(distance[other], mixes.second[other], random)
        picture[other] = torch.lerp(*ends, mixes.look_share[other, None, None, None])
    return warped(picture, random, turn=7.0, shift=0.11, size=0.1)


def empty(count: int, random: torch.Generator) -> tuple[Tensor, Answers]:
    """Pictures (n, 3, SIDE, SIDE) of a ground alone or of one colour, in which all that is asked for is as likely."""
    nowhere = torch.full((count, composing.CANVAS, composing.CANVAS), 200.0)
    grounds = composing.compose(nowhere, _random_looks(count, random), random)
    flat = 255 * torch.rand(count, 3, 1, 1, generator=random).expand_as(grounds)
    pictures = torch.where(torch.rand(count, 1, 1, 1, generator=random) < 0.3, flat, grounds)
    counts = len(shape_names()), len(styles()) + 1, len(plain.COLOURS), len(plain.BACKGROUNDS)
    shape, style, colour, ground = (torch.full((count, one), 1 / one) for one in counts)
    return warped(pictures, random, turn=7.0, shift=0.11, size=0.1), Answers(shape, style, 0 * colour, 0 * ground)


def warped(pictures: Tensor, random: torch.Generator, *, turn: float, shift: float, size: float) -> Tensor:
    """Cut (n, 3, SIDE, SIDE) from the middle of pictures, turned up to so many degrees, shifted and sized by shares."""
    count = len(pictures)
    angle, scale, dx, dy = (2 * torch.rand(4, count, generator=random) - 1).unbind(0)
    reach = SIDE / pictures.shape[-1] * (1 + size * scale)
    angle = torch.deg2rad(turn * angle)
    rows = [reach * angle.cos(), -reach * angle.sin(), shift * dx, reach * angle.sin(), reach * angle.cos(), shift * dy]
    grid = F.affine_grid(torch.stack(rows, 1).unflatten(1, (2, 3)), [count, 3, SIDE, SIDE], align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def disturbed(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Pictures (n, 3, SIDE, SIDE) of 0 to 255 with other light, a little blur, and noise, fine and coarse."""
    count = len(pictures)

    def some(*shape: int) -> Tensor:
        return 2 * torch.rand(count, *shape, generator=random) - 1

    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = torch.lerp(pictures, blurred, some(1, 1, 1).clamp_min(0))
    pictures = pictures * (1 + 0.06 * some(1, 1, 1) + 0.04 * some(3, 1, 1)) + 8 * some(3, 1, 1)
    for side in (SIDE, SIDE // 4, SIDE // 8):
        noise = torch.randn(count, 3, side, side, generator=random) * (8 * some(1, 1, 1)).clamp_min(0)
        pictures = pictures + F.interpolate(noise, size=SIDE, mode="bilinear") if side < SIDE else pictures + noise
    return pictures.clamp(0, 255)


def store(count: int, seed: int) -> dict[str, Tensor]:
    """Decoded pictures (count, 3, SIDE, SIDE), bytes, and their truths, (count,) each."""
    rng = np.random.default_rng((11, seed))
    blends: list[Blend] = []
    while len(blends) < count:
        made = (drawing, blend)[len(blends) % 2](rng)
        if not any(is_held_out(shape, look) for shape in made.shapes for look in made.looks):
            blends.append(made)
    parts = [halved(draw_all(blends[at : at + 64], seed + 1 + at)).round().byte() for at in range(0, count, 64)]
    names = {name: row for row, name in enumerate(shape_names())}
    columns = {
        "one": [names[one.shapes[0]] for one in blends],
        "two": [names[one.shapes[1]] for one in blends],
        "shape_share": [one.shape_share for one in blends],
        "first": [row_of(one.looks[0]) for one in blends],
        "second": [row_of(one.looks[1]) for one in blends],
        "look_share": [one.look_share for one in blends],
        "crossed": [one.crossed for one in blends],
    }
    return {"pictures": torch.cat(parts), **{key: torch.tensor(column) for key, column in columns.items()}}


def row_of(look: Look) -> int:
    """Where a look stands in `composing.layers`."""
    if look.style:
        return list(styles()).index(look.style)
    tint = list(plain.COLOURS).index(look.colour) * len(plain.TEXTURES) + plain.TEXTURES.index(look.texture)
    return len(styles()) + tint * len(plain.BACKGROUNDS) + list(plain.BACKGROUNDS).index(look.background)


def loss_of(seen: Answers, true: Answers) -> Tensor:
    """Cross-entropy of the shares, summed over the four answers."""

    def one(logits: Tensor, shares: Tensor) -> Tensor:
        shares = (1 - SMOOTH) * shares + SMOOTH * shares.sum(1, keepdim=True) / shares.shape[1]
        return -(shares * logits.float().log_softmax(1)).sum(1).mean()

    pairs = [(getattr(seen, field.name), getattr(true, field.name)) for field in fields(Answers)]
    return torch.stack([one(*pair) for pair in pairs]).sum()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--pictures", type=int, default=4000, help="that go through the autoencoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(".run/judges"), help="checkpoints and caches")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    kept = cached(options.work / f"store_{options.pictures}.pt", lambda: store(options.pictures, options.seed))
    truths = Mixes(*(kept[field.name] for field in fields(Mixes)))
    few, none = round(DECODED * options.batch), round(EMPTY * options.batch)
    torch.manual_seed(options.seed)
    eye = Eye().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # an overload that torch does not name

    def loss_at(step: int) -> Tensor:
        random = generator(options.seed, step)
        mixes = random_mixes(options.batch - few - none, random)
        index = torch.randint(len(kept["pictures"]), (few,), generator=random)
        old = warped(kept["pictures"][index].float(), random, turn=4.0, shift=0.05, size=0.05)
        nothing, unknown = empty(none, random)
        pictures = disturbed(torch.cat([composed(mixes, random), old, nothing]), random)
        answers = [mixes.answers(), truths.rows(index).answers(), unknown]
        true = Answers(*(torch.cat([getattr(part, field.name) for part in answers]) for field in fields(Answers)))
        with torch.autocast("cpu", torch.bfloat16):
            seen = eye(pictures)
        return loss_of(seen, true)

    average = fit(
        eye, loss_at, steps=options.steps, peak=options.rate, checkpoint=options.work / "judge.pt", decay=0.99
    )
    save_half(average, EYE)


if __name__ == "__main__":
    main()
