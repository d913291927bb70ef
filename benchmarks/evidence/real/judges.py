"""Judges: an embedding for contents and one for styles, and which of the given pictures another one is most like.

A picture keeps its content when, of all content pictures given, the most similar one is its own, by the cosine of the
embeddings; likewise its style among the style pictures. Nothing is set by hand: no threshold, and by chance one of n
contents is kept by one picture in n. A judge is named by what it sees with: `clip` for both, `dino+csd` for contents by
DINO and styles by CSD.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from benchmarks.evidence.real.embeddings import KINDS, Embedding, Kind, colours_and_edges, edges, encoder, weights_of
from benchmarks.evidence.real.errors import InputError
from benchmarks.evidence.statistics import Array

STAND_IN = "stand-in"  # no underscore: the columns of results have one behind the judge's name
NO_WEIGHTS = "edges and colours, a stand-in that needs no weights"
USUAL = ("clip", "dino+csd")  # taken where their weights are installed and nobody is named
COUNTS = ("content", "style", "both")
ROLES = ("content", "style")


@dataclass(frozen=True)
class Judge:
    """What sees contents, and what sees styles.

    Attributes:
        seen: role to embedding. files: where their weights are, for people.
    """

    name: str
    seen: Mapping[str, Embedding]
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What a judge saw in some pictures.

    Attributes:
        kept: role to whether each picture's nearest is its own. similarity: role to the cosine with its own.
    """

    kept: dict[str, Array] = field(default_factory=dict)
    similarity: dict[str, Array] = field(default_factory=dict)

    def counts(self) -> list[int]:
        """Of `COUNTS`, how many pictures."""
        content, style = (self.kept[role] for role in ROLES)
        return [int(kept.sum()) for kept in (content, style, content * style)]

    def similarities(self) -> list[float]:
        """Mean cosine by role, to four places."""
        return [round(float(self.similarity[role].mean()), 4) for role in ROLES]


class Bench:
    """The judges before the content and style pictures that they compare with, each (n, height, width, 3) of 0 to 1."""

    def __init__(self, judges: Sequence[Judge], given: Mapping[str, Tensor]) -> None:
        self.judges = tuple(judges)
        self._known = {judge.name: {role: _unit(judge.seen[role](given[role])) for role in ROLES} for judge in judges}

    def look(self, pictures: Tensor, content: int, style: int) -> dict[str, Seen]:
        """What each judge sees in pictures of one pair.

        Args:
            pictures: (n, height, width, 3) of 0 to 1. content, style: places of the pair's own among the given ones.
        """
        return {judge.name: self._look(judge, pictures, {"content": content, "style": style}) for judge in self.judges}

    def _look(self, judge: Judge, pictures: Tensor, own: Mapping[str, int]) -> Seen:
        seen = Seen()
        for role, place in own.items():
            cosines = (_unit(judge.seen[role](pictures)) @ self._known[judge.name][role].T).double().numpy()
            seen.kept[role] = (cosines.argmax(1) == place).astype(np.float64)
            seen.similarity[role] = cosines[:, place]
        return seen


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings, dim=1)


def judges_named(names: Sequence[str], files: Mapping[str, str], say: Callable[[str], None]) -> list[Judge]:
    """Judges by name; without names, those of `USUAL` that are installed.

    Args:
        files: kind of weights to its file, where the host's folder has it under another name.
        say: told why one of the usual judges is not taken.

    Raises:
        InputError: an unknown judge, one whose weights are not there, or none at all.
    """
    if unknown := [kind for kind in files if kind not in KINDS]:
        raise InputError(f"--judge-file {unknown[0]}: expected one of {', '.join(KINDS)} before the =.")
    maker = _Maker(files)
    return [maker.judge(name) for name in dict.fromkeys(names)] if names else maker.installed(say)


class _Maker:
    """Makes judges, each network once."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._encoders: dict[str, Embedding] = {}

    def installed(self, say: Callable[[str], None]) -> list[Judge]:
        there, reasons = list[str](), list[str]()
        for name in USUAL:
            try:
                self._paths(kinds_of(name))
                there.append(name)
            except InputError as error:
                reasons.append(str(error))
        if not there:
            raise InputError("\n".join(["no judge is installed, and none was named with --judge.", *reasons]))
        for reason in reasons:
            say(f"not taken: {reason}")
        return [self.judge(name) for name in there]

    def judge(self, name: str) -> Judge:
        if name == STAND_IN:
            return Judge(name, {"content": edges, "style": colours_and_edges}, (NO_WEIGHTS,))
        kinds = kinds_of(name)
        paths = self._paths(kinds)  # all are looked for before any is read
        seen = {role: self._encoder(kind, paths[kind.name]) for role, kind in kinds.items()}
        return Judge(name, seen, tuple(path.name for path in paths.values()))

    def _paths(self, kinds: Mapping[str, Kind]) -> dict[str, Path]:
        return {kind.name: weights_of(kind, self._files.get(kind.name, "")) for kind in kinds.values()}

    def _encoder(self, kind: Kind, path: Path) -> Embedding:
        if kind.name not in self._encoders:
            self._encoders[kind.name] = encoder(kind, path)
        return self._encoders[kind.name]


def kinds_of(name: str) -> dict[str, Kind]:
    """Role to the weights that a judge of this name sees with.

    Raises:
        InputError: no such judge.
    """
    parts = name.split("+") if "+" in name else [name, name]
    if len(parts) != len(ROLES) or not set(parts) <= set(KINDS):
        raise InputError(f"--judge {name}: expected {STAND_IN}, clip, or two of {', '.join(KINDS)} as in dino+csd.")
    kinds = {role: KINDS[part] for role, part in zip(ROLES, parts, strict=True)}
    for role, kind in kinds.items():
        if role not in kind.sees:
            raise InputError(
                f"--judge {name}: {kind.name} sees {' and '.join(kind.sees)}, not {role}. Name one for contents and "
                "one for styles, as in dino+csd, dino+clip or clip+csd."
            )
    return kinds
