"""One adapter in two files, for a model in two parts of which each sees its own noise (Wan 2.2).

The two are told apart by a word in their names, as trainers and those who share them write it: ``cat_high_noise`` and
``cat_low_noise``, ``HighNoise/cat`` and ``LowNoise/cat``, ``cat-HN`` and ``cat-LN``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ....qrlora_core import AdapterFileError
from .folders import adapter_path

_OPPOSITE = {"high": "low", "low": "high", "hn": "ln", "ln": "hn"}
_NOISE = {"high": "high", "hn": "high", "low": "low", "ln": "low"}
# A word by itself, or before "noise"; within a word where a capital begins it.
_WORD = re.compile(
    r"((?<![A-Za-z])(?:high|low|hn|ln|High|Low|HIGH|LOW|HN|LN)(?=[Nn]oise|NOISE|[^A-Za-z])"
    r"|(?<=[a-z0-9])(?:High|Low|HN|LN)(?=[^a-z]))"
)


@dataclass(frozen=True)
class Half:
    """One of two files.

    Args:
        noise: ``high`` or ``low``: what the part of the model sees that it is for.
        other: name of the other file, as `adapter_names` has it.
    """

    noise: str
    other: str

    def describe(self) -> str:
        """A line for the user."""
        return (
            f"one half of a pair, for the model for {self.noise} noise; {self.other} is for the model for "
            f"{_OPPOSITE[self.noise]} noise, with a QR-LoRA Merge of its own"
        )


def half_of(name: str) -> Half | None:
    """Which half of a pair a file is, where its other half lies in the same folders; None for any other file.

    Args:
        name: as `adapter_names` has it.
    """
    label, _, rest = name.replace("\\", "/").partition("/")
    words = {found[1].lower() for found in _WORD.finditer(rest)}
    if len({_NOISE[word] for word in words}) != 1:  # none, or both
        return None
    other = f"{label}/{_WORD.sub(lambda found: _in_the_case_of(found[1]), rest)}"
    try:
        adapter_path(other)
    except AdapterFileError:
        return None
    return Half(_NOISE[words.pop()], other)


def _in_the_case_of(word: str) -> str:
    opposite = _OPPOSITE[word.lower()]
    if word.isupper():
        return opposite.upper()
    return opposite.capitalize() if word[0].isupper() else opposite
