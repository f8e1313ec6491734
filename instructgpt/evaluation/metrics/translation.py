"""BLEU and chrF of a corpus from statistics of its sentences, so that intervals draw sentences again.

The counts of BLEU and the formula over them are sacrebleu's (Papineni et al. 2002; Post 2018,
arXiv:1804.08771); chrF2 is that of Popović (2015) with sacrebleu's defaults: character n-grams up to 6,
beta 2, no white space.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from instructgpt.errors import ConfigError

BLEU_ORDER = 4
CHRF_ORDER = 6
_CHRF_BETA = 2


@cache
def _bleu(tokenizer: str) -> Any:
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        cure = "pip install 'instructgpt[eval]'"
        raise ConfigError("BLEU needs sacrebleu", "a translation task", cure) from error
    # One sentence is scored at a time only for its counts, which sacrebleu would warn of each time.
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    return BLEU(tokenize=tokenizer, effective_order=True)


def bleu_statistics(hypothesis: str, references: Sequence[str], tokenizer: str = "13a") -> dict[str, float]:
    """Counts of a sentence: `match1..4`, `total1..4` (n-grams), `length`, `reference_length`.

    Args:
        tokenizer: sacrebleu's: 13a (WMT's, its default), zh, char, intl, none, ...

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    found = _bleu(tokenizer).sentence_score(hypothesis, list(references))
    counts = {f"match{n}": float(count) for n, count in enumerate(found.counts, start=1)}
    counts |= {f"total{n}": float(count) for n, count in enumerate(found.totals, start=1)}
    return counts | {"length": float(found.sys_len), "reference_length": float(found.ref_len)}


def bleu(columns: Mapping[str, np.ndarray]) -> float:
    """Corpus BLEU, 0 to 100, of columns of `bleu_statistics`, one row a sentence.

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    orders = range(1, BLEU_ORDER + 1)

    def total(name: str) -> int:
        return int(columns[name].sum())

    found = _bleu("13a").compute_bleu(
        [total(f"match{n}") for n in orders],
        [total(f"total{n}") for n in orders],
        total("length"),
        total("reference_length"),
        smooth_method="exp",
    )
    return float(found.score)


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def chrf_statistics(hypothesis: str, reference: str) -> dict[str, float]:
    """Character n-grams of a sentence: `chrf_ours1..6`, `chrf_theirs1..6`, `chrf_match1..6`."""
    ours, theirs = "".join(hypothesis.split()), "".join(reference.split())
    counts: dict[str, float] = {}
    for n in range(1, CHRF_ORDER + 1):
        mine, others = _ngrams(ours, n), _ngrams(theirs, n)
        # As sacrebleu: n-grams longer than the reference count for nobody.
        counts[f"chrf_ours{n}"] = float(mine.total()) if others else 0.0
        counts[f"chrf_theirs{n}"] = float(others.total())
        counts[f"chrf_match{n}"] = float((mine & others).total())
    return counts


def chrf(columns: Mapping[str, np.ndarray]) -> float:
    """Corpus chrF2, 0 to 100, of columns of `chrf_statistics`, one row a sentence."""
    precisions, recalls = [], []
    for n in range(1, CHRF_ORDER + 1):
        ours, theirs = columns[f"chrf_ours{n}"].sum(), columns[f"chrf_theirs{n}"].sum()
        if ours > 0 and theirs > 0:
            match = columns[f"chrf_match{n}"].sum()
            precisions.append(match / ours)
            recalls.append(match / theirs)
    if not precisions:
        return 0.0
    precision, recall = np.mean(precisions), np.mean(recalls)
    weight = _CHRF_BETA**2
    below = weight * precision + recall
    return float(100 * (1 + weight) * precision * recall / below) if below > 0 else 0.0


def corpus(
    statistic: Callable[[Mapping[str, np.ndarray]], float], rows: Sequence[Mapping[str, float]]
) -> float:
    """`bleu` or `chrf` of sentences given as rows of counts."""
    return statistic({name: np.array([row[name] for row in rows]) for name in rows[0]})
