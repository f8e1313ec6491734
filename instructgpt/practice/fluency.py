"""Whether a reply is made of clauses of this world: the share of its word pairs that the grammar can make."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from instructgpt.practice import lexicon
from instructgpt.practice.utility import words

_CLAUSE_END = re.compile(r"[.,:;!?\u3002\uff0c\uff1a\uff01\uff1f\u3001]")


class Fluency:
    """Knows the word pairs inside the clauses of sample replies, names and values replaced by their class.

    Args:
        replies: sample replies; a few thousand hold every pair the grammar makes.
    """

    def __init__(self, replies: Iterable[str]) -> None:
        self.pairs = {pair for reply in replies for pair in _pairs(reply)}

    def __call__(self, reply: str) -> float:
        """1 if every word pair is known, 0 if half or fewer are or nothing is said, linear between."""
        pairs = _pairs(reply)
        if not pairs:
            return 0.0
        known = sum(pair in self.pairs for pair in pairs) / len(pairs)
        return max(0.0, 2.0 * known - 1.0)


def _pairs(reply: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for clause in _CLAUSE_END.split(reply):
        said = words(clause)
        if said:
            shapes = ["<begin>", *(lexicon.WORD_CLASS.get(word, word) for word in said), "<end>"]
            pairs += pairwise(shapes)
    return pairs
