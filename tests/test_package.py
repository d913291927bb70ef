"""`pip install .`: the wheel holds qrlora_core alone, and in an environment of its own the example runs with it."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "qrlora_core"
EXAMPLE = ROOT / "examples" / "core.py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Imported by one optimizer each, with a message where they are not there.
OPTIONAL = {"prodigyopt", "bitsandbytes"}


def not_of_the_source(folder: str, names: list[str]) -> list[str]:
    """What a clone does not have: environments and runs, and what was built before."""
    made = {"__pycache__", "node_modules", *(("build", "dist") if Path(folder) == ROOT else ())}
    return [name for name in names if name.startswith(".") or name in made or name.endswith(".egg-info")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the whole tree, since setuptools writes into it, with the setuptools that is there."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=not_of_the_source)
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", *offline, "-w", folder, folder / "source"], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it, and beside it the packages of this one, so that torch need not come."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, wheel], check=True)
    (site,) = (path.parent for path in folder.rglob("qrlora_core"))
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def test_the_wheel_holds_core_alone(wheel: Path) -> None:
    expected = {path.relative_to(ROOT).as_posix() for path in [*CORE.rglob("*.py"), CORE / "py.typed"]}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_name_and_version_are_those_of_the_project(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == (PROJECT["project"]["name"], PROJECT["project"]["version"])
    assert PROJECT["tool"]["comfy"].keys() >= {"PublisherId", "DisplayName"}


def test_the_version_stands_in_one_place() -> None:
    assert not [path for path in CORE.rglob("*.py") if "__version__" in path.read_text(encoding="utf-8")]


def test_the_pack_asks_for_nothing(metadata: Message) -> None:
    """Installers of packs resolve `dependencies` anew, which could bring artists another torch."""
    assert PROJECT["project"]["dependencies"] == []
    asked = metadata.get_all("Requires-Dist")
    assert asked
    assert all(line.endswith('; extra == "core"') for line in asked)
    assert not (ROOT / "requirements.txt").exists()  # another list that installers take


def test_the_extra_core_is_what_core_imports() -> None:
    """Each with the oldest version that will do, and no newest, which would take away a newer torch."""
    lines = PROJECT["project"]["optional-dependencies"]["core"]
    assert all(re.fullmatch(r"\w+>=[\d.]+", line) for line in lines)
    imported = set()
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").split(".")[0])
    assert {line.split(">=")[0] for line in lines} == imported - sys.stdlib_module_names - OPTIONAL


@pytest.mark.process
def test_the_example_runs_with_the_installed_package(python: Path, tmp_path: Path) -> None:
    example = shutil.copy(EXAMPLE, tmp_path)
    runner = ROOT / "tests" / "support" / "core_example.py"
    run = subprocess.run([python, "-I", runner, example], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert Path(result["package"]).is_relative_to(python.parents[1])
    assert all(after < 0.75 * before for before, after in (result["flip"], result["roll"])), result
    assert result["loaded as saved"]
    assert max(result["file"], result["loaded"], result["weights"]) < 1e-5, result
