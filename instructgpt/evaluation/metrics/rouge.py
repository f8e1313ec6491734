"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) with the rouge-score package, stemmed, as F."""

from __future__ import annotations

from functools import cache
from typing import Any

from instructgpt.errors import ConfigError

KINDS = ("rouge1", "rouge2", "rougeL")


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        cure = "pip install 'instructgpt[eval]'"
        raise ConfigError("ROUGE needs rouge-score", "a task of summaries", cure) from error
    return RougeScorer(list(KINDS), use_stemmer=True)


def rouge(summary: str, reference: str) -> dict[str, float]:
    """`rouge1`, `rouge2`, `rougeL`: F in [0, 1]. Words are runs of a-z and 0-9; other writing has none.

    Raises:
        ConfigError: rouge-score is not installed.
    """
    found = _scorer().score(reference, summary)
    return {kind: float(found[kind].fmeasure) for kind in KINDS}
