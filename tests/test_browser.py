"""Which browser is taken, with real executables on a PATH of its own."""

import os
import sys
from pathlib import Path

import pytest

from devtools import browser

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the executables here are shell scripts")


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder on the PATH; Playwright's own browsers are out of reach."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "none"))
    return tmp_path


def executable(folder: Path, name: str, status: int) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\nexit {status}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_none_is_none(bare: Path) -> None:
    assert browser.find() is None


@pytest.mark.parametrize("name", browser.NAMES)
def test_a_stub_is_passed_over_and_one_that_starts_is_taken(bare: Path, name: str) -> None:
    executable(bare, name, 1)
    assert browser.find() is None
    working = executable(bare, name, 0)
    assert browser.find() == working


def test_where_none_can_be_had_one_line_says_so(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", executable(bare, "python", 1))  # so that nothing is fetched
    assert browser.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"[qr-lora] {browser.NONE}"
