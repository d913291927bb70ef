"""What the words of a caption teach: those that name a thing, and those that name how it looks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from .words import APPEARANCE, COLOUR, JOINTS, LIGHT, SMALL_WORDS, TEXTURE, UNSPACED

BY_CAPTION = "auto"
LANGUAGES = tuple(APPEARANCE)
_ASPECTS = {COLOUR: "a colour", LIGHT: "the light", TEXTURE: "a texture"}
_KANA, _HAN = re.compile(r"[぀-ヿ]"), re.compile(r"[一-鿿]")


@dataclass(frozen=True)
class ReadCaption:
    """A caption and its words of appearance.

    Attributes:
        language: in which it was read. appearance: aspect, such as ``colour``, to the words as they stand.
        without_appearance: the caption without those words.
    """

    text: str
    language: str
    appearance: dict[str, list[str]]
    without_appearance: str


def read_caption(text: str, language: str = BY_CAPTION) -> ReadCaption:
    """Find the words of appearance.

    Args:
        language: one of `LANGUAGES`; `BY_CAPTION` takes the one that its script and its small words are of.
    """
    spoken = language_of(text) if language == BY_CAPTION else language
    found = {aspect: _pattern(spoken, aspect).findall(text) for aspect in APPEARANCE[spoken]}
    named = {aspect: list(dict.fromkeys(words)) for aspect, words in found.items() if words}
    return ReadCaption(text, spoken, named, _without(text, spoken) if named else text)


def language_of(text: str) -> str:
    """The language whose small words a caption has most of, English where it has none; by script where that tells."""
    if _KANA.search(text):
        return "ja"
    if _HAN.search(text):
        return "zh"
    words = re.findall(r"\w+", text.lower())
    return max(SMALL_WORDS, key=lambda language: sum(word in SMALL_WORDS[language].split() for word in words))


def warnings(read: ReadCaption) -> list[str]:
    """One for each aspect that the caption names."""
    return [
        f"warning: the caption names {_ASPECTS[aspect]} ({', '.join(words)}); the adapter will bind to it"
        for aspect, words in read.appearance.items()
    ]


def describe_caption(read: ReadCaption, *, dropped: bool) -> str:
    """Which words teach what, and what was done about it; empty without a caption."""
    if not read.text.strip():
        return ""
    looks = [word for words in read.appearance.values() for word in words]
    lines = [
        f"caption, read as {read.language}: {read.text}",
        f"names the thing (content learns it, style leaves it alone): {read.without_appearance or 'nothing'}",
        f"names its look (better unnamed for both): {', '.join(looks) or 'nothing'}",
    ]
    if dropped and looks:
        return "\n".join([*lines, f"left out: {', '.join(looks)}; handed on: {read.without_appearance or 'nothing'}"])
    advice = ["set drop_appearance to leave these words out, or write another caption"] if looks else []
    return "\n".join([*lines, *warnings(read), *advice])


@cache
def _pattern(language: str, aspect: str | None = None) -> re.Pattern[str]:
    """One word of an aspect, or of any."""
    aspects = APPEARANCE[language]
    words = "|".join(" ".join(aspects.values() if aspect is None else [aspects[aspect]]).split())
    if language not in UNSPACED:
        words = rf"(?<![\w-])(?:{words})(?:-\w+)*(?![\w-])"  # red, and red-haired, but not infrared
    return re.compile(words, re.IGNORECASE)


@cache
def _run(language: str) -> re.Pattern[str]:
    """Words of appearance in a row, with what joins them: ``black, white and fluffy``."""
    word = f"(?:{_pattern(language).pattern}){UNSPACED.get(language, '')}"
    spaced = r"\s*" if language in UNSPACED else r"\s+"
    joint = rf"(?:\s*[,、，]\s*|{spaced}(?:{JOINTS[language]}){spaced}|{spaced})"
    return re.compile(rf"{word}(?:{joint}{word})*", re.IGNORECASE)


def _without(text: str, language: str) -> str:
    """The caption with every such row taken out, and no space or comma left where it was."""
    articled = _with_articles(text) if language == "en" else text
    bare = re.sub(r"[ \t]{2,}", " ", _run(language).sub("", articled))
    bare = re.sub(r"\s+(?=[,.;])", "", bare)
    bare = re.sub(r"(?:,\s*){2,}", ", ", bare)
    return bare.strip(" ,、，")


def _with_articles(text: str) -> str:
    """``a`` or ``an`` before words that go, as the word after them has it."""
    before = re.compile(rf"\ban?(?=\s+{_run('en').pattern}\s+(\w))", re.IGNORECASE)
    return before.sub(lambda found: found[0][0] + ("n" if found[1].lower() in "aeiou" else ""), text)
