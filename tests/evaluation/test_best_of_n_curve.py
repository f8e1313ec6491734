"""The curve of best-of-n against enumeration: gains from all subsets, KL where replies repeat or tie."""

import itertools
import math

import numpy as np
import pytest

from instructgpt.errors import DataError
from instructgpt.evaluation.best_of_n_curve import (
    Drawn,
    best_of_n_curve,
    best_of_n_kl,
    powers_of_two,
    subset_weights,
    tie_deficit,
)

# Half of the mass on one reply: of the least, of the highest and of a middle reward; and two ties.
MASSES = [0.5, 0.2, 0.1, 0.1, 0.06, 0.04]
REWARDS = {
    "least": [0, 1, 2, 3, 4, 5],
    "highest": [5, 4, 3, 2, 1, 0],
    "middle": [2, 0, 1, 3, 4, 5],
    "ties": [1, 0, 0, 2, 2, 1],
}


def enumerated_kl(masses: list[float], rewards: list[int], n: int) -> float:
    """KL(best of n, p) over all n-tuples of replies, the first of the best being kept."""
    chosen: dict[int, float] = {}
    for replies in itertools.product(range(len(masses)), repeat=n):
        best = next(y for y in replies if rewards[y] == max(rewards[z] for z in replies))
        chosen[best] = chosen.get(best, 0.0) + math.prod(masses[y] for y in replies)
    assert sum(chosen.values()) == pytest.approx(1.0)
    return sum(q * math.log(q / masses[y]) for y, q in chosen.items())


def draw(masses: list[float], rewards: list[int], prompts: int, replies: int) -> Drawn:
    """`prompts` prompts that all have this distribution of replies."""
    y = np.random.default_rng(7).choice(len(masses), size=(prompts, replies), p=masses)
    same = np.array([[row.tolist().index(one) for one in row] for row in y])
    return Drawn(np.array(rewards, dtype=float)[y], np.log(np.array(masses))[y], same)


@pytest.mark.parametrize("case", sorted(REWARDS))
@pytest.mark.parametrize("n", [2, 3, 4])
def test_estimated_kl_against_enumeration(case: str, n: int) -> None:
    """4,000 prompts: the standard error is below 0.001 nats, the rest is the bias that the module states."""
    exact = enumerated_kl(MASSES, REWARDS[case], n)
    drawn = draw(MASSES, REWARDS[case], 4000, 16)
    assert best_of_n_curve(drawn, [n])[0].kl.mean() == pytest.approx(exact, abs=0.007)
    assert exact < best_of_n_kl(n) - 0.01  # the analytic value would have failed


def test_the_bias_at_n_equal_to_the_draws_is_downward_and_as_stated() -> None:
    """n = N = 16; classes of equal reward have masses 0.3, 0.54, 0.16 and are best by (f + t)^n - f^n."""
    classes = [(0.0, 0.3), (0.3, 0.54), (0.84, 0.16)]
    chosen = [((f + t) ** 16 - f**16, t) for f, t in classes]
    exact = sum(q * math.log(q / t) for q, t in chosen)
    found = best_of_n_curve(draw(MASSES, REWARDS["ties"], 4000, 16), [16])[0].kl.mean()
    assert exact - 0.12 < found < exact


def test_without_repeats_the_estimate_is_the_analytic_value() -> None:
    """Replies of mass e^-40 that all differ."""
    rewards = np.random.default_rng(0).permuted(np.tile(np.arange(8.0), (5, 1)), axis=1)
    same = np.tile(np.arange(8), (5, 1))
    for point in best_of_n_curve(Drawn(rewards, np.full((5, 8), -40.0), same), [1, 2, 4, 8]):
        assert point.kl == pytest.approx(point.bound, abs=1e-12)
        assert point.bound == math.log(point.n) - (point.n - 1) / point.n


def test_one_reply_alone_never_moves() -> None:
    """All of the mass on one reply: best of anything is that reply, KL 0."""
    drawn = Drawn(np.ones((2, 4)), np.zeros((2, 4)), np.zeros((2, 4), dtype=np.int64))
    for point in best_of_n_curve(drawn, [1, 2, 4]):
        assert point.kl == pytest.approx(0.0, abs=1e-6) and point.reward == pytest.approx(1.0)


def test_deficit_by_a_fine_sum() -> None:
    """d = mean of h log h - g log g with h = n u^(n-1), by the midpoint rule with 200,000 points."""
    for f, t, n in ((0.1, 0.6, 3), (0.0, 1.0, 16), (0.9, 0.1, 8), (0.3, 1e-9, 4)):
        u = f + t * (np.arange(200_000) + 0.5) / 200_000
        h = n * u ** (n - 1)
        slow = (h * np.log(h)).mean() - h.mean() * math.log(h.mean())
        assert tie_deficit(np.array([f]), np.array([t]), n)[0] == pytest.approx(slow, abs=1e-7)


def test_mean_of_the_best_is_the_mean_over_all_subsets() -> None:
    """Six draws with ties; the judge's score of the chosen is averaged over the order of equals."""
    generator = np.random.default_rng(3)
    rewards = np.array([[0.3, 0.1, 0.3, 0.9, 0.9, -1.0]])
    scores = generator.normal(size=(1, 6))
    drawn = Drawn(rewards, np.full((1, 6), -30.0), np.arange(6)[None], scores)
    for n in (1, 2, 3, 6):
        best, judged, count = 0.0, 0.0, 0
        for replies in itertools.permutations(range(6), n):
            first = max(replies, key=lambda i: rewards[0, i])
            best, judged, count = best + rewards[0, first], judged + scores[0, first], count + 1
        point = best_of_n_curve(drawn, [n])[0]
        assert point.score is not None
        assert point.reward[0] == pytest.approx(best / count) and point.score[0] == pytest.approx(
            judged / count
        )


def test_weights_are_probabilities() -> None:
    """n = N: the best of all, shared by equals; n = 1: every draw alike."""
    rewards = np.array([[1.0, 3.0, 3.0, 2.0]])
    assert subset_weights(rewards, 4)[0].tolist() == [0.0, 0.5, 0.5, 0.0]
    assert subset_weights(rewards, 1)[0].tolist() == [0.25] * 4
    # of the 6 pairs, the reply of reward 2 is best only beside that of reward 1
    assert subset_weights(rewards, 2)[0, 3] == pytest.approx(1 / 6)


def test_what_can_be_asked_for() -> None:
    assert powers_of_two(1) == [1] and powers_of_two(6) == [1, 2, 4, 6] and powers_of_two(8) == [1, 2, 4, 8]
    drawn = draw(MASSES, REWARDS["ties"], 2, 4)
    for n in (0, 5):
        with pytest.raises(DataError, match=f"best of {n} can't be taken of 4"):
            best_of_n_curve(drawn, [n])
