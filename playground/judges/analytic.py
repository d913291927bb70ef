"""A judge that has learned nothing but means and covariances: `python -m playground.judges.analytic` computes these.

The shape is the one whose mask the picture's colours follow best (`masks`). The look is the one whose statistics
(`statistics`) are nearest, measured by their covariance within looks.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from playground import draw as plain
from playground.judges import masks
from playground.judges.blends import Blend, draw_all
from playground.judges.statistics import FLOOR, statistics
from playground.judges.verdict import WEIGHTS, Judge, Verdict, halved, shape_names, verdicts
from playground.world.scene import Look, Place, distance_to
from playground.world.styles import styles

TABLE = WEIGHTS / "judge_looks.safetensors"
EACH = 8  # pictures of each look, of as many shapes


def textured_looks() -> list[Look]:
    """What means are taken of: the styles, and plain looks with each of their textures."""
    named = [Look(style=name) for name in styles()]
    rows = product(plain.COLOURS, plain.TEXTURES, plain.BACKGROUNDS)
    return named + [Look(colour=colour, texture=texture, background=ground) for colour, texture, ground in rows]


def ahead(costs: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest of candidates (n, candidates), and ``1 - first / second``: 0 where two are equal."""
    best, where = costs.topk(2, largest=False)
    return where[:, 0], 1 - best[:, 0] / best[:, 1].clamp_min(1e-9)


@dataclass(frozen=True)
class AnalyticJudge(Judge):
    """Sees shapes by entropies and looks by distances.

    Attributes:
        table: means and covariance of looks, as `main` writes them.
    """

    name = "analytic"
    at_once: ClassVar = {"cpu": 2, "cuda": 96}

    table: Path = TABLE

    @torch.inference_mode()
    def _few(self, pictures: Tensor) -> list[Verdict]:
        found = masks.find(pictures)
        shape, shape_ahead = ahead(found.left)
        look, look_ahead = ahead(self._looks.costs(statistics(pictures, found.distance)))
        return verdicts((shape, look, shape_ahead, look_ahead))

    @cached_property
    def _looks(self) -> _Looks:
        return _Looks(**{name: table.to(self.device) for name, table in load_file(self.table).items()})


@dataclass(frozen=True)
class _Looks:
    """Means (looks with textures, numbers), and what makes the covariance within looks the unit, (numbers, numbers)."""

    means: Tensor
    whiten: Tensor

    def costs(self, seen: Tensor) -> Tensor:
        """Distance of what is seen (n, numbers) to each look at its nearest texture: (n, looks)."""
        far = torch.cdist(seen @ self.whiten, self.means @ self.whiten)
        named = len(styles())
        grounds = far[:, named:].unflatten(1, (len(plain.COLOURS), len(plain.TEXTURES), len(plain.BACKGROUNDS)))
        return torch.cat([far[:, :named], grounds.amin(2).flatten(1)], dim=1)

    @classmethod
    def of(cls, seen: Tensor) -> _Looks:
        """From what was seen of pictures of each look, (looks, pictures, numbers)."""
        means = seen.mean(1)
        off = (seen - means[:, None]).flatten(0, 1)
        covariance = off.T @ off / (len(off) - len(means)) + FLOOR**2 * torch.eye(off.shape[1])
        values, vectors = torch.linalg.eigh(covariance.double())
        return cls(means, (vectors * values.rsqrt() @ vectors.T).float())


def drawings_of(look: Look, count: int, seed: tuple[int, int]) -> list[Blend]:
    """Shapes by chance in a look."""
    rng = np.random.default_rng(seed)
    shapes = [str(rng.choice(shape_names())) for _ in range(count)]
    return [Blend((shape, shape), 0.0, (look, look), 0.0, Place.random(rng)) for shape in shapes]


def _distance(blend: Blend) -> Tensor:
    """To the edge, (SIDE, SIDE), as exactly as masks find it."""
    place = Place(*(2 * round(value / 2) for value in (blend.place.x, blend.place.y, blend.place.radius)))
    return torch.from_numpy(distance_to(blend.shapes[0], place)[::2, ::2].copy()).float()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    looks = textured_looks()
    seen = []
    for number, look in enumerate(looks):
        blends = drawings_of(look, EACH, (options.seed, number))
        pictures = draw_all(blends, options.seed * 1000 + number)
        seen.append(statistics(halved(pictures), torch.stack([_distance(blend) for blend in blends])))
    table = _Looks.of(torch.stack(seen))
    save_file({"means": table.means, "whiten": table.whiten}, TABLE)


if __name__ == "__main__":
    main()
