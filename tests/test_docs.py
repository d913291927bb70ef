"""The documents: links that lead somewhere, messages that the code really gives, the two commands."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HELP = sorted((ROOT / "web" / "docs").glob("*.md"))
GUIDES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [
    ROOT / "dev.py",
    *(p for room in ("nodes", "qrlora_core", "devtools", "generators", "cli") for p in (ROOT / room).rglob("*.py")),
]
PANEL_TEXTS = ROOT / "web" / "texts" / "en.json"

ELLIPSIS = "…"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def links(text: str) -> list[str]:
    """Targets of all Markdown links and images outside code."""
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)", prose)


def anchors(text: str) -> set[str]:
    """Heading anchors as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*GUIDES, *HELP], ids=name_of)
def test_every_local_link_leads_somewhere(path: Path) -> None:
    for link in links(path.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{name_of(path)} links to {link}"
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), f"{name_of(path)} links to {link}"


@pytest.mark.parametrize("path", HELP, ids=name_of)
def test_a_help_page_links_to_nothing_here_but_its_picture(path: Path) -> None:
    # ComfyUI shows them inside its own page, where only what lies beside them is found.
    picture = f"{path.stem}.jpg"
    assert [link for link in links(path.read_text(encoding="utf-8")) if not link.startswith("https://")] == [picture]
    assert (path.parent / picture).stat().st_size <= 45_000


def test_no_picture_is_left_of_a_node_that_has_no_help_page() -> None:
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.jpg")} == {path.stem for path in HELP}


def test_the_readme_names_the_two_commands_and_every_help_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^python dev\.py run$", readme, flags=re.MULTILINE)
    assert re.search(r"^python dev\.py test$", readme, flags=re.MULTILINE)
    assert all(name_of(path) in readme for path in HELP)


def test_the_guide_names_every_example_and_blueprint() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    assert all(f"`{path.stem}`" in guide for path in (ROOT / "example_workflows").glob("*.json"))
    assert all(f"**{path.stem}**" in guide for path in (ROOT / "subgraphs").glob("*.json"))


def test_the_changelog_has_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def quoted_messages(text: str) -> Iterator[str]:
    """The code spans before the colon of list items that quote messages, up to the first span of another kind."""
    for item in re.findall(r"^- (`.+)$", text, flags=re.MULTILINE):
        yield from re.findall(r"`([^`]+)`", re.split(r"`: ", item, maxsplit=1)[0] + "`")


def message_section(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text if path.name == "troubleshooting.md" else text.partition("\n## Messages\n")[2]


@cache
def texts_in_the_code() -> str:
    """Every string of the code and of the panels, one per line, with an ellipsis for each value put in."""
    panels = json.loads(PANEL_TEXTS.read_text(encoding="utf-8")).values()
    found = [re.sub(r"\{\w+\}", ELLIPSIS, text) for text in panels]
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else ELLIPSIS for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(text.replace("\n", " ") for text in found)


MESSAGES = [
    pytest.param(message, id=f"{path.stem}: {message[:40]}")
    for path in [ROOT / "docs" / "troubleshooting.md", *HELP]
    for message in quoted_messages(message_section(path))
]


@pytest.mark.parametrize("message", MESSAGES)
def test_every_quoted_message_is_one_that_the_code_gives(message: str) -> None:
    pattern = ".*".join(re.escape(part) for part in message.split(ELLIPSIS))
    assert re.search(pattern, texts_in_the_code())


def test_messages_are_quoted_at_all() -> None:
    assert len(MESSAGES) > 60
