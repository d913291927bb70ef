"""Which ComfyUI and which frontend the tests were run with, and how they ended.

`python dev.py test --record` runs them and keeps the result in docs/hosts.json, from which the table in README.md is
made. All counts and versions come from pytest's own JUnit files, into which each run writes what it ran with:

    python -m devtools.hosts RESULT.xml ...    keep the result of one run; of several files together, where it was split
    python -m devtools.hosts                   make the table anew
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from devtools.environment import ROOT, SetupError, say, write_atomically
from devtools.frontend import PACKAGE, chosen_frontend
from devtools.server import comfyui_dir
from devtools.workspace import host_version

RECORD = ROOT / "docs" / "hosts.json"
README = ROOT / "README.md"
START, END = "<!-- hosts: made by python -m devtools.hosts -->", "<!-- /hosts -->"
# What a run tells of itself, in the order of the table.
FACTS = ("comfyui", "frontend", "python", "torch", "system", "device")
_PAGE, _REST = "the page", "core and nodes"
_SELECTED = "selected"


def circumstances(selected: str = "") -> dict[str, str]:
    """What this process tests with.

    Args:
        selected: how tests were chosen within files; such a run is not kept.
    """
    device = os.environ.get("QRLORA_TEST_DEVICE", "cpu")
    values = (
        host_version(comfyui_dir()), chosen_frontend() or _installed(PACKAGE), platform.python_version(),
        _installed("torch").partition("+")[0], platform.system(), "GPU" if device == "cuda" else "CPU",
    )  # fmt: skip
    return dict(zip(FACTS, values, strict=True)) | {_SELECTED: selected}


def tell(file: Path, facts: Mapping[str, str]) -> None:
    """Write into a JUnit file, as properties of its run, what it ran with.

    Here, since the workers of one run cannot tell it to the process that writes the file.
    """
    tree = ElementTree.parse(file)
    for suite in tree.getroot().iter("testsuite"):
        told = suite.find("properties")
        if told is None:
            suite.insert(0, told := ElementTree.Element("properties"))
        for name, value in facts.items():
            ElementTree.SubElement(told, "property", name=name, value=value)
    tree.write(file, encoding="utf-8", xml_declaration=True)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def results(files: Iterable[Path]) -> list[dict[str, Any]]:
    """One entry for the page's tests and one for all others, as far as the files hold them.

    Raises:
        SetupError: the files are of different circumstances, or not of all tests of a part.
    """
    suites = [suite for file in files for suite in ElementTree.parse(file).getroot().iter("testsuite")]
    told = [  # other plugins write properties too
        {
            item.get("name"): item.get("value")
            for item in suite.iter("property")
            if item.get("name") in (*FACTS, _SELECTED)
        }
        for suite in suites
    ]
    facts = told[0]
    if any(other != facts for other in told) or not facts.keys() >= set(FACTS):
        raise SetupError(f"the files are not of one run on one ComfyUI with one frontend: they tell {told}")
    if facts.get(_SELECTED):
        raise SetupError(f"only some tests were run ({facts[_SELECTED]}): such a result is not kept")
    cases = [case for suite in suites for case in suite.iter("testcase")]
    date = max(suite.get("timestamp", "")[:10] for suite in suites)
    kept = {name: facts[name] for name in FACTS} | {"date": date}
    return [kept | counted for counted in _parts(cases)]


def _parts(cases: Sequence[ElementTree.Element]) -> Iterator[dict[str, Any]]:
    for part in (_REST, _PAGE):
        own = [case for case in cases if (_file_of(case).startswith("tests.web.")) == (part == _PAGE)]
        if not own:
            continue
        missing = sorted(_files_of(part) - {_file_of(case) for case in own})
        if missing:
            raise SetupError(f"{part}: there is no result of {', '.join(missing)}")
        ends = Counter(map(_end_of, own))
        reasons = Counter(_reason(case) for case in own if _end_of(case) == "skipped")
        counts = {end: ends[end] for end in ("passed", "skipped", "failed")}
        yield {"part": part, **counts, "reasons": dict(sorted(reasons.items()))}


def _file_of(case: ElementTree.Element) -> str:
    """Dotted; a test's own name where its file could not be imported."""
    found = re.match(r"[\w.]*?\btest_\w+", case.get("classname") or case.get("name") or "")
    return found[0] if found else ""


def _files_of(part: str) -> set[str]:
    files = (path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / "tests").rglob("test_*.py"))
    return {".".join(names) for names in files if (names[1] == "web") == (part == _PAGE)}


def _end_of(case: ElementTree.Element) -> str:
    tags = {child.tag for child in case}
    return "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"


def _reason(case: ElementTree.Element) -> str:
    skipped = case.find("skipped")
    return skipped.get("message", "") if skipped is not None else ""


def keep(found: Iterable[dict[str, Any]], record: Path = RECORD) -> None:
    """Put results into the record, each in place of an older one of its part, ComfyUI and frontend."""
    entries = {_key(entry): entry for entry in [*read(record), *found]}
    write_atomically(record, json.dumps([entries[key] for key in sorted(entries)], indent=1) + "\n")


def read(record: Path = RECORD) -> list[dict[str, Any]]:
    """All results that were kept."""
    return json.loads(record.read_text(encoding="utf-8")) if record.exists() else []


def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
    numbers = tuple(tuple(map(int, re.findall(r"\d+", entry[name]))) for name in ("comfyui", "frontend"))
    return (*numbers, entry["part"])


def block(entries: Sequence[dict[str, Any]]) -> str:
    """What the README says between the marks."""
    if not entries:
        return "Nothing was recorded yet."
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for entry in entries:
        row = rows.setdefault((entry["comfyui"], entry["frontend"]), {})
        row |= {"with": f"{entry['python']}, {entry['torch']}", "date": entry["date"], entry["part"]: _counts(entry)}
    lines = [
        ["ComfyUI", "frontend", "Python, PyTorch", "date", _REST, _PAGE], ["---"] * 6,
        *([*hosts, *(row.get(name, "-") for name in ("with", "date", _REST, _PAGE))] for hosts, row in rows.items()),
    ]  # fmt: skip
    places = sorted({f"{entry['system']} on the {entry['device']}" for entry in entries})
    hosts = list(dict.fromkeys(entry["comfyui"] for entry in entries))
    said = f"Tried with ComfyUI {' and '.join(hosts)}, under {', '.join(places)}: tests passed, skipped, failed."
    return "\n".join([said, "", *(f"| {' | '.join(line)} |" for line in lines)])


def _counts(entry: dict[str, Any]) -> str:
    return ", ".join(str(entry[end]) for end in ("passed", "skipped", "failed"))


def in_readme(text: str) -> str:
    """What a document has between the marks."""
    return text.partition(f"{START}\n")[2].partition(f"\n{END}")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep results where files are given, then write the table."""
    parser = argparse.ArgumentParser(prog="python -m devtools.hosts", description="Keep and show what was tried.")
    parser.add_argument("results", nargs="*", type=Path, help="JUnit files of one run")
    options = parser.parse_args(arguments)
    if options.results:
        try:
            found = results(options.results)
        except SetupError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        keep(found)
        for entry in found:
            say(f"kept: ComfyUI {entry['comfyui']}, frontend {entry['frontend']}, {entry['part']}: {_counts(entry)}")
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    write_atomically(README, f"{before}{START}\n{block(read())}\n{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
