"""pass@k, the unbiased estimate of Chen et al. (arXiv:2107.03374 eq. 1)."""

from __future__ import annotations

import math


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that one of k programs is right when `correct` of n drawn are: 1 - C(n-c, k) / C(n, k).

    Raises:
        ValueError: fewer than k were drawn.
    """
    if not 0 < k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass@{k} can't be taken from {correct} right ones of {n}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)
