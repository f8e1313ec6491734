"""The policy that PPO aims at, estimated from replies of the model it starts from.

Of all policies pi, mean reward less beta x KL(pi, p) is largest for pi* = p exp(r / beta) / Z, and is there
beta log Z above a reward of 0 (arXiv:2305.18290, App. A.1). With N replies of p to a prompt, pi* is the
softmax of r / beta over them. E log of a mean of N is at most the log of its expectation: the objective
estimated is a little too low, and more so for a small beta, where the estimated KL can't pass log N either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instructgpt.errors import DataError
from instructgpt.evaluation.best_of_n_curve import Array


@dataclass(frozen=True)
class Optimum:
    """pi* on P prompts, all (P,): mean reward, KL to p in nats per reply, reward less beta x KL."""

    reward: Array
    kl: Array
    objective: Array


def optimum(rewards: Array, beta: float) -> Optimum:
    """Estimate pi* from the rewards (P, N) of N replies drawn from p to each of P prompts.

    Raises:
        DataError: beta is not above 0: without a price of KL there is no optimum.
    """
    if not beta > 0:
        raise DataError(f"a beta of {beta} has no optimum", cure="give a beta above 0")
    scaled = rewards / beta
    largest = scaled.max(axis=1, keepdims=True)
    masses = np.exp(scaled - largest)
    total = masses.sum(axis=1, keepdims=True)
    reward = (masses / total * rewards).sum(axis=1)
    log_z = (largest + np.log(total / rewards.shape[1])).squeeze(1)
    return Optimum(reward, reward / beta - log_z, beta * log_z)
