"""The translations say what the English locale says, and leave alone what a user types, picks or reads elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from devtools.environment import ROOT
from generators.locales import ENGLISH, schemas

TRANSLATIONS = ["zh", "ja", "fr", "de", "es"]
LANGUAGES = ["en", *TRANSLATIONS]
SCHEMAS = {schema.node_id: schema for schema in schemas()}

CODE = [
    r"[\w*?./]*\w[_*?./][\w*?./]*[\w*?]",  # null_space, models/loras, torch.compile, *double_blocks.1?.*
    r"\w+ [=/] \w+",  # apply = live, alpha / rank
    r"(?<!\w)'[\w /]+'(?!\w)",  # 'animals/cat'
    r"\b([A-Z]{2,}\d?|dR|Q|R)s?\b",  # FLUX, SD3, GPU in GPUs, dR
    r"\b[a-z]+\d+\w*",  # bf16
    r"\b(?:AdamW|bitsandbytes|prodigyopt|safetensors)\b",
]
NUMBER = r"(?<![\w.])\d+(?:\.\d+)?(?!\w)"
QUOTED_INPUT = r"\b(?:[Nn]eeds|[Ww]ithout|in|Raise|output) (\w+)\b"


def locale(language: str) -> dict[str, Any]:
    path = ENGLISH.parents[1] / language / ENGLISH.name
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def texts(language: str) -> dict[str, str]:
    content: dict[str, str] = json.loads((ROOT / "web" / "texts" / f"{language}.json").read_text(encoding="utf-8"))
    return content


def strings(tree: dict[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every string of a locale with the keys that lead to it."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from strings(value, *path, key)
        else:
            yield (*path, key), value


def found(pattern: str, text: str) -> set[str]:
    return set(re.findall(pattern, text, flags=re.ASCII))


def says(text: str, token: str) -> bool:
    """Whether a token stands in a text as a word of its own, or in the plural; CJK signs end a word."""
    return re.search(rf"(?<!\w){re.escape(token)}s?(?!\w)", text, flags=re.ASCII) is not None


def is_prose(path: tuple[str, ...]) -> bool:
    return path[-1] in ("tooltip", "description")


def names_to_keep(path: tuple[str, ...], text: str) -> set[str]:
    """Options and input names that an English text mentions, as its node's schema has them."""
    node_id, *rest = path
    schema = SCHEMAS[node_id]
    inputs = {entry.id: entry for entry in schema.inputs}
    kept = found(QUOTED_INPUT, text) & set(inputs) if path[-1] == "tooltip" else set()
    for other in SCHEMAS.values():
        kept |= found(rf"\b(\w+) of {other.display_name}\b", text) & {entry.id for entry in other.inputs}
    if rest[0] == "inputs":
        options = getattr(inputs[rest[1]], "options", None) or []
        kept |= {option for option in options if says(text, option)}
    return kept


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_it_has_the_keys_of_the_english_locale_and_no_empty_string(language: str) -> None:
    english, translated = dict(strings(locale("en"))), dict(strings(locale(language)))
    assert list(translated) == list(english)
    assert [path for path, text in translated.items() if not text.strip()] == []


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_options_inputs_paths_and_numbers_stay_as_they_are(language: str) -> None:
    translated = dict(strings(locale(language)))
    lost = {}
    for path, english in strings(locale("en")):
        if is_prose(path):
            tokens = names_to_keep(path, english).union(*(found(pattern, english) for pattern in CODE))
            missing = {token for token in tokens if not says(translated[path], token)}
            missing |= found(NUMBER, english) ^ found(NUMBER, translated[path])
            if missing:
                lost[path] = missing
    assert lost == {}


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_everything_that_is_a_sentence_is_translated(language: str) -> None:
    english, translated = dict(strings(locale("en"))), dict(strings(locale(language)))
    assert [path for path, text in translated.items() if is_prose(path) and text == english[path]] == []


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_nodes_are_called_as_the_menu_calls_them(language: str) -> None:
    english, translated = locale("en"), locale(language)
    titles = {node["display_name"]: translated[node_id]["display_name"] for node_id, node in english.items()}
    assert len(set(titles.values())) == len(titles)
    assert all("QR-LoRA" in title for title in titles.values())
    said = dict(strings(translated))
    for path, text in strings(english):
        for title in filter(text.__contains__, titles):
            assert titles[title] in said[path], path


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_no_two_inputs_of_a_node_have_one_name(language: str) -> None:
    for node_id, node in locale(language).items():
        names = [entry["name"] for entry in node["inputs"].values()]
        assert len(set(names)) == len(names), node_id


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_nothing_in_it_is_syntax_to_vue_i18n(language: str) -> None:
    plain = {path: re.sub(r"\{'.'\}", "", text) for path, text in strings(locale(language))}
    assert [path for path, text in plain.items() if re.search(r"[{}@|]", text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_texts_of_the_page_have_the_keys_and_placeholders_of_the_english_ones(language: str) -> None:
    def placeholders(content: dict[str, str]) -> dict[str, set[str]]:
        return {key: found(r"\{(\w+)\}", text) for key, text in content.items()}

    translated = texts(language)
    assert placeholders(translated) == placeholders(texts("en"))
    assert [key for key, text in translated.items() if not text.strip()] == []
