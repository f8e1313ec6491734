"""Student's t for whole degrees of freedom: what a small number of clusters costs an interval."""

import math
from functools import cache
from statistics import NormalDist

_EXACT = 300
"""Up to so many degrees of freedom the finite series is summed; beyond, the expansion is right to 1e-10."""


def t_cdf(t: float, freedom: int) -> float:
    """P(T <= t) by the finite series of Abramowitz and Stegun 26.7.3 and 26.7.4; `freedom` is at least 1."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    inside = math.sin(angle) * total
    if odd:
        inside = 2 / math.pi * (angle + inside)
    return 0.5 + math.copysign(inside, t) / 2


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """The t with P(T <= t) = `probability`, for 0 < probability < 1; by bisection, beyond 300 degrees of
    freedom by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5).

    Raises:
        ValueError: the probability is not inside (0, 1), or there is no degree of freedom.
    """
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(f"no quantile at {probability} with {freedom} degrees of freedom")
    if freedom > _EXACT:
        x = NormalDist().inv_cdf(probability)
        first = (x**3 + x) / 4
        second = (5 * x**5 + 16 * x**3 + 3 * x) / 96
        third = (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384
        fourth = (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160
        return x + first / freedom + second / freedom**2 + third / freedom**3 + fourth / freedom**4
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < probability:
        low, high = high, 2 * high
    while high - low > 1e-14 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2
