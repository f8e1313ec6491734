"""What best-of-n brings and how far it moves the policy, for every n up to the N replies that were drawn.

Notation: p is the model's distribution of replies to one prompt, r the reward, f the mass of p with a smaller
reward than a reply y, t the mass with an equal one (y itself included; t = p(y) where no other reply has the
reward of y). "Best" takes the highest reward, the first one drawn among equals.

**Mean of the best of n.** Of N drawn replies sorted by reward, the k-th smallest is the best of a random
subset of n with probability C(k-1, n-1) / C(N, n). Their mean by these weights is the mean over all subsets
of n draws: unbiased for every n <= N, and far less noisy than the first n draws. Equal rewards share their
weights evenly, which is what "the first one drawn" means on average over orders.

**Divergence.** The best of n has the reward of y exactly if all n draws have at most r(y) and not all have
less: probability (f + t)^n - f^n. Among replies of equal reward the first drawn is distributed as p is. So

    bon(y) / p(y) = g(f, t) = ((f + t)^n - f^n) / t,        KL(bon, p) = E over y ~ p of  g log g.

For t -> 0, g = n f^(n-1) with f uniform on [0, 1], and the integral is log n - (n-1)/n: the analytic value,
an upper bound. In general g is the mean of h(u) = n u^(n-1) over [f, f + t], and these intervals tile [0, 1],
so that the bound is missed by exactly

    E over y ~ p of  d(f, t),    d = mean over u in [f, f + t] of h log h  -  g log g  >= 0   (Jensen).

Nothing is lost on replies that never repeat (t near 0), which is why this difference is what is estimated.

**Estimate.** For each drawn reply, p(y) is known: the product of its tokens' probabilities. The draws that
are another reply than y estimate the rest without bias: a of those m have a smaller reward, b an equal one;
f = (1 - p(y)) a / m and t = p(y) + (1 - p(y)) b / m. Where every draw was y (m = 0) nothing is known about f,
and the middle of its range is taken. The mean of d over all N draws is subtracted from the bound.

Bias: f and t are estimated and d is not linear in them, so that the estimate is a little too low: on six
replies, the likeliest with half of the mass, by less than 0.007 nats for n <= N / 4 and by up to 0.12 of 1.5
nats for n = N = 16 (tests/evaluation compares it with enumeration). Where no reply has much mass it is exact
to 0.001. Too low is the careful side: it leaves a policy that is compared at this KL less to spend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instructgpt.errors import DataError

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)  # exact for polynomials of degree 95


def best_of_n_kl(n: int) -> float:
    """Nats per reply between best-of-n and the policy it samples from, at most: log n - (n - 1) / n."""
    return math.log(n) - (n - 1) / n


@dataclass(frozen=True)
class Drawn:
    """The N replies drawn to each of P prompts. All arrays (P, N)."""

    rewards: Array
    """What chooses the best."""
    logprobs: Array
    """Of the whole reply, in nats, under the distribution that was sampled from."""
    same: NDArray[np.int64]
    """Number of the prompt's first draw that is this very reply: equal numbers are equal replies."""
    scores: Array | None = None
    """What a judge says who has no part in choosing."""


@dataclass(frozen=True)
class CurvePoint:
    """Best-of-n at one n: one value a prompt, all (P,)."""

    n: int
    reward: Array
    score: Array | None
    kl: Array
    """The estimate, nats per reply; single prompts may be off (even negative), their mean is what counts."""

    @property
    def bound(self) -> float:
        """The analytic KL."""
        return best_of_n_kl(self.n)


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, ... below n, then n."""
    return [2**i for i in range(n.bit_length()) if 2**i < n] + [n]


def best_of_n_curve(drawn: Drawn, ns: Sequence[int]) -> list[CurvePoint]:
    """One point for each n of `ns`.

    Raises:
        DataError: an n is below 1 or above the number of draws.
    """
    most = drawn.rewards.shape[1]
    for n in ns:
        if not 1 <= n <= most:
            cure = f"use numbers from 1 to {most}, or draw more"
            raise DataError(f"best of {n} can't be taken of {most} replies", cure=cure)
    f, t = reward_masses(drawn)
    points = []
    for n in ns:
        weights = subset_weights(drawn.rewards, n)
        score = None if drawn.scores is None else (weights * drawn.scores).sum(axis=1)
        kl = best_of_n_kl(n) - tie_deficit(f, t, n).mean(axis=1)
        points.append(CurvePoint(n, (weights * drawn.rewards).sum(axis=1), score, kl))
    return points


def subset_weights(rewards: Array, n: int) -> Array:
    """Probability (P, N) that a reply is the best of n drawn from these N without replacement.

    Args:
        rewards: (P, N). Equal rewards in a row share their probabilities evenly.
    """
    count = rewards.shape[1]
    by_rank = np.array([math.comb(k, n - 1) / math.comb(count, n) for k in range(count)])
    below = (rewards[:, :, None] > rewards[:, None, :]).sum(axis=2)  # (P, N)
    upto = (rewards[:, :, None] >= rewards[:, None, :]).sum(axis=2)
    total = np.concatenate([[0.0], np.cumsum(by_rank)])
    return (total[upto] - total[below]) / (upto - below)


def reward_masses(drawn: Drawn) -> tuple[Array, Array]:
    """Estimates (f, t), each (P, N): the model's mass of smaller, and of equal reward (see the module)."""
    rewards, same = drawn.rewards, drawn.same
    own = np.exp(np.minimum(drawn.logprobs, 0.0))
    other = same[:, :, None] != same[:, None, :]  # (P, N, N)
    m = other.sum(axis=2)
    below = (other & (rewards[:, :, None] > rewards[:, None, :])).sum(axis=2)
    equal = (other & (rewards[:, :, None] == rewards[:, None, :])).sum(axis=2)
    known = m > 0
    rest = 1.0 - own
    share = np.where(known, below / np.maximum(m, 1), 0.5)
    tied = np.where(known, equal / np.maximum(m, 1), 0.0)
    return rest * share, own + rest * tied


def tie_deficit(f: Array, t: Array, n: int) -> Array:
    """d(f, t) of the module, in nats: what a reply of mass t above a mass f takes from the analytic KL.

    By Gauss-Legendre quadrature: the closed form loses all its digits where t is small.
    """
    u = f[..., None] + t[..., None] * (1 + _NODES) / 2
    h = n * u ** (n - 1)
    weights = _WEIGHTS / 2
    g = (h * weights).sum(axis=-1)
    mean = (_x_log_x(h) * weights).sum(axis=-1)
    return np.asarray(np.maximum(0.0, mean - _x_log_x(g)))


def _x_log_x(x: Array) -> Array:
    return np.asarray(x * np.log(np.where(x > 0, x, 1.0)))
