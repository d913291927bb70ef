"""The rooms of the pack: who may import what. Read from the source with `ast`, so that nothing has to be installed."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACK = [ROOT / "__init__.py", *sorted((ROOT / "nodes").rglob("*.py")), *sorted((ROOT / "qrlora_core").rglob("*.py"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in PACK]
MODULES = {name.removesuffix(".py").removesuffix("/__init__") for name in NAMES}

TENSORS = {"torch", "numpy", "einops", "safetensors"}
COMFY = {"comfy", "comfy_extras", "comfy_execution", "comfy_api", "folder_paths"}
# Imported where they are used, with a message where they are not there.
OPTIONAL_OPTIMIZERS = {"prodigyopt", "bitsandbytes"}
OPTIONAL_FORMATS = {"gguf"}  # whoever has such a model has it

# Rooms by how the paths in them begin; the longest beginning counts.
PLACES = {
    "": "root",
    "qrlora_core/": "core",
    "qrlora_core/__init__.py": "whole core",
    "qrlora_core/functional/": "functional",
    "qrlora_core/kinds/": "kinds",
    "qrlora_core/files/": "core files",
    "qrlora_core/train/": "core train",
    "nodes/": "nodes",
    "nodes/sockets.py": "sockets",
    "nodes/pictures/": "pictures",
    "nodes/host/": "text",
    "nodes/host/advice.py": "advice",
    "nodes/host/model/": "model",
    "nodes/host/files/": "files",
    "nodes/host/apply/": "apply",
    "nodes/host/merge/": "merge",
    "nodes/host/mix/": "mix",
    "nodes/host/train/": "train",
    "nodes/host/page/": "page",
    "nodes/host/page/server.py": "server",
}
CORE = {"core", "whole core", "functional", "kinds", "core files", "core train"}
HOST = {"text", "advice", "model", "files", "apply", "merge", "mix", "train", "page"}
# Room: outside packages, and rooms of our own, that a file in it may import besides its own room.
ROOMS = {
    "root": (set(), {"nodes"}),
    "core": (TENSORS, set()),
    "whole core": (set(), CORE),
    "functional": (TENSORS, {"core"}),
    "kinds": (TENSORS, {"core", "functional"}),
    "core files": (TENSORS, {"core", "functional", "kinds"}),
    "core train": (TENSORS | OPTIONAL_OPTIMIZERS, {"core", "functional"}),
    "text": (set(), set()),
    "advice": (set(), CORE),
    "model": (TENSORS | COMFY | OPTIONAL_FORMATS, CORE | {"text", "advice"}),
    "files": (TENSORS | COMFY, CORE | {"text", "advice", "model"}),
    "apply": (TENSORS | COMFY, CORE | {"text", "advice", "model"}),
    "merge": (TENSORS | COMFY, CORE | {"text", "advice", "model", "apply"}),
    "mix": (TENSORS | COMFY | {"PIL"}, CORE | {"text", "advice", "model", "files", "apply", "merge"}),
    "train": (TENSORS | COMFY | {"latent_preview"}, CORE | {"text", "advice", "model", "files"}),
    "page": ({"aiohttp", "comfy_api"}, CORE | HOST | {"server"}),
    "server": ({"server"}, set()),
    "sockets": ({"comfy_api"}, set()),
    "pictures": (TENSORS | {"PIL"}, {"core", "functional"}),
    "nodes": ({"comfy_api", "comfy_execution"}, CORE | HOST | {"sockets", "pictures"}),
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
    """The room of a file or module, given by its path below the root: ``nodes/host/files/load`` is in ``files``."""
    whole = path if path.endswith(".py") else f"{path}.py"
    inside = path if path.endswith(".py") else f"{path}/__init__.py"
    return PLACES[max((start for start in PLACES if whole.startswith(start) or inside.startswith(start)), key=len)]


def resolve(name: str, node: ast.ImportFrom) -> list[str]:
    """Paths below the root of what a relative import takes; ``..`` where it leaves the pack."""
    folder = name.split("/")[:-1]
    if node.level - 1 > len(folder):
        return [".."]
    base = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
    base = [part for part in base if part]
    # `from .x import y` takes from the module x, or the module y from the folder x; `from . import y` a sibling, or
    # what the folder itself has.
    found = ["/".join([*base, alias.name]) for alias in node.names]
    if node.module or any(path not in MODULES for path in found):
        found.append("/".join(base))
    return found


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
            if path == ".." or room_of(path) not in {room, *inside}:
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


@pytest.mark.parametrize("name", [name for name in NAMES if room_of(name) in CORE])
def test_everything_public_in_core_has_a_docstring(name):
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    assert [title for title, node in public(tree) if not ast.get_docstring(node)] == []


# Its messages state facts; which node helps is added by `nodes/host/advice.py`.
WORDS_OF_A_HOST = (
    r"patch|comfy(?!ui)|\b[Cc]onnect|(?<![`\w.])nodes?\b|(Load|Train|Save) QR-LoRA|QR-LoRA (Merge|Rebase|Compare)"
)


@pytest.mark.parametrize("name", [name for name in NAMES if room_of(name) in CORE])
def test_core_does_not_know_how_a_host_applies_it(name):
    assert not re.search(WORDS_OF_A_HOST, (ROOT / name).read_text(encoding="utf-8"), re.IGNORECASE)


def graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Each file with the files of `sources` that it imports, for type checkers alone too."""
    names = {name.removesuffix(".py").removesuffix("/__init__"): name for name in sources}
    return {
        name: {names[path] for _, path in imports(name, ast.parse(source)) if path in names}
        for name, source in sources.items()
    }


def test_no_two_files_import_each_other():
    graphlib.TopologicalSorter(graph({name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES})).prepare()


def test_a_circle_is_found():
    sources = {
        "nodes/host/apply/live.py": "from .part import x",
        "nodes/host/apply/part.py": "if TYPE_CHECKING:\n    from ..merge.report import y",
        "nodes/host/merge/report.py": "from ..apply import live",
    }
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph(sources)).prepare()


def test_all_rooms_were_walked():
    assert {room_of(name) for name in NAMES} == set(ROOMS)


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("__init__.py", "from .qrlora_core import merge", "root imports qrlora_core"),
        ("__init__.py", "import torch", "root imports torch"),
        ("qrlora_core/adapter.py", "import comfy.utils", "core imports comfy"),
        ("qrlora_core/adapter.py", "from comfy_api.latest import io", "core imports comfy_api"),
        ("qrlora_core/adapter.py", "import scipy.linalg", "core imports scipy"),
        ("qrlora_core/adapter.py", "from ..nodes import report", "core imports nodes"),
        ("qrlora_core/adapter.py", "from ... import other_pack", "core imports .."),
        ("qrlora_core/adapter.py", "from qrlora_core.adapter import Term", "core imports qrlora_core"),
        ("qrlora_core/adapter.py", "def late():\n    import folder_paths", "core imports folder_paths"),
        ("nodes/merge.py", "import comfy.sd", "nodes imports comfy"),
        ("nodes/merge.py", "import folder_paths", "nodes imports folder_paths"),
        ("nodes/merge.py", "import torch", "nodes imports torch"),
        ("nodes/merge.py", "import nodes", "nodes imports nodes"),
        ("nodes/sockets.py", "from .host.files import load", "sockets imports nodes/host/files"),
        ("qrlora_core/functional/merge.py", "from ..files.full import x", "functional imports qrlora_core/files/full"),
        ("qrlora_core/functional/merge.py", "from .. import QRLoRA", "functional imports qrlora_core"),
        ("qrlora_core/files/full.py", "from ..train.delta import x", "core files imports qrlora_core/train/delta"),
        (
            "nodes/host/model/weights.py",
            "from ..text import x\nfrom ..files import load",
            "model imports nodes/host/files",
        ),
        ("nodes/host/apply/live.py", "from ..merge.report import x", "apply imports nodes/host/merge/report"),
        ("nodes/host/train/loop.py", "from ..page import server", "train imports nodes/host/page/server"),
        ("nodes/host/train/loop.py", "from server import PromptServer", "train imports server"),
        ("nodes/host/page/library.py", "from server import PromptServer", "page imports server"),
        ("nodes/host/files/load.py", "from ...merge import Merge", "files imports nodes/merge"),
        ("nodes/host/files/load.py", "from ... import sweep", "files imports nodes/sweep"),
        ("nodes/host/files/load.py", "from ....dev import x", "files imports dev"),
        ("nodes/host/files/load.py", "import requests", "files imports requests"),
        ("nodes/host/files/load.py", "import urllib.request", "files imports urllib"),
        ("nodes/host/files/load.py", "from comfyui_qr_lora.nodes import merge", "files imports comfyui_qr_lora"),
        ("nodes/host/files/load.py", "import pickle", "files imports pickle"),
        ("nodes/host/files/load.py", "import sys\nsys.path.insert(0, '.')", "uses sys.path"),
        ("nodes/host/files/load.py", "from sys import path", "uses sys.path"),
        ("nodes/host/files/load.py", "x = torch.load(f)", "uses torch.load"),
        ("nodes/host/files/load.py", "from torch import load", "uses torch.load"),
        ("nodes/host/files/load.py", "print('x')", "calls print"),
        ("nodes/host/files/load.py", "__import__('comfy')", "calls __import__"),
    ],
)
def test_the_walk_finds_each_fault(name, source, fault):
    assert fault in faults(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("__init__.py", "from .nodes import comfy_entrypoint"),
        (
            "qrlora_core/functional/merge.py",
            "import math\nimport torch.nn.functional as F\nfrom .. import adapter\nfrom ..adapter import Term",
        ),
        (
            "nodes/__init__.py",
            "from comfy_api.latest import io\nfrom .host.files.load import x\nfrom .merge import Merge",
        ),
        (
            "nodes/merge.py",
            "from ..qrlora_core import merge\nfrom .sockets import CATEGORY\nfrom .host.merge import modes",
        ),
        (
            "nodes/host/page/library.py",
            "from aiohttp import web\nfrom .server import running_server\nfrom ..files import header",
        ),
        (
            "nodes/host/files/load.py",
            "import folder_paths\nfrom ....qrlora_core.errors import QRLoRAError\nfrom ..model import bases",
        ),
    ],
)
def test_the_walk_lets_pass_what_is_right(name, source):
    assert faults(name, source) == []
