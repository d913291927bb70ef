"""Words of appearance in six languages: found, told, and left out only where that is asked for."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from comfyui_qr_lora.nodes import role
from comfyui_qr_lora.nodes.host.train.role.captions import (
    BY_CAPTION,
    LANGUAGES,
    describe_caption,
    language_of,
    read_caption,
    warnings,
)
from comfyui_qr_lora.nodes.role import Role
from devtools.environment import ROOT

from ...support.captions import WRITTEN

# Language: a caption, its words of colour, light and texture, and what is left of it.
CAPTIONS: dict[str, tuple[str, dict[str, list[str]], str]] = {
    "en": (
        "a photo of a red, shiny sks car in a dark street",
        {"colour": ["red"], "light": ["dark"], "texture": ["shiny"]},
        "a photo of a sks car in a street",
    ),
    "fr": (
        "une voiture rouge et brillante dans la rue sombre",
        {"colour": ["rouge"], "light": ["sombre"], "texture": ["brillante"]},
        "une voiture dans la rue",
    ),
    "de": (
        "ein rotes, glänzendes Auto in der dunklen Straße",
        {"colour": ["rotes"], "light": ["dunklen"], "texture": ["glänzendes"]},
        "ein Auto in der Straße",
    ),
    "es": (
        "un coche rojo y brillante en la calle oscura",
        {"colour": ["rojo"], "light": ["oscura"], "texture": ["brillante"]},
        "un coche en la calle",
    ),
    "zh": (
        "一辆红色的汽车在昏暗的街道上，光滑的车身",
        {"colour": ["红色"], "light": ["昏暗"], "texture": ["光滑"]},
        "一辆汽车在街道上，车身",
    ),
    "ja": (
        "暗い通りの赤い車、滑らかな窓",
        {"colour": ["赤い"], "light": ["暗い"], "texture": ["滑らか"]},
        "通りの車、窓",
    ),
}
PLAIN = {
    "en": "a photo of a sks dog with a ball, infrared light, a redwood",
    "fr": "une photo d'un chien dans le jardin, un rougeole",
    "de": "ein Foto von einem Hund mit einem Ball, ein Blaubeerkuchen",
    "es": "una foto de un perro con una pelota en el jardín",
    "zh": "一张狗在花园里的照片",
    "ja": "庭にいる犬の写真",
}


def test_there_are_the_languages_of_the_locales() -> None:
    assert set(LANGUAGES) == {path.name for path in (ROOT / "locales").iterdir()}
    assert set(CAPTIONS) == set(PLAIN) == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_language_is_told_by_the_caption(language: str) -> None:
    assert language_of(CAPTIONS[language][0]) == language_of(PLAIN[language]) == language


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("chosen", [BY_CAPTION, ""])
def test_words_of_appearance_are_found_and_warned_of(language: str, chosen: str) -> None:
    text, words, bare = CAPTIONS[language]
    read = read_caption(text, chosen or language)
    assert read.appearance == words
    assert read.without_appearance == bare
    assert warnings(read) == [
        f"warning: the caption names {what} ({words[aspect][0]}); the adapter will bind to it"
        for aspect, what in (("colour", "a colour"), ("light", "the light"), ("texture", "a texture"))
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_caption_that_names_a_thing_alone_is_left_in_peace(language: str) -> None:
    read = read_caption(PLAIN[language])
    assert read.appearance == {}
    assert read.without_appearance == PLAIN[language]
    assert warnings(read) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_as_they_are_written_are_read_as_one_reads_them(language: str) -> None:
    """Compounds, endings, fruit and flowers, names of things and of people."""
    read = {text: read_caption(text) for text in WRITTEN[language]}
    assert {text: of.without_appearance for text, of in read.items()} == WRITTEN[language]
    for text, of in read.items():
        assert bool(of.appearance) == (of.without_appearance != text)
        assert of.language == language or not of.appearance


def test_a_word_counts_once_with_what_makes_another_colour_of_it() -> None:
    assert read_caption("a dark red car in a dark street").appearance == {"colour": ["dark red"], "light": ["dark"]}


def test_a_list_of_looks_is_read_at_once() -> None:
    """However many ways there are to take it apart."""
    looks = "dark red, bright blue, " * 200
    assert read_caption(f"a car is {looks}dark green dress").without_appearance == "a car is dress"
    assert read_caption(f"a {looks}dark green").without_appearance == "a"


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("a black and white photo of a cat", "a photo of a cat"),
        ("a red-haired girl", "a girl"),
        ("sks car, red, glossy, grass", "sks car, grass"),
        ("Red car. Blue sky.", "car. sky."),
        ("a COLORFUL bird, grey", "a bird"),
        ("an orange house and a red apple", "a house and an apple"),
        ("An orange, red house by an hour glass", "A house by an hour glass"),
        ("red", ""),
        ("a <c> dog  on  grass", "a <c> dog  on  grass"),  # nothing found, nothing touched
        ("", ""),
    ],
)
def test_what_is_left_reads_as_if_the_words_had_never_been(text: str, bare: str) -> None:
    assert read_caption(text, "en").without_appearance == bare


def execute(text: str, *, drop: bool, language: str = BY_CAPTION) -> tuple[Any, list[str]]:
    said: list[str] = []
    with mock.patch.object(role, "show_text", side_effect=lambda node, shown: said.append(shown)):
        output = Role.execute(caption=text, language=language, drop_appearance=drop)
    return output.args[1], said


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_changed_unless_asked_and_then_it_is_said(language: str) -> None:
    text, words, bare = CAPTIONS[language]
    kept, said = execute(text, drop=False)
    assert kept == text
    assert "names a colour" in said[0]
    assert "set drop_appearance" in said[0]
    assert bare in said[0]  # which words name the thing
    dropped, said = execute(text, drop=True)
    assert dropped == bare
    assert f"left out: {', '.join(word for found in words.values() for word in found)}; handed on: {bare}" in said[0]
    assert "warning" not in said[0]


def test_without_a_caption_nothing_is_said() -> None:
    assert execute("", drop=True) == ("", [""])
    assert describe_caption(read_caption(" "), dropped=False) == ""


def test_a_caption_of_looks_alone_names_nothing() -> None:
    handed_on, said = execute("red", drop=True)
    assert handed_on == ""
    assert "handed on: nothing" in said[0]
