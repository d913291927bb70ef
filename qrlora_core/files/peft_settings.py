"""What diffusers writes of PEFT's settings into a LoRA file, whose tensors then leave alpha out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from ..errors import AdapterError
from ..metadata import json_object
from .safetensors_io import shown

PEFT_SETTINGS = "lora_adapter_metadata"  # where diffusers writes r and lora_alpha
_NAME = re.compile(r"[\w.-]+")


class PeftSettings:
    """``lora_alpha`` by prefix, with exceptions by layer."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._told = json_object(metadata, PEFT_SETTINGS)

    def alpha_of(self, stem: str, rank: int) -> float:
        """The alpha of a layer; NaN, which stands for the rank, where nothing is told."""
        prefix, _, name = stem.partition(".")
        alpha = self._number(self._pattern(prefix, name, self._told.get(f"{prefix}.lora_alpha")))
        return alpha * math.sqrt(rank) if self._told.get(f"{prefix}.use_rslora") is True else alpha

    def _pattern(self, prefix: str, name: str, alpha: object) -> object:
        """PEFT takes the first pattern ``(.*\\.)?(pattern)$`` that matches; here patterns are names alone."""
        patterns = self._told.get(f"{prefix}.alpha_pattern")
        for pattern, own in patterns.items() if isinstance(patterns, dict) else ():
            plain_name = pattern.replace("\\.", ".").removeprefix("^").removesuffix("$")
            if not _NAME.fullmatch(plain_name):
                raise AdapterError(
                    f"expected the alpha_pattern of its settings to name layers, found {shown(pattern)!r}. Its alphas "
                    "cannot be told from that; save it with alphas per layer, as kohya's format does."
                )
            if name == plain_name or (not pattern.startswith("^") and name.endswith(f".{plain_name}")):
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
