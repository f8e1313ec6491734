"""The twenty-five kinds of instruction of IFEval (arXiv:2311.07911, table 4) and whether a reply follows one.

The meaning of each is that of the released evaluator, to the letter: numbers are only comparable that way. So
keywords are regular expressions, a bullet may begin with a dash, and a text too short to have a language is
taken to be in the right one. `scoring/checks.py` has checks of the same kind for rewards, where the sense
matters and not the comparison.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from instructgpt.errors import DataError
from instructgpt.evaluation.ifeval.language import capital_words, language_of, sentences

Texts = tuple[str, ...]
ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""What `detectable_format:constrained_response` asks for."""
_MARK = re.compile(r"^```(?:json|Json|JSON)?")


def _related(count: int, relation: str, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


def _pattern(text: str) -> str:
    """A text of the data as the regular expression that it is; one that is none stands for itself."""
    try:
        re.compile(text)
    except re.error:
        return re.escape(text)
    return text


def _found(text: str, reply: str) -> int:
    """At how many places, whatever the case."""
    return len(re.findall(_pattern(text), reply, flags=re.IGNORECASE))


# -- keywords


def keywords(reply: str, *, keywords: Texts) -> bool:
    """Each keyword stands somewhere, even within a word."""
    return all(_found(keyword, reply) for keyword in keywords)


def keyword_frequency(reply: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """How often a keyword stands there, within words too."""
    return _related(_found(keyword.strip(), reply), relation, frequency)


def forbidden_words(reply: str, *, forbidden_words: Texts) -> bool:
    """None of the words stands there as a word of its own."""
    return not any(
        re.search(rf"\b{_pattern(word)}\b", reply, flags=re.IGNORECASE) for word in forbidden_words
    )


def letter_frequency(reply: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """How often a character stands there, whatever its case."""
    return _related(reply.lower().count(letter.strip().lower()), let_relation, let_frequency)


# -- language and case


def response_language(reply: str, *, language: str) -> bool:
    """The reply is in a language (ISO 639-1)."""
    return language_of(reply) in (language, None)


def english_capital(reply: str) -> bool:
    """English, and no small letter."""
    return reply.isupper() and language_of(reply) in ("en", None)


def english_lowercase(reply: str) -> bool:
    """English, and no capital letter."""
    return reply.islower() and language_of(reply) in ("en", None)


def capital_word_frequency(reply: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """Number of words all in capitals; "I" is one."""
    return _related(capital_words(reply), capital_relation, capital_frequency)


# -- length


def number_sentences(reply: str, *, num_sentences: int, relation: str) -> bool:
    """Number of sentences."""
    return _related(len(sentences(reply)), relation, num_sentences)


def number_words(reply: str, *, num_words: int, relation: str) -> bool:
    """Number of runs of letters and digits; a hyphened word is two."""
    return _related(len(re.findall(r"\w+", reply)), relation, num_words)


def number_paragraphs(reply: str, *, num_paragraphs: int) -> bool:
    """Number of parts between *** dividers, none of them empty but the first or the last, which don't count
    then."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", reply)]
    if not all(parts[1:-1]):
        return False
    edges = {0, len(parts) - 1}
    return len(parts) - sum(not parts[edge] for edge in edges) == num_paragraphs


def nth_paragraph_first_word(reply: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Number of paragraphs between blank lines, and the first word of the n-th (from 1)."""
    parts = reply.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if not 1 <= nth_paragraph <= count or not parts[nth_paragraph - 1].strip():
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return count == num_paragraphs and re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


# -- content and format


def number_placeholders(reply: str, *, num_placeholders: int) -> bool:
    """At least so many [placeholders]."""
    return len(re.findall(r"\[.*?\]", reply)) >= num_placeholders


def postscript(reply: str, *, postscript_marker: str) -> bool:
    """A postscript with its marker, anywhere."""
    marker = postscript_marker.strip()
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return _found(known.get(marker, marker), reply) > 0


def number_bullet_lists(reply: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that begin with a star (and not two) or a dash."""
    starred = re.findall(r"^\s*\*[^\*].*$", reply, flags=re.MULTILINE)
    dashed = re.findall(r"^\s*-.*$", reply, flags=re.MULTILINE)
    return len(starred) + len(dashed) == num_bullets


def constrained_response(reply: str) -> bool:
    """One of three fixed answers stands in the reply."""
    return any(answer in reply for answer in ANSWERS)


def number_highlighted_sections(reply: str, *, num_highlights: int) -> bool:
    """At least so many *highlighted* or **doubly highlighted** parts that hold something."""
    single = re.findall(r"\*[^\n\*]*\*", reply)
    double = re.findall(r"\*\*[^\n\*]*\*\*", reply)
    count = sum(bool(part.strip("*").strip()) for part in single)
    count += sum(bool(part.removeprefix("**").removesuffix("**").strip()) for part in double)
    return count >= num_highlights


def multiple_sections(reply: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many headings: the word and a number."""
    return len(re.findall(rf"\s?{_pattern(section_spliter.strip())}\s?\d+\s?", reply)) >= num_sections


def json_format(reply: str) -> bool:
    """The whole reply is JSON, bare or in a fence."""
    bare = _MARK.sub("", reply.strip()).removesuffix("```").strip()
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


def title(reply: str) -> bool:
    """A title in <<double angular brackets>>, on one line."""
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", reply))


# -- combinations, beginning and end, punctuation


def two_responses(reply: str) -> bool:
    """Two different replies with ****** between."""
    parts = [part.strip() for part in reply.split("******")]
    if not all(parts[1:-1]):
        return False
    given = [part for part in parts if part]
    return len(given) == 2 and given[0] != given[1]


def repeat_prompt(reply: str, *, prompt_to_repeat: str) -> bool:
    """The request is repeated word for word first."""
    return reply.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(reply: str, *, end_phrase: str) -> bool:
    """Ends with a phrase; quotes around the reply are passed over."""
    return reply.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(reply: str) -> bool:
    """Stands in straight double quotes."""
    bare = reply.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def no_comma(reply: str) -> bool:
    """Has no comma."""
    return "," not in reply


KINDS: dict[str, Callable[..., bool]] = {
    "keywords:existence": keywords,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}
"""By the names of the official file; what stands before the colon is the category."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of a prompt: its kind, a key of `KINDS`, and what it asks for."""

    kind: str
    asked: Mapping[str, Any]

    @classmethod
    def of(cls, kind: str, asked: Mapping[str, Any], where: str = "") -> Instruction:
        """As it stands in `instruction_id_list` and `kwargs`; null values count as not given.

        Raises:
            DataError: there is no such kind, or what it asks for is missing or of the wrong type.
        """
        if kind not in KINDS:
            raise DataError(f"IFEval has no instruction {kind!r}", where, "use one of " + ", ".join(KINDS))
        given = {name: value for name, value in asked.items() if value is not None}
        wanted = list(inspect.signature(KINDS[kind], eval_str=True).parameters.values())[1:]
        for parameter in wanted:
            if parameter.name not in given:
                raise DataError(
                    f"the instruction {kind} has no {parameter.name!r}", where, f"add it: {_example(wanted)}"
                )
            _check(kind, parameter, given[parameter.name], where, _example(wanted))
        names = [parameter.name for parameter in wanted]
        if unknown := sorted(set(given) - set(names)):
            raise DataError(
                f"the instruction {kind} knows no {unknown[0]!r}", where, f"write {_example(wanted)}"
            )
        chosen = {name: given[name] for name in names}
        return cls(kind, {name: tuple(v) if isinstance(v, list) else v for name, v in chosen.items()})

    def followed(self, reply: str) -> bool:
        """Whether the reply as it is follows it; an empty one follows nothing."""
        return bool(reply.strip()) and KINDS[self.kind](reply, **self.asked)


def _check(kind: str, parameter: inspect.Parameter, value: Any, where: str, example: str) -> None:
    """
    Raises:
        DataError: the value is not of the parameter's type.
    """
    right: bool
    if parameter.annotation is int:
        right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    elif parameter.annotation is str:
        right = isinstance(value, str) and bool(value.strip())
    else:
        right = isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
    if parameter.name.endswith("relation"):
        right = value in ("less than", "at least")
    if not right:
        raise DataError(
            f"{parameter.name!r} of the instruction {kind} can't be {json.dumps(value)}",
            where,
            f"write {example}",
        )


def _example(wanted: list[inspect.Parameter]) -> str:
    """What right arguments look like."""
    shown: dict[str, Any] = {}
    for parameter in wanted:
        kinds: dict[Any, Any] = {int: 3, str: "river"}
        shown[parameter.name] = kinds.get(parameter.annotation, ["river", "lake"])
        if parameter.name.endswith("relation"):
            shown[parameter.name] = "at least"
    return json.dumps(shown)
