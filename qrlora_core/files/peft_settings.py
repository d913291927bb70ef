"""What diffusers writes of PEFT's settings into a LoRA file, whose tensors then leave alpha out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from ..metadata import json_object
from .safetensors_io import shown

PEFT_SETTINGS = "lora_adapter_metadata"  # where diffusers writes r and lora_alpha
_NAME = re.compile(r"[\w.-]+")
# The parts of a pipeline, which stand before the names of settings and of layers; a network saved alone has none.
_PART = re.compile(r"(?:transformer|unet|text_encoder)(?:_\d)?|prior|decoder")


class PeftSettings:
    """``lora_alpha`` by the part of a pipeline, with exceptions by layer, and ``use_rslora``.

    PEFT's factor is ``alpha / r``, and ``alpha / sqrt(r)`` in rs-LoRA (Kalajdzievski, arXiv 2312.03732). ``r`` and
    ``rank_pattern`` are not asked: a layer's rank is that of its tensors.
    """

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._told = json_object(metadata, PEFT_SETTINGS)
        self._factors: list[float] = []
        self._unread: dict[str, None] = {}  # in order

    def alpha_of(self, stem: str, rank: int) -> float:
        """The alpha of a layer; NaN, which stands for the rank, where nothing is told."""
        prefix, name = self._split(stem)
        alpha = self._number(self._pattern(prefix, name, self._told.get(f"{prefix}lora_alpha")))
        if self._told.get(f"{prefix}use_rslora") is True:
            alpha *= math.sqrt(rank)
        self._factors.append(1.0 if math.isnan(alpha) or not rank else alpha / rank)
        return alpha

    def notes(self) -> tuple[str, ...]:
        """What one must know of the layers that were asked for."""
        scaled = [factor for factor in self._factors if factor != 1]
        notes = []
        if scaled:
            least, most = f"{min(scaled):.4g}", f"{max(scaled):.4g}"
            factors = least if least == most else f"{least} to {most}"
            notes.append(
                f"PEFT's settings in the file scale {len(scaled)} of {len(self._factors)} layers by {factors}, as PEFT "
                "and diffusers do. A stock LoRA loader leaves them unread: there these layers are scaled by 1"
            )
        if self._unread:
            patterns = ", ".join(f"'{shown(pattern)}'" for pattern in list(self._unread)[:3])
            notes.append(
                f"the regular expressions in its alpha_pattern are not followed ({patterns}): the layers that they "
                "mean were taken to have the alpha of all others"
            )
        return tuple(notes)

    def _split(self, stem: str) -> tuple[str, str]:
        """(what stands before the settings that hold for a layer, its name in them)."""
        part, _, name = stem.partition(".")
        is_part = _PART.fullmatch(part) or any(key.startswith(f"{part}.") for key in self._told)
        return (f"{part}.", name) if is_part else ("", stem)

    def _pattern(self, prefix: str, name: str, alpha: object) -> object:
        """PEFT takes the first pattern ``(.*\\.)?(pattern)$`` that matches; here patterns are names alone."""
        patterns = self._told.get(f"{prefix}alpha_pattern")
        for pattern, own in patterns.items() if isinstance(patterns, dict) else ():
            plain_name = pattern.replace("\\.", ".").removeprefix("^").removesuffix("$")
            if not _NAME.fullmatch(plain_name):
                self._unread[pattern] = None
            elif name == plain_name or (not pattern.startswith("^") and name.endswith(f".{plain_name}")):
                return own
        return alpha

    @staticmethod
    def _number(told: object) -> float:
        if isinstance(told, bool) or not isinstance(told, int | float):
            return math.nan
        try:
            return float(told) if math.isfinite(told) else math.nan
        except OverflowError:  # JSON knows whole numbers of any length
            return math.nan
