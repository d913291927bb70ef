"""Pictures between two shapes or two looks, by known shares: what judges are calibrated on.

Shapes are morphed by their distance fields, looks by mixing two renderings of one field, and all go through the
autoencoder with noise on the latents, as what a diffusion model draws does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import nn

from playground import autoencoder
from playground import draw as plain
from playground.assemble import DECODER
from playground.judges.verdict import UNCLEAR, Pictures, look_names, shape_names
from playground.world import scene
from playground.world.fields import Array
from playground.world.scene import Look, Place
from playground.world.styles import as_bytes, styles

MIDDLE = 0.15  # a share nearer to one half than this is neither of both
NOISE = 0.1  # at most, of a latent


@dataclass(frozen=True)
class Blend:
    """A picture between two shapes and between two looks; a share is that of the second.

    Attributes:
        crossed: the fill and edge of the first style before the ground of the second, whatever the share: neither.
    """

    shapes: tuple[str, str]
    shape_share: float
    looks: tuple[Look, Look]
    look_share: float
    place: Place
    crossed: bool = False

    @property
    def shape(self) -> str:
        """The nearer shape, "" around the middle."""
        is_clear = self.shapes[0] == self.shapes[1] or _is_clear(self.shape_share)
        return self.shapes[self.shape_share > 0.5] if is_clear else ""

    @property
    def look(self) -> Look:
        """The nearer look without its texture, ``Look()`` around the middle."""
        first, second = (replace(look, texture="") for look in self.looks)
        is_clear = first == second or (_is_clear(self.look_share) and not self.crossed)
        return (second if self.look_share > 0.5 else first) if is_clear else UNCLEAR

    def draw(self, seed: int) -> Pictures:
        """The picture (128, 128, 3); the seed is that of a texture's grain."""
        one, two = (scene.distance_to(shape, self.place) for shape in self.shapes)
        distance = _between(one, two, self.shape_share)
        if self.crossed:
            fore, back = (styles()[look.style] for look in self.looks)
            mixed = replace(fore, ground=back.ground)
            return as_bytes(scene.paint(distance, mixed, self.place, np.random.default_rng(seed)))
        first, second = (scene.draw_field(distance, look, self.place, seed).astype(np.float64) for look in self.looks)
        return as_bytes(_between(first, second, self.look_share))


def _is_clear(share: float) -> bool:
    return abs(share - 0.5) >= MIDDLE


def _between(first: Array, second: Array, share: float) -> Array:
    return (1 - share) * first + share * second


def drawing(rng: np.random.Generator) -> Blend:
    """A shape and a look by chance, unmixed."""
    shape, look = _some_shape(rng), _some_look(rng)
    return Blend((shape, shape), 0.0, (look, look), 0.0, Place.random(rng))


def blend(rng: np.random.Generator) -> Blend:
    """Two shapes in one look, one shape in two looks, or two of each; shares evenly spread."""
    mixes = ((True, False), (False, True), (True, True))[int(rng.integers(3))]
    one, two = _some_shape(rng), _some_shape(rng)
    first, second = _some_look(rng), _some_look(rng)
    shares = rng.uniform(0, 1, 2)
    crossed = bool(mixes[1] and first.style and second.style and first != second and rng.uniform() < 0.2)
    return Blend(
        (one, two if mixes[0] else one), float(shares[0]) if mixes[0] else 0.0,
        (first, second if mixes[1] else first), float(shares[1]) if mixes[1] else 0.0,
        Place.random(rng), crossed,
    )  # fmt: skip


def _some_shape(rng: np.random.Generator) -> str:
    return str(rng.choice(shape_names()))


def _some_look(rng: np.random.Generator) -> Look:
    """A style, or more seldom a plain look, which may have a texture."""
    looks = look_names()
    if rng.uniform() < 0.7:
        return looks[int(rng.integers(len(styles())))]
    look = looks[int(rng.integers(len(styles()), len(looks)))]
    return replace(look, texture=str(rng.choice(plain.TEXTURES, p=(0.6, 0.1, 0.1, 0.1, 0.1))))


def draw_all(blends: Sequence[Blend], seed: int, noise: float = NOISE) -> Pictures:
    """The pictures (n, 128, 128, 3) as a diffusion model would hand them on: decoded, with noise on their latents."""
    drawn = np.stack([one.draw(seed * 100_003 + number) for number, one in enumerate(blends)])
    return decoded(drawn, torch.Generator().manual_seed(seed), noise)


@torch.inference_mode()
def decoded(pictures: Pictures, random: torch.Generator, noise: float = NOISE) -> Pictures:
    """Pictures (n, 128, 128, 3) through the autoencoder, each with noise of its own level from 0 to `noise`."""
    out = []
    for few in np.array_split(pictures, max(1, len(pictures) // 16)):
        latents = autoencoder.encode(torch.from_numpy(few).permute(0, 3, 1, 2).float() / 255)
        level = noise * torch.rand(len(few), 1, 1, 1, generator=random)
        noisy = latents + level * torch.randn(latents.shape, generator=random)
        out.append(autoencoder.to_bytes(_decoder(), noisy).numpy())
    return np.concatenate(out)


@cache
def _decoder() -> nn.Module:
    return autoencoder.load_decoder(DECODER)
