"""What a role varies, and how far: a strength by name, or each by number."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .....qrlora_core import TrainingError

NO_ROLE, CONTENT, STYLE = "none", "content", "style"
ROLES = (NO_ROLE, CONTENT, STYLE)
GROUNDS = ("varied", "kept", "replaced")
BY_STRENGTH = -1.0  # in place of a number: what the strength says

# Each name with its number at every strength, and the largest that makes sense.
_CONTENT = {
    "mild": {"colour": 0.25, "light": 0.25, "texture": 0.25, "levels": 0.5},
    "medium": {"colour": 0.5, "light": 0.5, "texture": 0.5, "levels": 1.0},
    "strong": {"colour": 1.0, "light": 1.0, "texture": 1.0, "levels": 2.0},
}
_STYLE = {
    "mild": {"zoom": 0.15, "shift": 0.15, "tilt": 10.0, "flip": 0.5, "patch": 0.8, "tiles": 1, "levels": 0.5},
    "medium": {"zoom": 0.3, "shift": 0.3, "tilt": 20.0, "flip": 0.5, "patch": 0.6, "tiles": 2, "levels": 1.0},
    "strong": {"zoom": 0.6, "shift": 0.5, "tilt": 45.0, "flip": 0.5, "patch": 0.4, "tiles": 4, "levels": 2.0},
}
_TABLE = {CONTENT: _CONTENT, STYLE: _STYLE}
STRENGTHS = tuple(_STYLE)
_IN_PICTURES = ("colour", "light", "texture", "ground", "zoom", "shift", "tilt", "flip", "patch", "tiles")
LIMITS = {
    "levels": (0.0, 4.0), "colour": (0.0, 1.0), "light": (0.0, 1.0), "texture": (0.0, 1.0), "zoom": (0.0, 2.0),
    "shift": (0.0, 1.0), "tilt": (0.0, 180.0), "flip": (0.0, 1.0), "patch": (0.1, 1.0), "tiles": (1, 16),
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What a training for a role varies; the defaults vary nothing.

    Attributes:
        role: `CONTENT` or `STYLE`. variants: of each picture, itself among them.
        ground: one of `GROUNDS`: what happens to the picture where its mask is black.
        levels: how far noise levels are bent, to high noise for a content and to low noise for a style.
        colour, light, texture: 0 to 1, see `jitter.jittered`.
        zoom: in octaves. shift: share of the picture's half. tilt: in degrees. flip: share of the variants.
        flips_latents: whether a flip is done on latents too, which is wrong for VAEs that treat left and right
            differently: where it was asked for by number.
        patch: side of the smallest window that is seen, as a share of the picture. tiles: on a side, at most.
    """

    role: str
    variants: int = 32
    ground: str = GROUNDS[0]
    levels: float = 0.0
    colour: float = 0.0
    light: float = 0.0
    texture: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    tilt: float = 0.0
    flip: float = 0.0
    flips_latents: bool = False
    patch: float = 1.0
    tiles: int = 1

    @property
    def varied(self) -> list[str]:
        """The names of what it varies in a picture."""
        return [name for name in _IN_PICTURES if getattr(self, name) != getattr(Recipe, name)]

    @property
    def noise_bias(self) -> float:
        """As `qrlora_core.ObjectiveSettings` has it."""
        return self.levels if self.role == STYLE else -self.levels


@dataclass(frozen=True)
class RoleSettings:
    """What `QRLoRA_Role` asks for; a number of `BY_STRENGTH` is that of the strength.

    Raises:
        TrainingError: a name that is not known, or a number outside of `LIMITS`.
    """

    strength: str = STRENGTHS[0]
    variants: int = 32
    ground: str = GROUNDS[0]
    levels: float = BY_STRENGTH
    colour: float = BY_STRENGTH
    light: float = BY_STRENGTH
    texture: float = BY_STRENGTH
    zoom: float = BY_STRENGTH
    shift: float = BY_STRENGTH
    tilt: float = BY_STRENGTH
    flip: float = BY_STRENGTH
    patch: float = BY_STRENGTH
    tiles: int = int(BY_STRENGTH)

    def __post_init__(self) -> None:
        for name, known in (("strength", STRENGTHS), ("ground", GROUNDS)):
            if getattr(self, name) not in known:
                raise TrainingError(f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}.")
        if self.variants < 1:
            raise TrainingError(f"variants: expected at least 1, the picture itself, found {self.variants}.")
        for name, (least, most) in LIMITS.items():
            found = getattr(self, name)
            if found != BY_STRENGTH and not (math.isfinite(found) and least <= found <= most):
                raise TrainingError(
                    f"{name}: expected a number from {least:g} to {most:g}, or -1 to go by strength, found {found}."
                )

    def recipe(self, role: str) -> Recipe:
        """The numbers for one of the roles, `CONTENT` or `STYLE`.

        Raises:
            TrainingError: another role.
        """
        if role not in _TABLE:
            raise TrainingError(f"role: expected one of {', '.join(ROLES)}, found {role!r}.")
        numbers = _TABLE[role][self.strength]
        chosen = {name: getattr(self, name) for name in numbers if getattr(self, name) != BY_STRENGTH}
        own = {"ground": self.ground} if role == CONTENT else {"flips_latents": "flip" in chosen}
        return Recipe(role, self.variants, **{**numbers, **chosen, **own})
