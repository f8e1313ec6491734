"""One round of PPO-ptx without files: prompts -> episodes -> judged -> learned from.

`train` runs these steps between checkpoints and logs; the certificate runs the same ones on a world whose
optimum is known exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from instructgpt.maths.length_control import correlation, value_at
from instructgpt.rlhf.advantage import estimate
from instructgpt.rlhf.checks import check_start, check_value_start
from instructgpt.rlhf.prepare import Parts, PromptSet, prompt_indices
from instructgpt.rlhf.reward import Rewards, shape_rewards
from instructgpt.rlhf.rollout import Episodes, Rollout, episode_scores, sample_episodes, score_rollout
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
        dtype=config.dtype,
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
        rollout = judged.rollout
        if rollout.member_scores is not None:  # V is a copy of the first member, not of their mean
            rollout = replace(rollout, scores=rollout.member_scores[0])
        check_value_start(parts.learner.value, rollout, config)


def learn(parts: Parts, judged: Judged, config: PPOConfig, iteration: int) -> Stats:
    """Set the round's learning rates and update policy and value network; returns the metrics with `lr`."""
    learner = parts.learner
    policy_rate, value_rate = learning_rates(config, iteration)
    set_lr(learner.policy_optimizer, policy_rate)
    set_lr(learner.value_optimizer, value_rate)
    stats = update(
        learner, judged.rollout, judged.advantages, judged.returns, parts.pretraining, config, iteration
    )
    return stats | {"lr": policy_rate}


def learning_rates(config: PPOConfig, iteration: int) -> tuple[float, float]:
    """(policy's, value network's) learning rate of a round, counted from 0.

    Linear warm-up from a tenth over `warmup` rounds ([P] C.4), which for the policy begin when it begins to
    learn; with `lr_schedule` linear both also fall by the share of the rounds that are done: the first round
    has all of it, the last one 1 / iterations ([L], [N]).
    """
    left = 1.0 if config.lr_schedule == "constant" else 1.0 - iteration / config.iterations
    resting = iteration < config.value_warmup
    policy = 0.0 if resting else linear_warmup(iteration - config.value_warmup, config.warmup) * config.lr
    return left * policy, left * (linear_warmup(iteration, config.warmup) * config.value_lr)


def describe(judged: Judged, beta: float, start_length: float | None = None) -> dict[str, float]:
    """A round's rewards and replies: means over its B replies; units as in docs/ppo.md.

    `start_length` is the mean length of the first round's replies, which the SFT model wrote; None = this is
    that round. `reward_at_start_length` is the score that a reply of this length would have, by least squares
    of score on length within the round: a rise of `reward` that it does not share comes from length alone.
    """
    rollout, rewards = judged.rollout, judged.rewards
    episodes = rollout.episodes
    kl = rewards.kl.mean().item()
    drift = (episodes.rollout_logprobs - rollout.old_logprobs).abs()[episodes.response_mask]
    score_used = rewards.scores.mean().item()
    lengths = episodes.response_length.float()
    mean_length = lengths.mean().item()
    described = {
        "reward": rollout.scores.mean().item(),
        "kl": kl,
        "length": mean_length,
        "eos_rate": episodes.stopped.float().mean().item(),
        "score_used": score_used,
        "kl_reward": -beta * kl,
        "objective": score_used - beta * kl,
        "rollout_drift": drift.mean().item(),
        "kl_k3": rewards.kl_k3.mean().item(),
        "kl_std": rewards.kl.std(unbiased=False).item(),
        "score_std": rewards.scores.std(unbiased=False).item(),
        "reward_length_correlation": correlation(lengths, rollout.scores).item(),
        "reward_at_start_length": value_at(
            lengths, rollout.scores, mean_length if start_length is None else start_length
        ).item(),
    }
    if rollout.member_scores is not None:
        described["reward_disagreement"] = rollout.member_scores.std(0, unbiased=False).mean().item()
    if rollout.failed_requests is not None:
        described["reward_failures"] = float(rollout.failed_requests)
    return described | {
        f"reward_{name}": scores.mean().item() for name, scores in rollout.part_scores.items()
    }


def evaluate(parts: Parts, config: PPOConfig) -> dict[str, float]:
    """Score, KL, length and share of finished replies on held-out prompts; same random keys each time.

    With a judge also its mean score and the standard error of that mean, in the judge's units.
    """
    assert parts.eval_prompts is not None
    judged = judge(parts, sample(parts, parts.eval_prompts, config, EVALUATION), config, config.beta)
    described = describe(judged, config.beta)
    parts_of_reward = [f"reward_{name}" for name in judged.rollout.part_scores]
    shown = ("reward", "kl", "length", "eos_rate", *parts_of_reward)
    found = {f"eval_{name}": described[name] for name in shown}
    if parts.judge is not None:
        scores = episode_scores(parts.judge, judged.rollout.episodes, parts.tokenizer)
        error = scores.std(unbiased=False).item() / math.sqrt(len(scores))
        found |= {"eval_judge": scores.mean().item(), "eval_judge_se": error}
    return found
