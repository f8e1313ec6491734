"""The alignment tax as a trade: which share of the lost pretraining loss comes back, at what price in reward?

PPO alone raises the loss on pretraining text above that of the model it started from. Two dials bring it back
(arXiv:2203.02155, App. E, Figures 33 and 34): the ptx coefficient, and the price beta on KL. For a run c
beside PPO alone (ptx 0, the usual beta), with L the loss on held-out pretraining text, R the mean reward on
held-out prompts and "start" the SFT model:

    recovered = (L(PPO) - L(c)) / (L(PPO) - L(start))        1 = all of it; above 1 = better than the start
    cost      = (R(PPO) - R(c)) / (R(PPO) - R(start))        of the reward gained; below 0 = more reward
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from instructgpt.evaluation.best_of_n_curve import Array
from instructgpt.evaluation.statistics import Estimate, bootstrap

RECOVERED, COST = 0.8, 0.15
"""A good coefficient recovers at least the first share, at less than the second of the reward gained."""
DRAWS = 1000


@dataclass(frozen=True)
class Measured:
    """A model of the sweep.

    Attributes:
        name: of its folder, or "start".
        ptx_coef, beta: of the run; 0 for the start.
        reward: one a prompt (P,).
        nats, tokens: loss on pretraining text and predicted tokens, one a document (D,).
    """

    name: str
    ptx_coef: float
    beta: float
    reward: Array
    nats: Array
    tokens: Array


@dataclass(frozen=True)
class Trade:
    """What a run brings beside PPO alone; intervals of `recovered` over documents, of `cost` over prompts."""

    name: str
    ptx_coef: float
    beta: float
    recovered: Estimate
    cost: Estimate

    @property
    def good(self) -> bool:
        """Enough recovered, at little cost."""
        return self.recovered.mean >= RECOVERED and self.cost.mean < COST


@dataclass(frozen=True)
class Verdict:
    """Both dials beside PPO alone.

    Attributes:
        alone: name of the run that is PPO alone.
        lost: nats per token that PPO alone lost, with its interval over documents.
        gained: reward that PPO alone gained, with its interval over prompts.
        ptx: runs of the usual beta, by rising ptx coefficient.
        beta: runs without ptx, by rising beta.
        text: one sentence.
    """

    alone: str
    lost: Estimate
    gained: Estimate
    ptx: list[Trade]
    beta: list[Trade]
    text: str

    @property
    def holds(self) -> bool:
        """A ptx coefficient is good, and no beta is."""
        lost = self.lost.mean > 0 and self.gained.mean > 0
        return lost and any(trade.good for trade in self.ptx) and not any(trade.good for trade in self.beta)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (loss, reward) that no other beats: less loss at no less reward, or the reverse.

    In the order of rising loss; of equal points all are kept.
    """
    front = [
        i
        for i, (loss, reward) in enumerate(points)
        if not any(
            other_loss <= loss and other >= reward and (other_loss < loss or other > reward)
            for other_loss, other in points
        )
    ]
    return sorted(front, key=lambda i: points[i])


def judge_dials(start: Measured, runs: Sequence[Measured], usual: float, seed: int = 0) -> Verdict | None:
    """The verdict on a sweep; None if it has no run of PPO alone at the usual beta.

    Args:
        usual: the beta at which the ptx coefficient is varied.
        seed: draws the resamples.
    """
    alone = next((run for run in runs if run.ptx_coef == 0 and run.beta == usual), None)
    if alone is None:
        return None
    documents, prompts = len(alone.nats), len(alone.reward)
    lost = bootstrap(lambda rows: _loss(alone, rows) - _loss(start, rows), documents, seed, draws=DRAWS)
    gained = bootstrap(lambda rows: _gain(alone, start, rows), prompts, seed, draws=DRAWS)
    ptx = sorted((run for run in runs if run.beta == usual and run.ptx_coef > 0), key=lambda r: r.ptx_coef)
    beta = sorted((run for run in runs if run.ptx_coef == 0 and run.beta != usual), key=lambda r: r.beta)
    mixes, prices = ([trade(start, alone, run, seed) for run in dial] for dial in (ptx, beta))
    return Verdict(alone.name, lost, gained, mixes, prices, _sentence(lost, gained, mixes, prices))


def trade(start: Measured, alone: Measured, run: Measured, seed: int = 0) -> Trade:
    """What `run` recovers of the loss that PPO alone lost, and its cost in reward."""

    def recovered(rows: np.ndarray) -> float:
        lost = _loss(alone, rows) - _loss(start, rows)
        return _ratio(_loss(alone, rows) - _loss(run, rows), lost)

    def cost(rows: np.ndarray) -> float:
        return _ratio(_gain(alone, run, rows), _gain(alone, start, rows))

    return Trade(
        run.name,
        run.ptx_coef,
        run.beta,
        bootstrap(recovered, len(alone.nats), seed, draws=DRAWS),
        bootstrap(cost, len(alone.reward), seed, draws=DRAWS),
    )


def _loss(model: Measured, rows: np.ndarray) -> float:
    return float(model.nats[rows].sum() / model.tokens[rows].sum())


def _gain(ours: Measured, theirs: Measured, rows: np.ndarray) -> float:
    return float(ours.reward[rows].mean() - theirs.reward[rows].mean())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole != 0 else float("nan")


def _sentence(lost: Estimate, gained: Estimate, ptx: Sequence[Trade], beta: Sequence[Trade]) -> str:
    if lost.mean <= 0:
        return f"PPO alone lost no pretraining loss ({lost.mean:+.4f} nats per token): there is no tax."
    if gained.mean <= 0:
        return f"PPO alone gained no reward ({gained.mean:+.3f}): there is nothing to weigh the tax against."
    wanted = f"{RECOVERED:.0%} of the loss at less than {COST:.0%} of the reward gained"
    good = [trade for trade in ptx if trade.good]
    if good:
        best = min(good, key=lambda trade: trade.cost.mean)
        first = (
            f"Of {len(ptx)} ptx coefficients {len(good)} recover {wanted}; {best.ptx_coef:g} recovers "
            f"{best.recovered.mean:.0%} at {best.cost.mean:.0%}"
        )
    else:
        first = f"None of {len(ptx)} ptx coefficients recovers {wanted}"
    also = [f"{trade.beta:g}" for trade in beta if trade.good]
    second = f"beta {', '.join(also)} does so too" if also else f"none of {len(beta)} betas does"
    return f"{first}; {second}."
