"""What everybody else needs to know of a merge mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .....qrlora_core import QRLoRA

# Values of a mode's parameters by name; of one that names an adapter, its position.
Values = Mapping[str, float]


@dataclass(frozen=True)
class Parameter:
    """A number that a mode asks for: a widget of every node that merges.

    Args:
        text: for the user, after the name of the mode.
        names_adapter: whether it is the number of a slot, from 1; ``most`` is then the number of slots.
    """

    name: str
    text: str
    default: float
    least: float
    most: float = float("inf")
    step: float = 1.0
    names_adapter: bool = False


def _no_words(values: Values, labels: Sequence[str]) -> str:
    return ""


@dataclass(frozen=True)
class Mode:
    """A way to merge: adapters are changed first by what the others do, and then summed.

    Args:
        name: its value in a workflow, never changed once released.
        text: one or two sentences for the user.
        equation: what it does to the adapters, as the help page has it.
        parameters: what it asks for, besides those of the other modes.
        changed: gives the adapters of that sum from those that are on, their scales and the values of the parameters;
            layers are matrices alone, one name for one set of rows. None changes nothing.
        told: the settings in words, from the values and the adapters' labels; empty where there is nothing to tell.
    """

    name: str
    text: str
    equation: str
    parameters: tuple[Parameter, ...] = ()
    changed: Callable[[Sequence[QRLoRA], Sequence[float], Values], Sequence[QRLoRA]] | None = None
    told: Callable[[Values, Sequence[str]], str] = _no_words
