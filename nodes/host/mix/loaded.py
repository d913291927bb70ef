"""The adapters of a mix, loaded once for a model and kept while it lives: a new scale runs the node anew."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakKeyDictionary

from ....qrlora_core import QRLoRA, parse_rules, scale_blocks
from ..files.load import load
from ..model.host_types import Patcher
from ..model.key_map import host_names

_MOST_NODES = 8
# Path, size, time in nanoseconds, and block rules.
_Key = tuple[Path, int, int, str]


class Loaded:
    """Adapters by file and block rules, of the last mix of each of a few nodes on each model."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[object, OrderedDict[str, dict[_Key, QRLoRA]]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, patcher: Patcher, node_id: str, silent: Iterable[tuple[Path, str]] = ()) -> OneMix:
        """What a node has loaded on this model.

        Args:
            silent: files and rules of rows that are not heard now: what of them was loaded stays.
        """
        with self._lock:
            nodes = self._kept.setdefault(patcher.model, OrderedDict())
            before = nodes.pop(node_id, {})
            keys = {key for path, rules in silent if (key := _key(path, rules)) is not None}
            nodes[node_id] = {key: adapter for key, adapter in before.items() if key in keys}
            while len(nodes) > _MOST_NODES:
                nodes.popitem(last=False)
            return OneMix(patcher, before, nodes[node_id])


class OneMix:
    """The adapters of one mix."""

    def __init__(self, patcher: Patcher, before: dict[_Key, QRLoRA], kept: dict[_Key, QRLoRA]) -> None:
        self._patcher, self._before, self._kept = patcher, before, kept

    def load(self, path: Path, rules: str) -> QRLoRA:
        """The adapter in a file with block rules on it, the same object while the file stays as it is.

        Raises:
            AdapterFileError: it cannot be loaded. TargetError: a rule that names no layer.
        """
        key = _key(path, rules)
        adapter = self._before.get(key) if key is not None else None
        if adapter is None:
            adapter = load(path, patcher=self._patcher)
            parsed = parse_rules(rules)
            if parsed:
                adapter = scale_blocks(adapter, parsed, host_names(self._patcher, adapter))
        if key is not None:
            self._before[key] = self._kept[key] = adapter
        return adapter


def _key(path: Path, rules: str) -> _Key | None:
    try:
        found = path.stat()
    except OSError:  # whoever loads it says so
        return None
    return path, found.st_size, found.st_mtime_ns, rules
