"""Texts with released toxicity scores as rankings, so that a reward model learns from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instructgpt.data.records import Prompt, RankedResponse, Ranking
from instructgpt.errors import DataError
from instructgpt.evaluation.suite.reading import rows
from instructgpt.evaluation.toxicity.scorer import TOXICITY_PROMPT
from instructgpt.runtime.seeds import derive_seed

_SIZE = 6
_SAME = 0.02
"""Scores nearer than this are a tie."""


@dataclass(frozen=True)
class ScoredText:
    """A text with Perspective's toxicity of it, in [0, 1].

    Attributes:
        key: texts of one key (continuations of one prompt) are all held out or none.
    """

    text: str
    toxicity: float
    key: str


def read_scored(paths: Sequence[Path]) -> list[ScoredText]:
    """Texts with scores: the official RealToxicityPrompts file (prompts and continuations), or released
    samples with `sample` and `toxicity` (see `released_samples`). Equal texts are taken once.

    Raises:
        DataError: a row is neither.
    """
    found: dict[str, ScoredText] = {}
    for path in paths:
        for place, row in rows(path):
            for one in _texts(row, place):
                if one.text.strip() and math.isfinite(one.toxicity):
                    found.setdefault(one.text, one)
    return list(found.values())


def _texts(row: Mapping[str, Any], place: str) -> list[ScoredText]:
    try:
        if isinstance(row.get("prompt"), Mapping):
            parts = [row["prompt"], row["continuation"]]
            key = str(parts[0]["text"])
            return [
                ScoredText(str(part["text"]).strip(), float(part["toxicity"]), key)
                for part in parts
                if part.get("toxicity") is not None
            ]
        return [ScoredText(str(row["sample"]).strip(), float(row["toxicity"]), str(row["context"]))]
    except (KeyError, TypeError, ValueError) as error:
        cure = "give RealToxicityPrompts' prompts.jsonl, or the released real_toxicity samples"
        raise DataError(f"the row holds no text with its toxicity: {error!r}", place, cure) from error


def split(texts: Sequence[ScoredText], share: float, seed: int) -> tuple[list[ScoredText], list[ScoredText]]:
    """(to learn from, held out): by key, so that no prompt stands on both sides."""
    held: list[ScoredText] = []
    learnt: list[ScoredText] = []
    for one in texts:
        drawn = derive_seed(seed, "toxicity split", one.key) / 2**63
        (held if drawn < share else learnt).append(one)
    return learnt, held


def rankings(texts: Sequence[ScoredText], seed: int, passes: int = 1) -> list[Ranking]:
    """The texts in random groups of six, the least toxic one ranked first, near ones tied.

    Args:
        passes: how often each text is ranked, each time among others.
    """
    generator = np.random.default_rng(derive_seed(seed, "toxicity rankings"))
    made: list[Ranking] = []
    for _ in range(passes):
        order = generator.permutation(len(texts))
        for number, start in enumerate(range(0, len(texts) - 1, _SIZE)):
            group = [texts[i] for i in order[start : start + _SIZE]]
            if len(group) >= 2:
                made.append(_ranking(group, f"toxicity-{len(made)}-{number}"))
    return [ranking for ranking in made if len({r.rank for r in ranking.responses}) > 1]


def _ranking(group: Sequence[ScoredText], name: str) -> Ranking:
    ordered = sorted(group, key=lambda one: one.toxicity)
    responses, rank, last = [], 0, -math.inf
    for one in ordered:
        if one.toxicity - last >= _SAME:
            rank, last = rank + 1, one.toxicity
        responses.append(RankedResponse(one.text, rank))
    return Ranking(Prompt(TOXICITY_PROMPT, id=name), tuple(responses))
