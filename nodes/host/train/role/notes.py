"""What a role does to the pictures and what it cannot, for the report."""

from __future__ import annotations

from collections.abc import Sequence

from ..dataset import TrainingSet
from .latents import is_picture, varied_on_latents
from .settings import STYLE, Recipe


def role_notes(data: TrainingSet, recipe: Recipe | None) -> list[str]:
    """Two lines, of the pictures and of the noise; none without a role.

    Args:
        data: before it is varied.
    """
    return [] if recipe is None else [f"role {recipe.role}: {_of_pictures(data, recipe)}", _of_noise(recipe)]


def _of_pictures(data: TrainingSet, recipe: Recipe) -> str:
    wanted = recipe.varied if recipe.variants > 1 else []
    if not wanted:
        return "the pictures are seen as they are"
    if all(example.pixels is not None for example in data.examples):
        return f"{recipe.variants} variants of each picture, encoded once: other {_listed(wanted)}"
    if not all(map(is_picture, data.examples)):
        return f"no variants: {_listed(wanted)} cannot be varied in a sound, or in a video with sound"
    possible = varied_on_latents(recipe)
    left_out = _listed([name for name in wanted if name not in possible])
    done = f"{recipe.variants} variants of each latent: other {_listed(possible)}" if possible else "no variants"
    more = f"; {left_out} cannot be varied on latents alone, connect pixels and vae for it" if left_out else ""
    return done + more


def _of_noise(recipe: Recipe) -> str:
    if not recipe.levels:
        return "noise levels are those of the objective"
    power = f"{1 + recipe.levels:g}"
    if recipe.role == STYLE:
        return f"noise levels of the objective bent to low noise: u^{power}"
    return f"noise levels of the objective bent to high noise: 1 - (1 - u)^{power}"


def _listed(names: Sequence[str]) -> str:
    *most, last = ["", *names]
    return " and ".join(filter(None, [", ".join(filter(None, most)), last]))
