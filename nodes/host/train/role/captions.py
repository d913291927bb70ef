"""What the words of a caption teach: those that name a thing, and those that name how it looks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from .names import NAMES
from .words import APPEARANCE, COLOUR, COPULAS, JOINTS, LIGHT, SMALL_WORDS, TEXTURE, UNSPACED

BY_CAPTION = "auto"
LANGUAGES = tuple(APPEARANCE)
_ASPECTS = {COLOUR: "a colour", LIGHT: "the light", TEXTURE: "a texture"}
_PRIVATE = 0xE000  # where Unicode has signs without a meaning
_CAPITALISED = re.compile(r"(?<=[^.!?\s]\s)[A-ZÀ-Þ][a-zß-ÿ][\w-]*")  # within a sentence
_NAME = 2  # words of a name that stands alone, at most
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
    shown, names = _with_names_hidden(text, spoken)
    found = [(word.lastgroup, word[0]) for word in _by_aspect(spoken).finditer(shown)]
    words = {aspect: list(dict.fromkeys(word for of, word in found if of == aspect)) for aspect in APPEARANCE[spoken]}
    named = {aspect: of_aspect for aspect, of_aspect in words.items() if of_aspect}
    return ReadCaption(text, spoken, named, _with_names(_without(shown, spoken, names), names) if named else text)


def language_of(text: str) -> str:
    """The language of whose words a caption has most, English where it has none; by script where that tells."""
    if _KANA.search(text):
        return "ja"
    if _HAN.search(text):
        return "zh"
    words = re.findall(r"\w+", text.lower())

    def known(language: str) -> int:
        small = SMALL_WORDS[language].split()
        return sum(word in small for word in words) + len(_pattern(language).findall(text))

    return max(SMALL_WORDS, key=known)


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


def _with_names_hidden(text: str, language: str) -> tuple[str, list[str]]:
    """The text with a sign of Unicode's private area for each name in it, and the names in order."""
    names: list[str] = []

    def hide(found: re.Match[str]) -> str:
        names.append(found[0])
        return chr(_PRIVATE + len(names) - 1)

    shown = _names(language).sub(hide, text)
    return (shown if _is_title(text, language) else _CAPITALISED.sub(hide, shown)), names


def _with_names(text: str, names: list[str]) -> str:
    for number in reversed(range(len(names))):  # a later one may hold an earlier one
        text = text.replace(chr(_PRIVATE + number), names[number])
    return text


@cache
def _names(language: str) -> re.Pattern[str]:
    if language in UNSPACED:
        return re.compile(NAMES[language])
    return re.compile(rf"(?<![\w-])(?:{NAMES[language]})(?:e?s)?(?![\w-])", re.IGNORECASE)


def _is_title(text: str, language: str) -> bool:
    """Whether all words are capitalised, so that none is a name by that; in German all nouns are."""
    small = SMALL_WORDS.get(language, "").split()
    words = [word for word in re.findall(r"\w+", text) if word.lower() not in small]
    all_are = all(word[0].isupper() for word in words)
    return language != "de" and all_are and (len(words) > _NAME or text[:1].isupper())


@cache
def _pattern(language: str) -> re.Pattern[str]:
    """One word of appearance."""
    return re.compile("|".join(_word(language, words) for words in APPEARANCE[language].values()), re.IGNORECASE)


@cache
def _by_aspect(language: str) -> re.Pattern[str]:
    """One word of appearance, in the group of its aspect."""
    groups = (rf"(?P<{aspect}>{_word(language, words)})" for aspect, words in APPEARANCE[language].items())
    return re.compile("|".join(groups), re.IGNORECASE)


def _word(language: str, words: str) -> str:
    anyone = "|".join(words.split())
    # red, and red-haired, but not infrared
    return anyone if language in UNSPACED else rf"(?<![\w-])(?:{anyone})(?:-\w+)*(?![\w-])"


@cache
def _run(language: str) -> re.Pattern[str]:
    """Words of appearance in a row, with what joins them: ``black, white and fluffy``."""
    word = f"(?:{_pattern(language).pattern}){UNSPACED.get(language, '')}"
    spaced = r"\s*" if language in UNSPACED else r"\s+"
    joint = rf"(?:\s*[,、，]\s*|{spaced}(?:{JOINTS[language]}){spaced}|{spaced})"
    return re.compile(rf"{word}(?:{joint}{word})*", re.IGNORECASE)


@cache
def _verb(language: str) -> re.Pattern[str]:
    """What is before a row of words of appearance and says that something is so."""
    spaced = "" if language in UNSPACED else r"\s+"
    return re.compile(rf"{spaced}(?:{COPULAS[language]}){spaced}$", re.IGNORECASE)


@cache
def _clause_end(language: str) -> re.Pattern[str]:
    edge = "" if language in UNSPACED else r"\b"
    return re.compile(rf"\s*(?:$|[,.;!?、，。]|{edge}(?:{JOINTS[language]}){edge})", re.IGNORECASE)


def _without(text: str, language: str, names: list[str]) -> str:
    """The caption with every such row taken out, and no space, comma or verb left where it was."""
    kept, last = list[str](), 0
    for found in _run(language).finditer(text):
        before, after = text[last : found.start()], text[found.end() :]
        if _clause_end(language).match(after):
            before = _verb(language).sub("", before)
        elif language == "en":
            before = _with_article(before, _with_names(after.lstrip()[:1], names))
        kept.append(before)
        last = found.end()
    bare = re.sub(r"[ \t]{2,}", " ", "".join([*kept, text[last:]]))
    bare = re.sub(r"\s+(?=[,.;])", "", bare)
    bare = re.sub(r"(?:,\s*){2,}", ", ", bare)
    return bare.strip(" ,、，")


def _with_article(before: str, following: str) -> str:
    """``a`` or ``an`` at the end as the word that follows now has it."""
    an = "n" if following[:1].lower() in tuple("aeiou") else ""
    return re.sub(r"\b(a)n?(?=\s+$)", rf"\g<1>{an}", before, flags=re.IGNORECASE)
