"""The checks of the page's scripts: that they find what they are for, and what is said where they cannot be run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools.environment import ROOT, Environment, Group, SetupError
from devtools.lint import PAGE, find_node, page_checks

FAULTS = {
    "a type": ("lib/dom.js", "String(text ??", "Number(text ??"),
    "a member that the host's page has not": ("qr_lora.js", "app.registerExtension(", "app.registerPanel("),
    "markup": ("lib/dom.js", "target.textContent =", "target.innerHTML ="),
    "a name that is not used": ("lib/texts.js", "const FALLBACK", "const UNUSED = 1;\nconst FALLBACK"),
}


class NoEnvironment(Environment):
    """Where nothing can be installed."""

    def ensure(self, groups: list[Group]) -> None:
        raise SetupError("no network")


@pytest.fixture
def checked_copy(tmp_path: Path) -> Callable[[], list[int]]:
    """Exit statuses of the checks on a copy of the page's scripts; skipped without Node, but never under CI."""
    environment = Environment(Path(sys.prefix))  # in which `dev.py lint` has put a Node under CI
    if not [*page_checks(environment)]:
        pytest.skip("no Node with TypeScript and eslint")
    shutil.copytree(ROOT / "web", tmp_path / "web")
    shutil.copytree(ROOT / PAGE, tmp_path / PAGE, ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / PAGE / "node_modules").symlink_to(ROOT / PAGE / "node_modules", target_is_directory=True)

    def run() -> list[int]:
        commands = page_checks(environment, tmp_path)
        return [subprocess.run(command, cwd=tmp_path, capture_output=True).returncode for command in commands]

    return run


def test_the_checks_find_what_they_are_for(tmp_path: Path, checked_copy: Callable[[], list[int]]) -> None:
    assert checked_copy() == [0, 0]
    for name, (file, sound, faulty) in FAULTS.items():
        script = tmp_path / "web" / file
        text = script.read_text(encoding="utf-8")
        assert sound in text, name
        script.write_text(text.replace(sound, faulty, 1), encoding="utf-8")
        assert any(checked_copy()), f"{name} was not found"
        script.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("version", "has_npm", "found"), [
    ("v20.19.0", True, True), ("v24.1.0", True, True), ("v20.18.9", True, False), ("v18.20.0", True, False),
    ("v24.1.0", False, False), ("nothing", True, False),
])  # fmt: skip
@pytest.mark.skipif(os.name == "nt", reason="programs are shell scripts here")
def test_only_a_node_that_is_new_enough_counts(tmp_path: Path, version: str, has_npm: bool, found: bool) -> None:
    for name in ("node", *(["npm"] if has_npm else [])):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {version}\n")
        program.chmod(0o755)
    assert (find_node(str(tmp_path)) is not None) is found


def test_without_node_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    assert [*page_checks(NoEnvironment(tmp_path / ".venv"))] == []
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert "was not checked: there is no Node" in said[0]


def test_under_ci_they_are_never_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "1")
    with pytest.raises(SetupError, match="no network"):
        [*page_checks(NoEnvironment(tmp_path / ".venv"))]
