"""The names of a trainer's layers, and the keys in its files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_CHOICE = re.compile(r"\{([^{}]*)\}")
_ROWS = re.compile(r"^(?P<module>.+)\[(?P<first>\d+)(:(?P<end>\d+))?/(?P<parts>\d+)\]$")
_SWAPPED = "[swapped]"


@dataclass(frozen=True)
class Layout:
    """How one trainer calls the layers of one kind of model.

    Args:
        trainer: its name, and where it matters the mode or the age of the format.
        models: small models of the registry that it fits.
        layers: dotted names as the trainer's own network has them; ``{0..1}`` counts blocks, ``{q,k,v}`` chooses.
            All layers that the trainer adapts by default.
        source: where that was read: repository and path.
        prefix: what stands before each name in the file, with its dot or underscore.
        flat: whether the dots within a name are underscores in the file.
        down, up: what follows the name; down is (rank, in), up is (out, rank).
        alpha: what follows the name for alpha, empty where the file has none.
        host: for names that ComfyUI's own tables lack, what they mean: a pattern as in `layers` to the dotted name of
            the host's module (below ``diffusion_model``), with the same choices in the same order; ``module[i/n]`` is
            the i-th of n equal parts of its rows, ``module[i:j/n]`` those from i to before j, and
            ``module[swapped]`` all, the second half first. What only some versions
            of ComfyUI lack stands here as well.
        alike: under which name ComfyUI's tables have a layer that they lack under the trainer's: ``{name}`` stands for
            the dotted one, ``{flat}`` for that with underscores. Empty where they have none.
        unknown: patterns of names that nobody loads but the trainer itself, and why.
    """

    trainer: str
    models: tuple[str, ...]
    layers: tuple[str, ...]
    source: str
    prefix: str = ""
    flat: bool = False
    down: str = ".lora_A.weight"
    up: str = ".lora_B.weight"
    alpha: str = ""
    host: Mapping[str, str] = field(default_factory=dict)
    alike: str = ""
    unknown: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Of all layers, dotted, as the trainer's network has them."""
        return [name for pattern in self.layers for name in expanded(pattern)]

    def path(self, name: str) -> str:
        """A layer's name as it stands in the file."""
        return self.prefix + (name.replace(".", "_") if self.flat else name)

    def alias(self, name: str) -> str:
        """A layer's other name, which ComfyUI's tables may have."""
        return self.alike.format(name=name, flat=name.replace(".", "_"))

    def meant(self) -> dict[str, str]:
        """Name to the host's module, of the layers that ComfyUI's own tables lack."""
        pairs = (zip(expanded(own), expanded(host), strict=True) for own, host in self.host.items())
        return {own: host for pair in pairs for own, host in pair}

    def strange(self) -> set[str]:
        """Names that nobody loads."""
        return {name for pattern in self.unknown for name in expanded(pattern)}


@dataclass(frozen=True)
class Rows:
    """A module, or those of its rows from `first` to before `end` when they are cut into equal `parts`."""

    module: str
    first: int = 0
    end: int = 1
    parts: int = 1
    swapped: bool = False

    @classmethod
    def of(cls, text: str) -> Rows:
        """Read ``module``, ``module[i/n]``, ``module[i:j/n]`` or ``module[swapped]``."""
        if text.endswith(_SWAPPED):
            return cls(text.removesuffix(_SWAPPED), swapped=True)
        found = _ROWS.match(text)
        if found is None:
            return cls(text)
        first = int(found["first"])
        return cls(found["module"], first, int(found["end"] or first + 1), int(found["parts"]))

    def within(self, length: int) -> tuple[int, int]:
        """(start, length) of the rows of a weight that has so many."""
        if length % self.parts:
            raise ValueError(f"{self.module} has {length} rows, which are no {self.parts} equal parts")
        part = length // self.parts
        return self.first * part, (self.end - self.first) * part


def expanded(pattern: str) -> list[str]:
    """All names that a pattern stands for: ``blocks.{0..1}.{q,k}`` are four."""
    found = _CHOICE.search(pattern)
    if found is None:
        return [pattern]
    start, end = pattern[: found.start()], pattern[found.end() :]
    return [start + choice + rest for choice in _choices(found[1]) for rest in expanded(end)]


def _choices(text: str) -> Iterator[str]:
    first, dots, last = text.partition("..")
    yield from (str(number) for number in range(int(first), int(last) + 1)) if dots else text.split(",")
