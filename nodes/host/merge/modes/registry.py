"""All merge modes, in the order in which nodes offer them; the first is the default."""

from __future__ import annotations

from .....qrlora_core import QRLoRAError
from .add import ADD
from .mode import Mode
from .null_space import NULL_SPACE
from .ties import TIES

MODES: list[Mode] = [ADD, NULL_SPACE, TIES]


def mode_named(name: str) -> Mode:
    """The mode of this name.

    Raises:
        QRLoRAError: there is none.
    """
    for mode in MODES:
        if mode.name == name:
            return mode
    raise QRLoRAError(f"mode: expected one of {', '.join(mode.name for mode in MODES)}, found {name!r}.")
