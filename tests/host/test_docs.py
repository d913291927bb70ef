"""The help pages and the English locale say what the schemas say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from devtools.environment import ROOT
from generators.locales import ENGLISH, as_text, node_definitions, schemas

SCHEMAS = {schema.node_id: schema for schema in schemas()}


def help_page(schema: Any) -> str:
    return (ROOT / "web" / "docs" / f"{schema.node_id}.md").read_text(encoding="utf-8")


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Name to the other cells of its row, for the table under a heading; `a_1` to `a_8` is eight names."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = {}
    for line in re.findall(r"^\| `.+\|$", section, flags=re.MULTILINE):
        names, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
        found.update(dict.fromkeys(expand(names), cells))
    return found


def expand(names: str) -> list[str]:
    first, *last = re.findall(r"`(\w+)`", names)
    if not last:
        return [first]
    stem, start = re.fullmatch(r"(\w+_)(\d+)", first).groups()  # type: ignore[union-attr]
    return [f"{stem}{number}" for number in range(int(start), int(last[0].removeprefix(stem)) + 1)]


def as_documented(value: Any) -> str:
    """A default as a help page writes it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, (int, float)) else value or "empty"


@pytest.mark.parametrize("node_id", SCHEMAS)
def test_the_help_page_has_every_input_with_its_default(node_id: str) -> None:
    schema = SCHEMAS[node_id]
    documented = {name: cells[1] for name, cells in rows(help_page(schema), "Inputs").items()}
    assert documented == {entry.id: as_documented(getattr(entry, "default", None)) for entry in schema.inputs}


@pytest.mark.parametrize("node_id", SCHEMAS)
def test_the_help_page_has_every_output_and_the_display_name(node_id: str) -> None:
    schema = SCHEMAS[node_id]
    page = help_page(schema)
    assert list(rows(page, "Outputs")) == [entry.display_name for entry in schema.outputs]
    assert page.startswith(f"# {schema.display_name}\n")


def test_no_help_page_is_for_a_node_that_does_not_exist() -> None:
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == set(SCHEMAS)


@pytest.mark.parametrize("node_id", SCHEMAS)
def test_every_node_input_and_output_explains_itself(node_id: str) -> None:
    schema = SCHEMAS[node_id]
    assert schema.description
    assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])


def test_the_english_locale_is_up_to_date() -> None:
    assert ENGLISH.read_text(encoding="utf-8") == as_text(node_definitions()), "run python -m generators.locales"


def test_the_english_locale_reads_as_the_host_expects() -> None:
    merge = json.loads(ENGLISH.read_text(encoding="utf-8"))["QRLoRA_Merge"]
    assert merge["display_name"] == "QR-LoRA Merge"
    assert merge["inputs"]["scale_8"]["name"] == "scale_8"
    assert merge["outputs"]["1"]["name"] == "merged"
