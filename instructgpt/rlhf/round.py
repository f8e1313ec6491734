"""One round of PPO-ptx without files: prompts -> episodes -> judged -> learned from.

`train` runs these steps between checkpoints and logs; the certificate runs the same ones on a world whose
optimum is known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from instructgpt.rlhf.advantage import estimate
from instructgpt.rlhf.checks import check_start, check_value_start
from instructgpt.rlhf.prepare import Parts, PromptSet, prompt_indices
from instructgpt.rlhf.reward import Rewards, shape_rewards
from instructgpt.rlhf.rollout import Episodes, Rollout, sample_episodes, score_rollout
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.rlhf.update import Stats, update
from instructgpt.runtime.optim import linear_warmup, set_lr

EVALUATION = -1
"""Stands for the round in the keys of held-out replies, so that each measurement draws the same numbers."""


@dataclass(frozen=True)
class Judged:
    """A rollout with what each token earned and how much better than expected it was."""

    rollout: Rollout
    rewards: Rewards
    advantages: Tensor
    """(B, R), 0 beyond each reply."""
    returns: Tensor
    """(B, R) reward units, 0 beyond each reply: what the value network learns."""


def sample(parts: Parts, source: PromptSet, config: PPOConfig, iteration: int) -> Episodes:
    """This round's prompts, or all of the source for `EVALUATION`, with one reply each."""
    if iteration == EVALUATION:
        indices = list(range(len(source.prompts)))
    else:
        indices = prompt_indices(len(source.prompts), config.batch, iteration, config.seed)
    prompts, ids = source.take(indices)
    return sample_episodes(
        parts.learner.policy,
        prompts,
        ids,
        stop_ids=parts.tokenizer.stop_ids,
        max_new=config.max_new,
        temperature=config.temperature,
        seed=config.seed,
        iteration=iteration,
        max_active=config.max_active,
    )


def judge(parts: Parts, episodes: Episodes, config: PPOConfig, beta: float) -> Judged:
    """Score the episodes, price their KL at `beta` reward units a nat, and estimate advantages."""
    learner = parts.learner
    rollout = score_rollout(
        episodes, learner.policy, parts.reference, learner.value, parts.reward, parts.tokenizer, config
    )
    rewards = shape_rewards(rollout, beta, config.missing_eos_penalty)
    advantages, returns = estimate(
        rollout,
        rewards,
        gamma=config.gamma,
        lam=config.lam,
        whiten_rewards=config.whiten_rewards,
        whiten_advantages=config.whiten_advantages,
    )
    return Judged(rollout, rewards, advantages, returns)


def check(parts: Parts, judged: Judged, config: PPOConfig, fresh: bool) -> None:
    """The self-checks after each start; V is the reward model only before the first update (`fresh`).

    Raises:
        CheckError: training would start from something wrong; the message says what.
    """
    check_start(parts.learner, judged.rollout, judged.advantages, config)
    if fresh and parts.value_init == "reward":
        check_value_start(parts.learner.value, judged.rollout, config)


def learn(parts: Parts, judged: Judged, config: PPOConfig, iteration: int) -> Stats:
    """Set the round's learning rates and update policy and value network; returns the metrics with `lr`."""
    learner = parts.learner
    factor = linear_warmup(iteration, config.warmup)
    set_lr(learner.policy_optimizer, factor * config.lr)
    set_lr(learner.value_optimizer, factor * config.value_lr)
    stats = update(
        learner, judged.rollout, judged.advantages, judged.returns, parts.pretraining, config, iteration
    )
    return stats | {"lr": factor * config.lr}


def describe(judged: Judged, beta: float) -> dict[str, float]:
    """`reward`, `score_used`, `kl_reward`, `objective`: reward units a reply; `kl`, `rollout_drift`: nats."""
    rollout, rewards = judged.rollout, judged.rewards
    episodes = rollout.episodes
    kl = rewards.kl.mean().item()
    drift = (episodes.rollout_logprobs - rollout.old_logprobs).abs()[episodes.response_mask]
    score_used = rewards.scores.mean().item()
    return {
        "reward": rollout.scores.mean().item(),
        "kl": kl,
        "length": episodes.response_length.float().mean().item(),
        "eos_rate": episodes.stopped.float().mean().item(),
        "score_used": score_used,
        "kl_reward": -beta * kl,
        "objective": score_used - beta * kl,
        "rollout_drift": drift.mean().item(),
    }


def evaluate(parts: Parts, config: PPOConfig) -> dict[str, float]:
    """Score, KL, length and share of finished replies on held-out prompts; same random keys each time."""
    assert parts.eval_prompts is not None
    judged = judge(parts, sample(parts, parts.eval_prompts, config, EVALUATION), config, config.beta)
    described = describe(judged, config.beta)
    return {f"eval_{name}": described[name] for name in ("reward", "kl", "length", "eos_rate")}
