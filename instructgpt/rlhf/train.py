"""PPO-ptx, the loop: prompts -> rollout -> scores -> rewards -> advantages -> updates with ptx batches."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from instructgpt.maths.kl import adapt_coefficient
from instructgpt.rlhf.advantage import estimate
from instructgpt.rlhf.checks import check_start, check_value_start
from instructgpt.rlhf.prepare import Parts, PromptSet, prepare, prompt_indices, resolve, save
from instructgpt.rlhf.reward import Rewards, shape_rewards
from instructgpt.rlhf.rollout import Episodes, Rollout, sample_episodes, score_rollout
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.rlhf.update import Learner, update
from instructgpt.runtime.checkpoint import Run, open_run
from instructgpt.runtime.device import tune_malloc
from instructgpt.runtime.metrics import MetricsLog
from instructgpt.runtime.optim import linear_warmup, set_lr

__all__ = ["PPOConfig", "train"]

_EVALUATION = (
    -1
)  # stands for the round in the keys of held-out replies, so that each measurement draws the same
_SAMPLES = 4


def train(config: PPOConfig) -> dict[str, Any]:
    """Train a policy by PPO-ptx (arXiv:2203.02155, section 3.5) and return its summary.

    Writes the run folder `config.out`: `checkpoints/step-N/` is the policy, with its moving average in `ema/`
    and the value network in `value/`; `metrics.jsonl` has a row a round, `samples.jsonl` some replies. Called
    again with the same configuration it goes on where it stopped, bit by bit on a CPU, or returns the summary
    of a finished run.

    Raises:
        InstructGPTError: input that can't be used (its subclasses say which), or CheckError: a self-check
        failed.
    """
    tune_malloc()
    inputs = resolve(config)
    with open_run(config.out, "ppo", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        parts = prepare(config, inputs, run)
        learner, beta = parts.learner, parts.kl_coefficient
        first, last = parts.first, parts.last
        finished, stopped = run.start, ""
        for iteration in run.steps(run.start, config.iterations, config.save_every):
            clock = _Clock()
            episodes = _sample(parts, parts.prompts, config, iteration)
            clock.lap("rollout")
            rollout = _score(parts, episodes, config)
            rewards = shape_rewards(rollout, beta, config.missing_eos_penalty)
            advantages, returns = estimate(
                rollout,
                rewards,
                gamma=config.gamma,
                lam=config.lam,
                whiten_rewards=config.whiten_rewards,
                whiten_advantages=config.whiten_advantages,
            )
            clock.lap("scoring")
            if iteration == run.start:
                _check(parts, rollout, advantages, config, fresh=iteration == 0)
            kl = rewards.kl.mean().item()
            if 0 < config.max_kl < kl:
                stopped = f"mean KL {kl:.3g} nats per reply is above --max-kl {config.max_kl:g}"
                break
            lr = _warm_up(learner, config, iteration)
            losses = update(learner, rollout, advantages, returns, parts.pretraining, config, iteration)
            clock.lap("update")
            finished = iteration + 1
            last = _describe(rollout, rewards, beta) | losses
            last |= {"beta": beta, "lr": lr} | clock.read(rollout)
            if config.eval_every > 0 and finished % config.eval_every == 0:
                last |= evaluate(parts, config)
            first = first or last
            run.log(finished, **last)
            if config.kl_target > 0:
                beta = adapt_coefficient(beta, kl, config.kl_target, config.batch, config.kl_horizon)
            if run.should_save(finished):
                _write_samples(run, finished, parts, rollout, rewards)
                save(run, finished, parts, config, {"kl_coefficient": beta, "first": first, "last": last})
        if stopped and run.latest != run.checkpoint(finished):
            save(run, finished, parts, config, {"kl_coefficient": beta, "first": first, "last": last})
        return run.finish(_summary(run, finished, stopped, parts, first, last))


def evaluate(parts: Parts, config: PPOConfig) -> dict[str, float]:
    """Score, KL, length and share of finished replies on held-out prompts; same random keys each time."""
    assert parts.eval_prompts is not None
    rollout = _score(parts, _sample(parts, parts.eval_prompts, config, _EVALUATION), config)
    described = _describe(
        rollout, shape_rewards(rollout, config.beta, config.missing_eos_penalty), config.beta
    )
    return {f"eval_{name}": described[name] for name in ("reward", "kl", "length", "eos_rate")}


def _sample(parts: Parts, source: PromptSet, config: PPOConfig, iteration: int) -> Episodes:
    """This round's prompts, or all of the source for an evaluation, with one reply each."""
    if iteration == _EVALUATION:
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


def _score(parts: Parts, episodes: Episodes, config: PPOConfig) -> Rollout:
    learner = parts.learner
    return score_rollout(
        episodes, learner.policy, parts.reference, learner.value, parts.reward, parts.tokenizer, config
    )


def _check(parts: Parts, rollout: Rollout, advantages: Tensor, config: PPOConfig, fresh: bool) -> None:
    """The self-checks after each start; V is the reward model only before the first update."""
    check_start(parts.learner, rollout, advantages, config)
    if fresh and parts.value_init == "reward":
        check_value_start(parts.learner.value, rollout, config)


def _warm_up(learner: Learner, config: PPOConfig, iteration: int) -> float:
    """Set this round's learning rates; returns the policy's."""
    factor = linear_warmup(iteration, config.warmup)
    set_lr(learner.policy_optimizer, factor * config.lr)
    set_lr(learner.value_optimizer, factor * config.value_lr)
    return factor * config.lr


def _describe(rollout: Rollout, rewards: Rewards, beta: float) -> dict[str, float]:
    """`reward`, `score_used`, `kl_reward`, `objective`: reward units a reply; `kl`, `rollout_drift`: nats."""
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


class _Clock:
    """Seconds of a round's phases."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now

    def read(self, rollout: Rollout) -> dict[str, float]:
        """Seconds of each phase; tokens a second of prompts and replies, and of replies in the rollout."""
        episodes = rollout.episodes
        replied = int(episodes.response_length.sum())
        tokens = replied + int(episodes.prompt_length.sum())
        return {
            "tokens_per_second": tokens / sum(self.seconds.values()),
            "rollout_tokens_per_second": replied / self.seconds["rollout"],
            **{f"seconds_{phase}": seconds for phase, seconds in self.seconds.items()},
        }


def _write_samples(run: Run, finished: int, parts: Parts, rollout: Rollout, rewards: Rewards) -> None:
    """Append a few replies of this round to samples.jsonl."""
    texts = rollout.episodes.texts(parts.tokenizer)
    log = MetricsLog(run.folder / "samples.jsonl", finished - 1)
    for row in range(min(_SAMPLES, len(texts))):
        log.write(
            {
                "step": finished,
                "prompt": rollout.episodes.prompts[row].text,
                "reply": texts[row],
                "stopped": bool(rollout.episodes.stopped[row]),
                "reward": rollout.scores[row].item(),
                "kl": rewards.kl[row].item(),
            }
        )
    log.close()


def _summary(
    run: Run, finished: int, stopped: str, parts: Parts, first: dict[str, float], last: dict[str, float]
) -> dict[str, Any]:
    return {
        "checkpoint": str(run.checkpoint(finished).relative_to(run.folder)),
        "iterations": finished,
        "stopped_early": stopped,
        "value_init": parts.value_init,
        "prompts": len(parts.prompts.prompts),
        "prompts_dropped": parts.prompts.dropped,
        "first": first,
        "last": last,
        **{name: last[name] for name in ("reward", "kl", "length", "eos_rate") if name in last},
    }
