"""A preset on a model: what it sets in place of the node, and what a user reads about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .....qrlora_core import TrainingError
from ...model.host_types import Patcher
from ..dataset import Example, TrainingSet
from .families import Family, Setting, family_of

NO_PRESET, ONE_PICTURE, MANY_PICTURES = "none", "one picture", "many pictures"
PRESET_NAMES = (NO_PRESET, ONE_PICTURE, MANY_PICTURES)
CUSTOM_TARGETS = "custom"  # the node's word for the patterns in custom_targets

STEPS_PER_PICTURE, FEWEST_STEPS, MOST_STEPS = 100, 1000, 4000
_OF_MANY = "steps: 100 for each picture, from 1000 to 4000, which for twenty is what ai-toolkit's examples have"
_STEPPED_FROM = 0.75  # of the least size, and the most size through it: what is called far
_WIDE_LATENT = 48  # channels from which on a VAE makes one number of 16 x 16 pixels, where the host does not say


@dataclass(frozen=True)
class Preset:
    """What a preset sets on one model.

    Attributes:
        values: of the node's own inputs, by name, as they would be typed in.
        notes: what the user must read.
    """

    name: str
    family: str
    values: Mapping[str, Any]
    source: str
    notes: tuple[str, ...]

    def as_status(self) -> dict[str, Any]:
        """What a page is told."""
        return {"name": self.name, "family": self.family, "values": dict(self.values), "source": self.source}


def preset_for(name: str, patcher: Patcher, data: TrainingSet, given: Mapping[str, Any]) -> Preset | None:
    """The preset of this name for the family of a model; None for `NO_PRESET`.

    Args:
        given: what the node says, by the names of its inputs.

    Raises:
        TrainingError: another name.
    """
    if name not in PRESET_NAMES:
        raise TrainingError(f"preset: expected one of {', '.join(PRESET_NAMES)}, found {name!r}.")
    if name == NO_PRESET:
        return None
    family, pictures = family_of(patcher), len(data.examples)
    setting = setting_of(family, name)
    values = preset_values(family, name, pictures, on_cpu=patcher.load_device.type == "cpu")
    source = source_of(family, name)
    notes = (
        f"preset {name}, {family.title}: {_listed(values)}. {source}",
        *_unused(values, given),
        *_remarks(family, name, pictures, given),
        *_sizes(patcher, data.examples, setting),
    )
    return Preset(name, family.title, values, source, notes)


def setting_of(family: Family, name: str) -> Setting:
    """What of a row is the preset's own."""
    return family.one if name == ONE_PICTURE else family.many


def preset_values(family: Family, name: str, pictures: int, *, on_cpu: bool) -> dict[str, Any]:
    """What a preset sets, by the names of the node's inputs."""
    setting = setting_of(family, name)
    values = {
        "steps": family.steps if name == ONE_PICTURE else steps_for(pictures),
        "learning_rate": setting.learning_rate,
        "rank": family.rank,
        "alpha": family.alpha,
        "variant": "triu",
        "targets": CUSTOM_TARGETS if setting.blocks else "paper",
        "batch_size": 1,
        "grad_accumulation": setting.grad_accumulation,
        "training_dtype": "fp32" if on_cpu else "bf16",
        "gradient_checkpointing": True,
    }
    return values | ({"custom_targets": setting.blocks} if setting.blocks else {})


def steps_for(pictures: int) -> int:
    """Updates for many pictures: a hundred for each, within bounds."""
    return min(max(STEPS_PER_PICTURE * pictures, FEWEST_STEPS), MOST_STEPS)


def source_of(family: Family, name: str) -> str:
    """Who published what a preset sets."""
    setting = setting_of(family, name)
    own = {"alpha": bool(family.alpha), "variant": False, "targets": bool(setting.blocks)}
    of_the_method = ", ".join(value for value, is_known in own.items() if not is_known)
    of_many = [_OF_MANY] if name == MANY_PICTURES else []
    return "; ".join([setting.source, *of_many, f"{of_the_method}: published with QR-LoRA"])


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_as_text(value)}" for name, value in values.items())


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())


def _unused(values: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """What stands on the node otherwise, which is not used."""
    others = [
        f"{name} {_as_text(value)} by preset, {_as_text(given[name])} on the node is not used"
        for name, value in values.items()
        if name in given and given[name] not in (value, "")
    ]
    return ["; ".join(others)] if others else []


def _remarks(family: Family, name: str, pictures: int, given: Mapping[str, Any]) -> list[str]:
    made_for = ONE_PICTURE if pictures == 1 else MANY_PICTURES
    connected = "1 picture is" if pictures == 1 else f"{pictures} pictures are"
    return [
        *([f"{connected} connected: preset {made_for} is made for that"] if name != made_for else []),
        *([f"{family.title}: {family.remark}"] if family.remark else []),
        *([_noise_remark(family)] if family.timesteps and given.get("objective") is None else []),
    ]


def _noise_remark(family: Family) -> str:
    return (
        f"trainers of {family.title} draw noise levels otherwise than uniformly: connect a QR-LoRA Objective with "
        f"timesteps {family.timesteps} to do as they do"
    )


def _sizes(patcher: Patcher, examples: tuple[Example, ...], setting: Setting) -> list[str]:
    """A note on pictures of another size than the sources have; the size of a picture is not the preset's to set."""
    if setting.size is None:
        return []
    least, most = setting.size
    sides = [_side(patcher, example) for example in examples]
    far = [side for side in sides if not least * _STEPPED_FROM <= side <= most / _STEPPED_FROM]
    if not far:
        return []
    wanted = f"{least}" if least == most else f"{least} to {most}"
    return [
        f"{len(far)} of {len(sides)} pictures are of another size than the preset's source has, {wanted} px on a side: "
        f"they have {_span(far)}. Scale them before VAE Encode; larger ones need more memory and time"
    ]


def _span(sides: list[float]) -> str:
    least, most = round(min(sides)), round(max(sides))
    return f"{least} px" if least == most else f"{least} to {most} px"


def _side(patcher: Patcher, example: Example) -> float:
    """Of a square as large as the picture, in pixels."""
    height, width = example.shapes[0][-2:]
    form = patcher.model.latent_format
    cell = getattr(form, "spacial_downscale_ratio", 16 if form.latent_channels >= _WIDE_LATENT else 8)
    return float(cell * (height * width) ** 0.5)
