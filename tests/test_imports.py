"""The rooms of the pack: who may import what. Read from the source with `ast`, so that nothing has to be installed."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACK = [ROOT / "__init__.py", *sorted((ROOT / "nodes").rglob("*.py")), *sorted((ROOT / "qrlora_core").rglob("*.py"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in PACK]

TENSORS = {"torch", "numpy", "einops", "safetensors"}
HOST = {"comfy", "comfy_extras", "comfy_execution", "folder_paths", "latent_preview", "server", "aiohttp"}
# Imported where they are used, with a message where they are not there.
OPTIONAL = {"prodigyopt", "bitsandbytes"}
OPTIONAL_FORMATS = {"gguf"}  # whoever has such a model has it

# Room: outside packages, and rooms of our own, that a file in it may import.
ROOMS = {
    "root": (set(), {"nodes"}),
    "core": (TENSORS | OPTIONAL, {"core"}),
    "host": (TENSORS | HOST | {"comfy_api"} | OPTIONAL_FORMATS, {"host", "core"}),
    "sockets": ({"comfy_api"}, set()),
    "pictures": (TENSORS | {"PIL"}, {"pictures", "core"}),
    "nodes": ({"comfy_api"}, {"nodes", "sockets", "pictures", "host", "core"}),
}
# No network, no other programs, no pickles, no imports by a computed name.
NEVER_IMPORTED = {
    "pickle",
    "dill",
    "joblib",
    "urllib",
    "http",
    "socket",
    "ssl",
    "ftplib",
    "subprocess",
    "importlib",
    "pip",
}
NEVER_CALLED = {"print", "__import__", "exec", "eval"}
NEVER_USED = {"sys.path", "sys.modules", "torch.load", "torch.save", "torch.hub"}


def room_of(path: str) -> str:
    """The room of a file or module, given by its path below the root: ``nodes/host/files.py`` is in ``host``."""
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    if parts[0] == "qrlora_core":
        return "core"
    if parts[0] != "nodes":
        return "root"
    return parts[1] if parts[1:2] in (["host"], ["sockets"], ["pictures"]) else "nodes"


def resolve(name: str, node: ast.ImportFrom) -> list[str]:
    """Paths below the root of what a relative import takes; ``..`` where it leaves the pack."""
    folder = name.split("/")[:-1]
    if node.level - 1 > len(folder):
        return [".."]
    base = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
    base = [part for part in base if part]
    # `from . import x` takes a sibling, `from .x import y` the module x.
    return ["/".join(base)] if node.module else ["/".join([*base, alias.name]) for alias in node.names]


def imports(name: str, tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(top-level package, "") of every outside import, ("", path) of every relative one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0], ""
        elif isinstance(node, ast.ImportFrom):
            yield from (("", path) for path in resolve(name, node))


def dotted(node: ast.AST) -> str:
    """``sys.path.insert`` of the expression that reads so."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults(name: str, source: str) -> list[str]:
    """What in this file breaks the table."""
    tree, room = ast.parse(source), room_of(name)
    outside, inside = ROOMS[room]
    found = []
    for package, path in imports(name, tree):
        if path:
            if room_of(path) not in inside or path == "..":
                found.append(f"{room} imports {path}")
        elif package in NEVER_IMPORTED or package not in outside | set(sys.stdlib_module_names):
            found.append(f"{room} imports {package}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) in NEVER_CALLED:
            found.append(f"calls {dotted(node.func)}")
        if isinstance(node, ast.Attribute) and dotted(node) in NEVER_USED:
            found.append(f"uses {dotted(node)}")
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            taken = {f"{node.module}.{alias.name}" for alias in node.names}
            found += [f"uses {used}" for used in sorted(taken & NEVER_USED)]
    return found


def public(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Public functions, classes and their public methods."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node.name, node
            for member in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(member, kinds) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", member


@pytest.mark.parametrize("name", NAMES)
def test_a_file_imports_what_its_room_may(name):
    assert faults(name, (ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_module_says_what_it_is(name):
    assert ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", [name for name in NAMES if room_of(name) == "core"])
def test_everything_public_in_core_has_a_docstring(name):
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    assert [title for title, node in public(tree) if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("name", [name for name in NAMES if room_of(name) == "core"])
def test_core_does_not_know_how_a_host_applies_it(name):
    assert not re.search(r"patch|comfy(?!ui)", (ROOT / name).read_text(encoding="utf-8"), re.IGNORECASE)


def test_all_rooms_were_walked():
    assert {room_of(name) for name in NAMES} == set(ROOMS)


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("__init__.py", "from .qrlora_core import merge", "root imports qrlora_core"),
        ("__init__.py", "import torch", "root imports torch"),
        ("qrlora_core/merge.py", "import comfy.utils", "core imports comfy"),
        ("qrlora_core/merge.py", "from comfy_api.latest import io", "core imports comfy_api"),
        ("qrlora_core/merge.py", "import scipy.linalg", "core imports scipy"),
        ("qrlora_core/merge.py", "from ..nodes import report", "core imports nodes"),
        ("qrlora_core/merge.py", "from ... import other_pack", "core imports .."),
        ("qrlora_core/merge.py", "from qrlora_core.adapter import Term", "core imports qrlora_core"),
        ("qrlora_core/merge.py", "def late():\n    import folder_paths", "core imports folder_paths"),
        ("nodes/merge.py", "import comfy.sd", "nodes imports comfy"),
        ("nodes/merge.py", "import folder_paths", "nodes imports folder_paths"),
        ("nodes/merge.py", "import torch", "nodes imports torch"),
        ("nodes/merge.py", "import nodes", "nodes imports nodes"),
        ("nodes/sockets.py", "from .host import files", "sockets imports nodes/host"),
        ("nodes/host/files.py", "from ..merge import Merge", "host imports nodes/merge"),
        ("nodes/host/files.py", "from .. import merge", "host imports nodes/merge"),
        ("nodes/host/files.py", "from ... import dev", "host imports dev"),
        ("nodes/host/files.py", "import requests", "host imports requests"),
        ("nodes/host/files.py", "import urllib.request", "host imports urllib"),
        ("nodes/host/files.py", "from comfyui_qr_lora.nodes import merge", "host imports comfyui_qr_lora"),
        ("nodes/host/files.py", "import pickle", "host imports pickle"),
        ("nodes/host/files.py", "import sys\nsys.path.insert(0, '.')", "uses sys.path"),
        ("nodes/host/files.py", "from sys import path", "uses sys.path"),
        ("nodes/host/files.py", "x = torch.load(f)", "uses torch.load"),
        ("nodes/host/files.py", "from torch import load", "uses torch.load"),
        ("nodes/host/files.py", "print('x')", "calls print"),
        ("nodes/host/files.py", "__import__('comfy')", "calls __import__"),
    ],
)
def test_the_walk_finds_each_fault(name, source, fault):
    assert fault in faults(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("__init__.py", "from .nodes import comfy_entrypoint"),
        (
            "qrlora_core/merge.py",
            "import math\nimport torch.nn.functional as F\nfrom . import adapter\nfrom .adapter import Term",
        ),
        ("nodes/__init__.py", "from comfy_api.latest import io\nfrom .host.files import x\nfrom .merge import Merge"),
        ("nodes/merge.py", "from ..qrlora_core import merge\nfrom .sockets import CATEGORY\nfrom .host import files"),
        ("nodes/host/__init__.py", "from .files import x"),
        (
            "nodes/host/files.py",
            "import folder_paths\nimport torch\nfrom ...qrlora_core.errors import QRLoRAError\nfrom . import weights",
        ),
    ],
)
def test_the_walk_lets_pass_what_is_right(name, source):
    assert faults(name, source) == []
