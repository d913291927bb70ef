"""What an adapter is shown and told: the pictures, the captions and the noise levels of each recipe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.evidence import roles
from comfyui_qr_lora.qrlora_core.train.objective import bent
from playground import autoencoder
from playground.train import SHIFT, to_tensor
from playground.world import scene
from playground.world.scene import Look, bare_caption
from playground.world.splits import Carried, Content, Part

VARIANTS = 32  # of a picture, drawn once and kept for the run


@dataclass(frozen=True)
class Recipe:
    """How contents and styles are taught.

    Attributes:
        bare: the content's caption names the thing and not its look.
        jitter: the content's picture comes in other colours.
        geometry: how far the style's picture is zoomed, shifted, turned and flipped, 0 not at all.
        by_role: how far noise levels are bent, to low noise for styles and to high noise for contents.
        own: strength of the pack's own roles, which vary pictures in their way; empty without them.
        still: of those, a style's picture is not moved.
    """

    name: str
    bare: bool = False
    jitter: bool = False
    geometry: float = 0.0
    by_role: float = 0.0
    own: str = ""
    still: bool = False


PUBLISHED = Recipe("published")
RECIPES = {
    recipe.name: recipe
    for recipe in (
        PUBLISHED,
        Recipe("bare", bare=True),
        Recipe("jitter", bare=True, jitter=True),
        Recipe("mild", bare=True, jitter=True, geometry=0.5),
        Recipe("strong", bare=True, jitter=True, geometry=1.0),
        Recipe("levels", bare=True, jitter=True, geometry=0.5, by_role=1.0),
        Recipe("roles", by_role=1.0),
        Recipe("jitter_roles", bare=True, jitter=True, by_role=1.0),
    )
}
# The pack's own roles, which were made after the test split had been judged. Whole: with whole captions.
OWN = {
    recipe.name: recipe
    for recipe in (
        Recipe("own_mild", bare=True, by_role=roles.bias("mild"), own="mild"),
        Recipe("own_medium", bare=True, by_role=roles.bias("medium"), own="medium"),
        Recipe("own_still", bare=True, by_role=roles.bias("mild"), own="mild", still=True),
        Recipe("own_whole", by_role=roles.bias("mild"), own="mild", still=True),
    )
}


@dataclass(frozen=True)
class Lesson:
    """What one adapter learns from: latents (variants, 16, 16, 16) and a caption."""

    latents: Tensor
    caption: str
    is_style: bool


def lessons(part: Part, recipe: Recipe) -> list[Lesson]:
    """One for each content, then one for each style."""
    contents = [_content(content, recipe, number) for number, content in enumerate(part.contents)]
    return contents + [_style(style, recipe, number) for number, style in enumerate(part.styles)]


def _content(content: Content, recipe: Recipe, number: int) -> Lesson:
    picture, caption = scene.draw(content.shape, content.look), content.look.caption(content.shape)
    if recipe.own:
        pictures = roles.looks(to_tensor(picture[None]), recipe.own, VARIANTS, number)
        caption = roles.without_appearance(caption) if recipe.bare else caption
        return Lesson(autoencoder.encode(pictures), caption, is_style=False)
    drawn = jittered(picture, np.random.default_rng((11, number))) if recipe.jitter else picture[None]
    caption = bare_caption(content.shape) if recipe.bare else caption
    return Lesson(autoencoder.encode(to_tensor(drawn)), caption, is_style=False)


def _style(style: Carried, recipe: Recipe, number: int) -> Lesson:
    look = Look(style=style.style)
    picture = to_tensor(scene.draw(style.carrier, look, seed=number)[None])
    if recipe.own and not recipe.still:
        picture = roles.moves(picture, recipe.own, VARIANTS, number)
    if recipe.geometry:
        generator = torch.Generator().manual_seed(1_300 + number)
        picture = torch.cat([moved(picture, recipe.geometry, generator) for _ in range(VARIANTS)])
    return Lesson(autoencoder.encode(picture), look.caption(style.carrier), is_style=True)


def jittered(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture (h, w, 3) in other colours, (VARIANTS, h, w, 3): the colour space turned by chance, in another light.

    The first is the picture itself. Edges stay where they are, so that the shape is all that the variants share.
    """
    colours = (picture.astype(np.float64) / 255 - 0.5).reshape(-1, 3)
    made = [picture]
    for _ in range(VARIANTS - 1):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        gain, light = rng.uniform(0.7, 1.2), rng.uniform(-0.15, 0.15, 3)
        other = colours @ turn * gain + light + 0.5
        made.append(np.clip(np.rint(other * 255), 0, 255).astype(np.uint8).reshape(picture.shape))
    return np.stack(made)


def moved(picture: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A picture (1, 3, h, w) zoomed, shifted, turned and maybe flipped; what comes in at the border is mirrored."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    zoom = 2 ** (strength * between(-0.3, 0.3))  # a pattern of another period is another style
    turn = np.radians(strength * between(-25, 25))
    flip = -1.0 if between(0, 1) < 0.5 else 1.0
    dx, dy = strength * between(-0.45, 0.45), strength * between(-0.45, 0.45)
    c, s = float(np.cos(turn)) / zoom, float(np.sin(turn)) / zoom
    matrix = torch.tensor([[[flip * c, -s, dx], [flip * s, c, dy]]])
    grid = F.affine_grid(matrix, list(picture.shape), align_corners=False)
    return F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False)


def levels(u: Tensor, is_style: Tensor, by_role: float) -> Tensor:
    """Noise levels sigma of uniform u (n,), bent by role, then shifted as the host does."""
    u = torch.where(is_style, bent(u, by_role), bent(u, -by_role))
    return SHIFT * u / (1 + (SHIFT - 1) * u)
