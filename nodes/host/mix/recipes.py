"""A recipe: a mix under a name, with how it is merged, as a small JSON; also read out of a picture that it drew.

``{"qr_lora_recipe": 1, "name": "warm light", "mix": {...}}``

``mix`` is as in `document`. Where they are told, ``family`` says which models it is for, ``apply`` and ``mode`` are as
in `QRLoRA_Mixer`, and ``settings`` has what the mode asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ....qrlora_core import UNREADABLE, AdapterFileError
from ..files.folders import relative_parts
from ..merge.merge import APPLY_MODES
from ..merge.modes.mode import Parameter
from ..merge.modes.registry import MODES
from .document import MOST_ROWS, Mix, as_json, is_number, parse_json, parse_mix, read_mix
from .errors import MixError, shown
from .pictures import is_picture, prompt_in

VERSION = 1
MIXER = "QRLoRA_Mixer"
_VERSION_KEY = "qr_lora_recipe"
_KNOWN = (_VERSION_KEY, "name", "family", "apply", "mode", "settings", "mix")
_SUFFIX = ".json"
_LONGEST_FAMILY = 100
# Nodes of the host that hold a text and nothing else.
_TEXT_NODES = ("PrimitiveString", "PrimitiveStringMultiline")
_OF_A_PICTURE = "picture"


@dataclass(frozen=True)
class Recipe:
    """A mix under a name.

    Args:
        name: what a file can be called, without a suffix.
        family: which models it is for, in words; empty unknown.
        apply, mode: values of these inputs of the node; empty for its default.
        settings: values of the mode's parameters by name.
    """

    name: str
    mix: Mix
    family: str = ""
    apply: str = ""
    mode: str = ""
    settings: Mapping[str, float] = field(default_factory=dict)


def recipe_in(body: bytes, name: str = "") -> Recipe:
    """The recipe in the bytes of a JSON file or of a picture.

    Args:
        name: of the recipe, where a picture holds it, which tells none.

    Raises:
        MixError: with the place, what was expected and what was found.
    """
    if is_picture(body):
        return _recipe_of_prompt(prompt_in(body), name or _OF_A_PICTURE)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MixError("mixer.error_recipe_bytes", at=error.start) from error
    return read_recipe(parse_json(text))


def read_recipe(told: Any) -> Recipe:
    """The recipe that parsed JSON holds.

    Raises:
        MixError: see `recipe_in`.
    """
    if not isinstance(told, dict) or _VERSION_KEY not in told:
        raise MixError("mixer.error_recipe", found=shown(told))
    for name in told:
        if name not in _KNOWN:
            raise MixError("mixer.error_recipe_field", field=shown(name), known=", ".join(_KNOWN))
    version, mode = told[_VERSION_KEY], _choice(told, "mode", [mode.name for mode in MODES])
    if type(version) is not int or version != VERSION:
        raise MixError("mixer.error_recipe_version", expected=VERSION, found=shown(version))
    return Recipe(
        _name(told.get("name")),
        read_mix(told.get("mix")),
        family=_family(told.get("family", "")),
        apply=_choice(told, "apply", APPLY_MODES),
        mode=mode,
        settings=_settings(told.get("settings", {}), mode),
    )


def recipe_as_json(recipe: Recipe) -> dict[str, Any]:
    """What `read_recipe` reads; what is not told is left out."""
    told = {"family": recipe.family, "apply": recipe.apply, "mode": recipe.mode, "settings": dict(recipe.settings)}
    given = {name: value for name, value in told.items() if value}
    return {_VERSION_KEY: VERSION, "name": recipe.name, **given, "mix": as_json(recipe.mix)}


def _name(found: Any) -> str:
    """One that a file can have on every system."""
    try:
        parts = relative_parts(found, "", "", added=_SUFFIX) if isinstance(found, str) else []
    except AdapterFileError:
        parts = []
    if len(parts) != 1 or parts[0] != found or not found.strip():
        raise MixError("mixer.error_recipe_name", found=shown(found))
    return str(found)


def _family(found: Any) -> str:
    if not isinstance(found, str) or len(found) > _LONGEST_FAMILY:
        raise MixError("mixer.error_recipe_text", field="family", most=_LONGEST_FAMILY, found=shown(found))
    return " ".join(UNREADABLE.sub(" ", found).split())


def _choice(told: Mapping[str, Any], name: str, known: list[str] | tuple[str, ...]) -> str:
    found = told.get(name, "")
    if found != "" and found not in known:
        raise MixError("mixer.error_recipe_choice", field=name, known=", ".join(known), found=shown(found))
    return str(found)


def _settings(found: Any, mode: str) -> dict[str, float]:
    if not isinstance(found, dict):
        raise MixError("mixer.error_recipe_settings", found=shown(found))
    parameters = _parameters(mode)
    for name in found:
        if name not in parameters:
            raise MixError(
                "mixer.error_recipe_setting", field=shown(name), mode=mode, known=", ".join(parameters) or "-"
            )
    return {name: _setting(parameters[name], value) for name, value in found.items()}


def _parameters(mode: str) -> dict[str, Parameter]:
    return {own.name: own for known in MODES if known.name == mode for own in known.parameters}


def _setting(own: Parameter, found: Any) -> float:
    most = MOST_ROWS if own.names_adapter else own.most
    fits = is_number(found) and (not own.names_adapter or found == int(found))
    if not fits or not own.least <= found <= most:
        limits = {"least": f"{own.least:g}", "most": f"{most:g}"}
        raise MixError("mixer.error_recipe_number", field=own.name, found=shown(found), **limits)
    return int(found) if own.names_adapter else float(found)


# From a picture


def _recipe_of_prompt(prompt: Any, name: str) -> Recipe:
    """Of the first Mixer that has a mix. What comes by a link from another node than one of text is not known."""
    nodes = prompt if isinstance(prompt, dict) else {}
    mixers = [inputs for kind, inputs in map(_node, nodes.values()) if kind == MIXER]
    texts = [(inputs, _text(inputs.get("mix", ""), nodes)) for inputs in mixers]
    for inputs, text in texts:
        if text.strip():
            mode = inputs.get("mode", "") if isinstance(inputs.get("mode"), str) else ""
            settings = {own: inputs[own] for own in _parameters(mode) if is_number(inputs.get(own))}
            apply = inputs.get("apply", "") if isinstance(inputs.get("apply"), str) else ""
            told = {"apply": apply, "mode": mode, "settings": settings, "mix": as_json(parse_mix(text))}
            return read_recipe({_VERSION_KEY: VERSION, "name": name, **told})
    raise MixError(
        "mixer.error_picture_linked" if any(_is_link(own.get("mix")) for own in mixers) else "mixer.error_picture_mix"
    )


def _node(told: Any) -> tuple[str, Mapping[str, Any]]:
    """Its class and its inputs."""
    node = told if isinstance(told, dict) else {}
    kind, inputs = node.get("class_type"), node.get("inputs")
    return kind if isinstance(kind, str) else "", inputs if isinstance(inputs, dict) else {}


def _is_link(found: Any) -> bool:
    return isinstance(found, list) and len(found) == 2


def _text(found: Any, nodes: Mapping[str, Any]) -> str:
    """The text that an input holds, or that comes from a node of text; empty where it comes from elsewhere."""
    if _is_link(found):
        kind, inputs = _node(nodes.get(str(found[0])))
        found = inputs.get("value") if kind in _TEXT_NODES else ""
    return found if isinstance(found, str) else ""
