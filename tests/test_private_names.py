"""Tests and benchmarks hold to what is public: what they need has a public name, or is seen from outside.

Private are names with one leading underscore that the pack defines, so those of torch and the host are not meant.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACK = ("cli", "dev.py", "devtools", "generators", "nodes", "playground", "qrlora_core")
USERS = ("benchmarks", "tests")


def sources(room: str) -> dict[str, str]:
    """Each Python file of a room, with its text; a room may be a file."""
    paths = [ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def defined(tree: ast.AST) -> set[str]:
    """The private names that are defined or assigned here, members too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return set(filter(is_private, found))


def members(tree: ast.AST) -> dict[str, set[str]]:
    """The private members of each class."""
    return {node.name: defined(node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def reached(source: str, private: Collection[str], classes: Mapping[str, Collection[str]]) -> list[str]:
    """Where a file names something private of the pack, as line and name.

    Args:
        private: the names. classes: those of each class, which a class that is derived from it may not replace.
    """
    tree = ast.parse(source)
    own, found = defined(tree), list[tuple[int, str]]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            on_itself = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found += [(node.lineno, node.attr)] if not on_itself or node.attr not in own else []
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # for `setattr`, `patch` and the like
            found += [(node.lineno, part) for part in node.value.split(".")]
        elif isinstance(node, ast.ClassDef):
            inherited = {name for base in node.bases for name in classes.get(ast.unparse(base).split(".")[-1], ())}
            found += [(node.lineno, name) for name in defined(node) & inherited]
    return [f"line {line}: {name}" for line, name in sorted(found) if name in private]


@pytest.mark.parametrize("room", USERS)
def test_nothing_reaches_into_private_names(room: str) -> None:
    private: set[str] = set()
    classes: dict[str, set[str]] = {}
    for tree in (ast.parse(source) for room in PACK for source in sources(room).values()):
        private |= defined(tree)
        for name, own in members(tree).items():
            classes.setdefault(name, set()).update(own)
    found = {name: reached(source, private, classes) for name, source in sources(room).items() if name != OWN}
    assert {name: lines for name, lines in found.items() if lines} == {}


OWN = Path(__file__).relative_to(ROOT).as_posix()  # has the faults below
MODULE = """
class Running:
    def __init__(self):
        self._kept = 0
    def _loss(self): pass
_LIMIT: int = 3
def _masks(): pass
"""


def test_all_that_is_private_is_found() -> None:
    assert defined(ast.parse(MODULE)) == {"_kept", "_loss", "_LIMIT", "_masks"}
    assert all(map(sources, (*PACK, *USERS)))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("loop._masks(batch)", "_masks"),
        ("running._kept = 1", "_kept"),
        ("from ..loop import _masks as masks", "_masks"),
        ("monkeypatch.setattr(loop, '_LIMIT', 1)", "_LIMIT"),
        ("mock.patch('pack.loop.Running._loss')", "_loss"),
        ("getattr(running, '_kept')", "_kept"),
        ("class Test(Running):\n    def size(self):\n        return self._kept", "_kept"),
        ("class Test(loop.Running):\n    def _loss(self): pass", "_loss"),
    ],
)
def test_each_fault_is_found(source: str, fault: str) -> None:
    tree = ast.parse(MODULE)
    assert [line.split(": ")[1] for line in reached(source, defined(tree), members(tree))] == [fault]


@pytest.mark.parametrize(
    "source",
    [
        "tensor._version, module._forward_hooks, pair._replace(a=1)",  # of others
        "class Mine:\n    def __init__(self):\n        self._kept = 1\n    def _loss(self):\n        return self._kept",
        "class Mine(Running):\n    def _other(self): pass",
        "def _masks(): pass\n_masks()",
        "running.__dict__, [_ for _ in ()], 'the _kept part'",
    ],
)
def test_what_is_right_passes(source: str) -> None:
    tree = ast.parse(MODULE)
    assert reached(source, defined(tree), members(tree)) == []
