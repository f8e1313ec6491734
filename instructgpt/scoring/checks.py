"""Checks of a reply that a program can decide: most of the kinds of IFEval (arXiv:2311.07911, table 4).

Each is a function of the reply and of arguments by name, and says whether the reply passes. Counts are given
as `at_least`, `at_most`, `exactly`; texts as one string or a list. They are fooled by what meets the letter
of a rule and not its sense, which is what a policy will find.
"""

from __future__ import annotations

import json as json_format
import re
import unicodedata
from collections.abc import Callable

from instructgpt.errors import ConfigError

Texts = str | tuple[str, ...]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Kana and Han: written without spaces, each character counts as a word."""
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}_])\w)+(?:['’-](?:(?![{_CJK}_])\w)+)*")
_SENTENCE = re.compile(r"[.!?]+(?=[\s\"'”’)\]]|$)|[。！？]+")
_BULLET = re.compile(r"^\s*[-*•]\s+\S", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}\s+\S", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*+[^\s*](?:[^*\n]*[^\s*])?\*+")
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]+\]")
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL | re.IGNORECASE)
_AROUND = " .,;:!?\"'`*“”‘’。、"
_SCRIPTS = {
    "latin": ("LATIN",), "han": ("CJK",), "japanese": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "hangul": ("HANGUL",), "cyrillic": ("CYRILLIC",), "greek": ("GREEK",), "arabic": ("ARABIC",),
    "hebrew": ("HEBREW",), "devanagari": ("DEVANAGARI",), "thai": ("THAI",),
}  # fmt: skip
_SHARE = 0.9
"""Share of a reply's letters that must be of the script: names and quotations may be of another."""


def _within(count: int, at_least: int | None, at_most: int | None, exactly: int | None) -> bool:
    return (
        (at_least is None or count >= at_least)
        and (at_most is None or count <= at_most)
        and (exactly is None or count == exactly)
    )


def _listed(text: Texts) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def normal(text: str) -> str:
    """Text for comparing answers: one width of characters (NFKC), no case, single spaces, no quotes or marks
    around."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(_AROUND)


def times(reply: str, text: str) -> int:
    """How often a word or phrase stands in the reply: whole words, whatever their case; next to Han and kana
    any place is the end of a word."""
    letter = rf"(?:(?![{_CJK}])\w)"
    before = rf"(?<!{letter})" if re.match(letter, text) else ""
    after = rf"(?!{letter})" if re.match(letter, text[-1:]) else ""
    return len(re.findall(before + re.escape(text) + after, reply, re.IGNORECASE))


def words(
    reply: str, *, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    """Number of words; a Han or kana character is one."""
    return _within(len(_WORD.findall(reply)), at_least, at_most, exactly)


def characters(
    reply: str, *, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    """Number of characters, white space around left out."""
    return _within(len(reply.strip()), at_least, at_most, exactly)


def sentences(
    reply: str, *, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    """Number of sentences, cut behind . ! ? and their Chinese forms; abbreviations count as ends."""
    return _within(sum(bool(_WORD.search(s)) for s in _SENTENCE.split(reply)), at_least, at_most, exactly)


def paragraphs(
    reply: str, *, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    """Number of blocks of text with blank lines between."""
    return _within(sum(bool(b.strip()) for b in re.split(r"\n\s*\n", reply)), at_least, at_most, exactly)


def bullets(
    reply: str, *, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    """Number of lines that begin with -, * or • and a space."""
    return _within(len(_BULLET.findall(reply)), at_least, at_most, exactly)


def headings(
    reply: str, *, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    """Number of Markdown headings."""
    return _within(len(_HEADING.findall(reply)), at_least, at_most, exactly)


def highlights(
    reply: str, *, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    """Number of *highlighted* parts."""
    return _within(len(_HIGHLIGHT.findall(reply)), at_least, at_most, exactly)


def placeholders(
    reply: str, *, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    """Number of [placeholders] in square brackets."""
    return _within(len(_PLACEHOLDER.findall(reply)), at_least, at_most, exactly)


def capitals(
    reply: str, *, at_least: int | None = None, at_most: int | None = None, exactly: int | None = None
) -> bool:
    """Number of words all in capitals."""
    return _within(sum(w.isupper() for w in _WORD.findall(reply)), at_least, at_most, exactly)


def mentions(
    reply: str,
    *,
    text: Texts,
    at_least: int | None = None,
    at_most: int | None = None,
    exactly: int | None = None,
) -> bool:
    """How often words or phrases stand there, together."""
    return _within(sum(times(reply, one) for one in _listed(text)), at_least, at_most, exactly)


def includes(reply: str, *, text: Texts) -> bool:
    """Every one of the words or phrases is there."""
    return all(times(reply, one) > 0 for one in _listed(text))


def forbids(reply: str, *, text: Texts) -> bool:
    """None of the words or phrases is there."""
    return not any(times(reply, one) for one in _listed(text))


def without(reply: str, *, text: Texts) -> bool:
    """None of the texts is there, not even within a word: commas, for example."""
    return not any(one in reply for one in _listed(text))


def starts_with(reply: str, *, text: Texts) -> bool:
    """Begins with one of the texts, whatever the case; white space before is passed over."""
    return reply.lstrip().casefold().startswith(tuple(one.casefold() for one in _listed(text)))


def ends_with(reply: str, *, text: Texts) -> bool:
    """Ends with one of the texts, whatever the case; white space behind is passed over."""
    return reply.rstrip().casefold().endswith(tuple(one.casefold() for one in _listed(text)))


def one_of(reply: str, *, text: Texts) -> bool:
    """Is one of the texts and nothing else; case, spaces and marks around do not count."""
    return normal(reply) in {normal(one) for one in _listed(text)}


def regex(reply: str, *, text: Texts) -> bool:
    r"""Every one of the regular expressions of Python is found; \A and \Z anchor them."""
    return all(re.search(one, reply) is not None for one in _listed(text))


def uppercase(reply: str) -> bool:
    """Has letters with case, and all are capital."""
    return reply.isupper()


def lowercase(reply: str) -> bool:
    """Has letters with case, and none is capital."""
    return reply.islower()


def quoted(reply: str) -> bool:
    """Stands in double quotes, straight or curved."""
    bare = reply.strip()
    return len(bare) > 1 and bare[0] in '"“' and bare[-1] in '"”'


def title(reply: str) -> bool:
    """Has a title in <<double angular brackets>>."""
    return re.search(r"<<[^<>\n]*\w[^<>\n]*>>", reply) is not None


def json(reply: str, *, keys: Texts = ()) -> bool:
    """Is JSON (NaN is not), bare or in a fence; with `keys`, an object that has them."""
    bare = reply.strip()
    fenced = _FENCE.fullmatch(bare)
    try:
        found = json_format.loads(fenced[1] if fenced else bare, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return not keys or (isinstance(found, dict) and all(key in found for key in _listed(keys)))


def _no_constant(name: str) -> float:
    raise ValueError(name)


def script(reply: str, *, name: str) -> bool:
    """Nine tenths of the letters are of a script: latin, han, japanese, hangul, cyrillic, greek, arabic,
    hebrew, devanagari, thai. Languages of one script are not told apart."""
    letters = [unicodedata.name(c, "").split(" ")[0] for c in reply if c.isalpha()]
    return bool(letters) and sum(found in _SCRIPTS[name] for found in letters) >= _SHARE * len(letters)


CHECKS: dict[str, Callable[..., bool]] = {
    check.__name__: check
    for check in (
        words, characters, sentences, paragraphs, bullets, headings, highlights, placeholders, capitals,
        mentions, includes, forbids, without, starts_with, ends_with, one_of, regex, uppercase, lowercase,
        quoted, title, json, script,
    )
}  # fmt: skip
"""By the name that a spec or a record uses."""


def check_text(name: str, value: Texts) -> None:
    """
    Raises:
        ConfigError: a regular expression or a script that there is none of.
    """
    if name == "regex":
        for one in _listed(value):
            try:
                re.compile(one)
            except re.error as error:
                raise ConfigError(
                    f"not a regular expression: {one!r}: {error}",
                    cure="write one as Python's re module reads it",
                ) from error
    if name == "script" and value not in _SCRIPTS:
        raise ConfigError(f"there is no script {value!r}", cure="use one of " + ", ".join(_SCRIPTS))
