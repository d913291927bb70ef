"""How files call the layers of text encoders: kohya's names, diffusers', and those of ComfyUI's loader.

The tools that read such files agree on no name for all encoders. ComfyUI's loader and diffusers both know diffusers'
names of the matrices in CLIP's blocks, and kohya's; everything else has one that ComfyUI's loader knows alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .parts import split_parameter

_MATRIX = r"(?:self_attn{dot}(?:[qkv]|out)_proj|mlp{dot}fc[12])"
_KOHYA = re.compile(
    rf"lora_te(?P<number>[12]?)_text_model_encoder_layers_(?P<block>\d+)_(?P<matrix>{_MATRIX.format(dot='_')})"
)
_DIFFUSERS = re.compile(
    rf"text_encoder(?:_(?P<number>2))?\.(?P<layer>text_model\.encoder\.layers\.\d+\.{_MATRIX.format(dot='[.]')})"
)
# As ComfyUI keeps them: the name of an encoder, and the network in it.
_OF_A_HOST = re.compile(r"(?P<encoder>\w+)\.transformer\.(?P<layer>.+)")
_CLIP = {"clip_l": "text_encoder", "clip_h": "text_encoder", "clip_g": "text_encoder_2"}
_PROJECTIONS = {
    "text_encoders.clip_l.transformer.text_projection": "lora_te1_text_projection",
    "text_encoders.clip_g.transformer.text_projection": "lora_te2_text_projection",
}
# What stands in the same place in names of other networks' layers.
_NO_ENCODERS = {"base_model", "diffusion_model", "model", "net", "prior", "transformer", "unet"}
_PREFIXES = ("text_encoder", "lora_te", "lora_prior_te", "te1_", "te2_")


def is_of_text_encoder(name: str) -> bool:
    """Whether a layer is a text encoder's by its name, as trainers, hosts and `dotted_names` give it."""
    return _begins_as_one(dotted_names([name])[name])


def dotted_names(names: Iterable[str]) -> dict[str, str]:
    """Names of layers, each to the dotted one by which most tools know it; those of other networks stay.

    The second of two CLIP's is told by the first: alone, it is the first one for ComfyUI's loader, and the second for
    diffusers', so that it keeps the name that is its own in every model.
    """
    listed = list(names)
    is_second = any(name.startswith("clip_l.") for name in listed)
    return {name: _dotted(name, is_second) for name in listed}


def _dotted(name: str, is_second: bool) -> str:
    layer, parameter = split_parameter(name)
    if match := _KOHYA.fullmatch(layer):
        encoder = "text_encoder_2" if match["number"] == "2" else "text_encoder"
        matrix = match["matrix"].replace("self_attn_", "self_attn.").replace("mlp_", "mlp.")
        return f"{encoder}.text_model.encoder.layers.{match['block']}.{matrix}{parameter}"
    match = _OF_A_HOST.fullmatch(layer)
    if match is None or match["encoder"] in _NO_ENCODERS or _begins_as_one(layer):
        return name
    short = f"{_CLIP.get(match['encoder'])}.{match['layer']}"
    is_known = _DIFFUSERS.fullmatch(short) and (match["encoder"] != "clip_g" or is_second)
    return f"{short}{parameter}" if is_known else f"text_encoders.{name}"


def are_numbered(names: Iterable[str]) -> bool:
    """Whether kohya's names number the first text encoder too, as where there are two; by all names of a file."""
    blocks = [name for name in names if "text_model" in name]
    told = any(name.startswith(("lora_te1_", "lora_te2_", "text_encoder_2.")) for name in blocks)
    return told and not any(name.startswith("lora_te_") for name in blocks)


def kohya_name(name: str, *, numbered: bool) -> str:
    """kohya's name for a layer under a dotted one; those that it has none for stay. For ``numbered`` see above."""
    layer, parameter = split_parameter(name)
    if match := _DIFFUSERS.fullmatch(layer):
        number = match["number"] or ("1" if numbered else "")
        return f"lora_te{number}_{match['layer'].replace('.', '_')}{parameter}"
    return _PROJECTIONS.get(layer, layer) + parameter


def _begins_as_one(name: str) -> bool:
    return name.startswith(_PREFIXES)
