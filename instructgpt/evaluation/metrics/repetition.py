"""Repetition and variety of replies: proxies of coherence, named as what they are.

They see only the words. A text without repetition may make no sense, and a good list repeats itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|(?:(?![\u3040-\u30ff\u3400-\u9fff_])\w)+")


def words(text: str) -> list[str]:
    """Words in lower case without marks; a Han or kana character is one."""
    return _WORD.findall(text.lower())


def ngrams(units: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n units, in order."""
    return [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]


def repetition(text: str, n: int = 4) -> float:
    """seq-rep-n of Welleck et al. (arXiv:1908.04319 §6.1): 1 - distinct n-grams / n-grams; 0 without any."""
    found = ngrams(words(text), n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct(texts: Sequence[str], n: int) -> float:
    """distinct-n of Li et al. (arXiv:1510.03055 §5.1): distinct n-grams of all texts / n-grams of all texts.

    It falls with the number of texts: compare sets of one size only. 0 without n-grams.
    """
    found = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(found)) / len(found) if found else 0.0


def ends_in_loop(text: str, times: int = 3, longest: int = 50) -> bool:
    """Whether the text ends with a run of words, at most `longest`, said at least `times` times in a row."""
    said = words(text)
    for size in range(1, min(longest, len(said) // times) + 1):
        last = said[-size:]
        if all(said[len(said) - (k + 1) * size : len(said) - k * size] == last for k in range(1, times)):
            return True
    return False
