"""What of a file is not in the adapter. It is named, and never a reason to refuse the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import AdapterFileError, Reason
from .safetensors_io import shown

# A file is refused where less than one part in so many serves.
LEAST_SHARE = 3
_SHOWN_NAMES, _SHOWN_GROUPS = 3, 6

# From names of layers of other kinds, to what another program makes of them, in words.
Elsewhere = Callable[[Sequence[str]], Mapping[str, str]]


@dataclass(frozen=True)
class LostLayer:
    """A layer that is left out.

    Args:
        why: in words, without its name.
        reason: see `Reason`.
        of_all: what is to be said where the whole file is refused for such layers; by default ``why``, with the name.
        is_vital: whether the rest of the file is of no use without it.
    """

    why: str
    reason: Reason | None = None
    of_all: str = ""
    is_vital: bool = False


@dataclass
class LeftOut:
    """What the reader of a file leaves out: it is filled while reading.

    Attributes:
        layers: by name, as the file has it.
        tensors: of no layer, or of one that serves without them.
        embeddings: how many tensors are bundled embeddings, which are loaded elsewhere.
    """

    layers: dict[str, LostLayer] = field(default_factory=dict)
    tensors: list[str] = field(default_factory=list)
    embeddings: int = 0

    def text(self, elsewhere: Elsewhere | None = None) -> str:
        """All of it, on one line; empty where nothing is left out."""
        others = [name for name, lost in self.layers.items() if lost.reason is Reason.OTHER_KIND]
        more = elsewhere(others) if elsewhere is not None and others else {}
        groups: dict[str, list[str]] = {}
        for name, lost in self.layers.items():
            why = lost.why.rstrip(".") + (f"; {more[name]}" if name in more else "")
            groups.setdefault(why, []).append(name)
        told = [_counted(names, "layer") + f" ({why})" for why, names in groups.items()]
        told += [f"{_counted(self.tensors, 'tensor')} (of no layer that is known)"] if self.tensors else []
        hidden = len(told) - _SHOWN_GROUPS
        told = told[:_SHOWN_GROUPS] + ([f"and {hidden} more for other reasons"] if hidden > 0 else [])
        told += [f"{self.embeddings} tensors of bundled embeddings"] if self.embeddings else []
        return "; ".join(told)

    def refusal(self, served: Collection[str]) -> tuple[str, Reason | None] | None:
        """Why the file is refused, and its reason: hardly anything of it serves, or not what matters; or None.

        Args:
            served: names of the layers that serve. Tensors beside one of these do not count as lost.
        """
        if vital := next((found for found in self.layers.values() if found.is_vital), None):
            return vital.of_all or vital.why, vital.reason
        lost = len(self.layers) + sum(not _is_beside(key, served) for key in self.tensors)
        if served and LEAST_SHARE * len(served) >= len(served) + lost:
            return None
        others = (item for item in self.layers.items() if item[1].reason is Reason.OTHER_KIND)
        name, first = next(others, next(iter(self.layers.items()), ("", None)))
        if first is not None and first.of_all:
            return first.of_all, first.reason
        if served:
            return f"only {len(served)} of {len(served) + lost} parts of it can be read; left out: {self.text()}.", None
        if first is None and self.embeddings and not self.tensors:
            return "it holds embeddings alone; put it among the embeddings and name it in the prompt.", None
        if first is None:
            return f"no layer of an adapter is in it; {self.text() or 'it is empty'}.", None
        return f"layer {name}: {first.why}", first.reason

    def require_rest(self, source: Path, served: Collection[str]) -> None:
        """Refuse a file of which hardly anything serves.

        Raises:
            AdapterFileError: names the file, and the first layer that does not serve.
        """
        if refused := self.refusal(served):
            raise AdapterFileError(f"{source.name}: {refused[0]}", refused[1])


def _counted(names: Sequence[str], what: str) -> str:
    """``2 layers: a, b``"""
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    listed = ", ".join(map(shown, names[:_SHOWN_NAMES])) + more
    return f"{what} {listed}" if len(names) == 1 else f"{len(names)} {what}s: {listed}"


def _is_beside(key: str, served: Collection[str]) -> bool:
    """Whether a tensor's name goes on from that of a layer that serves."""
    ends = (place for place, letter in enumerate(key) if letter == ".")
    return any(key[:end] in served for end in ends)
