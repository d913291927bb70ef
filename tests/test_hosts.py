"""The record of what the tests were run with: counts come from pytest, and the README says what the record says."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from devtools import hosts
from devtools.environment import ROOT, SetupError

HEAD = '<testsuites><testsuite name="pytest" timestamp="2026-01-02T03:04:05">'
FACTS = dict.fromkeys(hosts.FACTS, "1.2.3") | {"selected": ""}
ENDS = {
    "passed": "", "failed": '<failure message="no"/>', "broken": '<error message="no"/>',
    "skipped": '<skipped message="no GPU"/>',
}  # fmt: skip


def junit(file: Path, tests: Iterable[tuple[str, str]], **facts: str) -> Path:
    """A result as pytest writes it: test files, dotted, and how one test of each ended."""
    told = "".join(f"<property name={quoteattr(k)} value={quoteattr(v)}/>" for k, v in (FACTS | facts).items())
    cases = "".join(f'<testcase classname="{name}" name="test_x">{ENDS[end]}</testcase>' for name, end in tests)
    file.write_text(f"{HEAD}<properties>{told}</properties>{cases}</testsuite></testsuites>", encoding="utf-8")
    return file


def files(part: str) -> list[str]:
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "tests").rglob("test_*.py"))
    return [".".join(path.parts) for path in paths if ("web" in path.parts) == (part == "the page")]


def test_the_readme_says_what_the_record_says() -> None:
    assert hosts.in_readme((ROOT / "README.md").read_text(encoding="utf-8")) == hosts.block(hosts.read())


def test_counts_are_those_of_pytest(tmp_path: Path) -> None:
    page, rest = files("the page"), files("core and nodes")
    ends = [*zip(rest, ["skipped", "failed", "broken", *["passed"] * len(rest)], strict=False)]
    first = junit(tmp_path / "1.xml", [*ends[:5], (f"{rest[0]}.TestClass", "passed")])
    second = junit(tmp_path / "2.xml", [*ends[5:], *((name, "skipped") for name in page)])
    for entry in hosts.results([first, second]):
        found = entry["passed"], entry["skipped"], entry["failed"], entry["reasons"]
        whole = entry["part"] == "core and nodes"
        assert found == ((len(rest) - 2, 1, 2, {"no GPU": 1}) if whole else (0, len(page), 0, {"no GPU": len(page)}))
        assert (entry["comfyui"], entry["date"]) == ("1.2.3", "2026-01-02")


@pytest.mark.parametrize(
    ("names", "facts", "message"),
    [
        (files("the page")[1:], {}, rf"there is no result of {files('the page')[0]}"),
        (files("the page"), {"selected": "merge"}, r"only some tests were run \(merge\)"),
    ],
)
def test_a_part_of_the_tests_is_not_kept(tmp_path: Path, names: list[str], facts: dict[str, str], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        hosts.results([junit(tmp_path / "x.xml", [(name, "passed") for name in names], **facts)])


def test_files_of_two_hosts_are_not_added_up(tmp_path: Path) -> None:
    made = [junit(tmp_path / f"{version}.xml", [], comfyui=version) for version in ("1.0.0", "2.0.0")]
    with pytest.raises(SetupError, match="not of one run on one ComfyUI"):
        hosts.results(made)


def test_a_later_result_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    record, entry = tmp_path / "hosts.json", dict.fromkeys(hosts.FACTS, "0.9.0")
    older = entry | {"part": "the page", "passed": 1, "skipped": 0, "failed": 0, "reasons": {}, "date": "2026-01-01"}
    newer = older | {"passed": 5}
    hosts.keep([older, older | {"frontend": "1.10.0"}], record)
    hosts.keep([newer, newer | {"comfyui": "0.10.0"}], record)
    assert [(e["comfyui"], e["frontend"], e["passed"]) for e in json.loads(record.read_text("utf-8"))] == [
        ("0.9.0", "0.9.0", 5), ("0.9.0", "1.10.0", 1), ("0.10.0", "0.9.0", 5),
    ]  # fmt: skip
    assert "| 0.9.0 | 1.10.0 | 0.9.0, 0.9.0 | 2026-01-01 | - | 1, 0, 0 |" in hosts.block(hosts.read(record))


def test_a_real_run_tells_what_it_ran_with(tmp_path: Path) -> None:
    """By two workers, which cannot write into the file themselves."""
    result = tmp_path / "real.xml"
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-n", "2", "tests/test_browser.py", f"--junitxml={result}"]
    subprocess.run([*command, "--all", "-k", "browser"], cwd=ROOT, capture_output=True, check=True)
    told = {name: f'name="{name}" value="{value}"' for name, value in hosts.circumstances("browser").items()}
    assert [name for name, line in told.items() if line not in result.read_text("utf-8")] == []
