"""The two documents about the code name files, modules, functions and rooms that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
GUIDES = [ROOT / "CONTRIBUTING.md", ARCHITECTURE]
FILE = r"\w\.(py|js|md|json|toml|txt)$"

MADE = (".venv/", ".run/")  # by the set-up


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def named_in(text: str) -> set[str]:
    """Paths below the root, in code: with a folder, or with the ending of a file; modules that are run count too."""
    code = re.findall(r"```.*?```|`[^`]+`", text, flags=re.DOTALL)
    words = [word.strip("`\"',;:()") for part in code for word in re.sub(r"^```\w*", "", part).split()]
    modules = [word.replace(".", "/") + ".py" for part in code for word in re.findall(r"-m (\w+\.\w+)", part)]
    paths = [w for w in words if re.fullmatch(r"[\w.<>-]+(/[\w.<> -]+)*/?", w) and ("/" in w or re.search(FILE, w))]
    return {path.partition("::")[0] for path in [*paths, *modules]}


def exists(path: str) -> bool:
    """What stands in angle brackets is for the reader to choose: something of the kind must be there."""
    return path.startswith(MADE) or any(ROOT.glob(re.sub(r"<[\w-]+>", "*", path)))


@pytest.mark.parametrize("path", GUIDES, ids=name_of)
def test_every_path_that_is_named_exists(path: Path) -> None:
    named = named_in(path.read_text(encoding="utf-8"))
    assert len(named) > 20
    assert [name for name in sorted(named) if not exists(name)] == []


def test_a_path_that_is_not_there_is_found() -> None:
    there = "`docs/`, `dev.py`, `web/texts/<language>.json`, `python -m generators.locales`"
    gone = "`nodes/gone.py`, `gone.md`, `locales/<language>/gone.json`\n```\npython -m generators.gone tests/gone/\n```"
    assert {name for name in named_in(there + gone) if not exists(name)} == {
        *("nodes/gone.py", "gone.md", "locales/<language>/gone.json", "generators/gone.py", "tests/gone/")
    }
    assert named_in(there) == {"docs/", "dev.py", "web/texts/<language>.json", "generators/locales.py"}


def is_defined(name: str, file: Path) -> bool:
    """A function or class, or a member of one; in JavaScript by how it is written."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".js":
        first, *members = name.split(".")
        patterns = [rf"^(export )?(async )?(class|const|function) {first}\b", *(rf"^ +{own}\(" for own in members)]
        return all(re.search(pattern, source, flags=re.MULTILINE) for pattern in patterns)
    body = ast.parse(source).body
    for part in name.split("."):
        found = [node for node in body if part in names_of(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def names_of(node: ast.stmt) -> set[str]:
    """What a statement defines."""
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.AnnAssign):
        return {node.target.id} if isinstance(node.target, ast.Name) else set()
    return {node.name} if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) else set()


@pytest.mark.parametrize("path", GUIDES, ids=name_of)
def test_everything_that_is_named_in_a_file_is_defined_there(path: Path) -> None:
    """Written as `name` in `path`."""
    said = re.findall(r"`([\w.]+)` in `([\w./]+\.(?:py|js))`", path.read_text(encoding="utf-8"))
    assert said
    assert [f"{name} in {file}" for name, file in said if not is_defined(name, ROOT / file)] == []


@pytest.mark.parametrize(
    ("name", "file", "defined"),
    [
        ("Term.delta_weight", "qrlora_core/term.py", True),
        ("Term.gone", "qrlora_core/term.py", False),
        ("delta_weight", "qrlora_core/adapter.py", False),
        ("PRESETS", "qrlora_core/train/targets.py", True),
        ("Row.set", "web/desk/row.js", True),
        ("Row.gone", "web/desk/row.js", False),
        ("setScale", "web/merge/mix.js", True),
        ("LANGUAGES", "web/lib/texts.js", True),
        ("gone", "web/merge/mix.js", False),
    ],
)
def test_what_is_defined_is_told_from_what_is_not(name: str, file: str, defined: bool) -> None:
    assert is_defined(name, ROOT / file) is defined


def test_the_architecture_names_every_room() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    made = {"build", "dist", "node_modules", "__pycache__"}
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in made]
    rooms = {name_of(path) for path in folders if not path.name.startswith(".") and path.suffix != ".egg-info"}
    rooms |= {name_of(path.parent) for room in ("nodes", "qrlora_core") for path in (ROOT / room).rglob("*.py")}
    assert [room for room in sorted(rooms) if f"`{room}/`" not in text] == []
