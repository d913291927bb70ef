"""`qrlora_core.__all__` is what the nodes use: nothing in it that nobody needs, nothing lacks that several need."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

from comfyui_qr_lora import qrlora_core

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = "examples/core.py"
SEVERAL = 2
PUBLIC = set(qrlora_core.__all__)
ERRORS = {name for name in vars(qrlora_core.errors) if name.endswith("Error")}
PICTURES = "nodes/pictures/"  # may take what is drawn from where it is made, and nothing of core as a whole


def users() -> dict[str, str]:
    """Each file that uses core, with its text."""
    paths = [*sorted((ROOT / "nodes").rglob("*.py")), ROOT / EXAMPLE]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def taken(source: str) -> set[tuple[str, str]]:
    """(module of core, name) of everything that a file takes from core; the module is empty for core as a whole."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level and (node.module or "").split(".")[0] == "qrlora_core":
            found |= {((node.module or "").partition(".")[2], alias.name) for alias in node.names}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "core":
            found.add(("", node.attr))  # as the example imports it
    return found


def is_module(module: str, name: str) -> bool:
    return (ROOT / "qrlora_core" / module.replace(".", "/") / f"{name}.py").is_file()


def faults(sources: Mapping[str, str], public: set[str]) -> list[str]:
    """Where the names that are used and the names that are public differ."""
    inner: dict[tuple[str, str], set[str]] = {}
    for file, source in sources.items():
        for module, name in taken(source):
            inner.setdefault((module, name), set()).add(file)
    used = {name for module, name in inner if not module}
    found = [f"{name} is public, and nobody takes it" for name in public - used - ERRORS]
    for (module, name), files in inner.items():
        if module and not is_module(module, name):
            others = sorted(file for file in files if not file.startswith(PICTURES))
            if name in public and others:
                found.append(f"{name} is public, and {others[0]} takes it from {module}")
            if name not in public and len(files) >= SEVERAL:
                found.append(f"{name} of {module} is not public, and {', '.join(sorted(files))} take it")
    return sorted(found)


def test_the_public_names_are_those_that_the_nodes_use() -> None:
    assert faults(users(), PUBLIC) == []


def test_every_error_is_public() -> None:
    assert "QRLoRAError" in ERRORS
    assert ERRORS <= PUBLIC


def test_every_public_name_is_there_and_listed_once() -> None:
    assert len(qrlora_core.__all__) == len(PUBLIC)
    assert all(hasattr(qrlora_core, name) for name in PUBLIC)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from ..qrlora_core.train.delta import VARIANTS", "VARIANTS of train.delta is not public, and a, b take it"),
        ("from ..qrlora_core.adapter import QRLoRA", "QRLoRA is public, and a takes it from adapter"),
        ("from ..qrlora_core import QRLoRA", "Term is public, and nobody takes it"),
    ],
)
def test_each_fault_is_found(source: str, fault: str) -> None:
    assert fault in faults({"a": source, "b": source}, {"QRLoRA", "Term"})


def test_a_module_may_be_taken_by_several() -> None:
    source = "from ..qrlora_core.train import distributed\nfrom ..qrlora_core import QRLoRA"
    assert faults({"a": source, "b": source}, {"QRLoRA"}) == []
