"""Student's t against scipy, and by hand."""

import math

import pytest
from scipy import stats

from instructgpt.maths.student import t_cdf, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 12, 49, 300, 301, 999, 20000])
@pytest.mark.parametrize("probability", [0.001, 0.3, 0.5, 0.8, 0.975, 0.9995])
def test_quantiles_against_scipy(freedom: int, probability: float) -> None:
    expected = stats.t.ppf(probability, freedom)
    assert t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_distribution_by_hand() -> None:
    # one degree of freedom is Cauchy's: 1/2 + atan(t) / pi; two: 1/2 + t / (2 sqrt(2 + t^2))
    assert t_cdf(1.0, 1) == pytest.approx(0.75, abs=1e-15)
    assert t_cdf(-2.0, 2) == pytest.approx(0.5 - 1 / math.sqrt(6), abs=1e-15)
    assert t_cdf(0.0, 9) == 0.5


@pytest.mark.parametrize(("probability", "freedom"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_there_is_no_such_quantile(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(probability, freedom)
