"""PPO-ptx, the loop: prompts -> rollout -> scores -> rewards -> advantages -> updates with ptx batches."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from instructgpt.maths.kl import adapt_coefficient
from instructgpt.rlhf.alarms import Alarm, Alarms
from instructgpt.rlhf.precision import settle_old_logprobs, settle_precision
from instructgpt.rlhf.prepare import Parts, memory_of, prepare, resolve, save
from instructgpt.rlhf.reward import Rewards
from instructgpt.rlhf.rollout import Rollout
from instructgpt.rlhf.round import check, describe, evaluate, judge, learn, sample
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.runtime.checkpoint import Run, open_run
from instructgpt.runtime.device import tune_malloc
from instructgpt.runtime.memory import announce_memory
from instructgpt.runtime.metrics import MetricsLog
from instructgpt.runtime.profile import phase, throughput

__all__ = ["PPOConfig", "train"]

_SAMPLES = 4


def train(config: PPOConfig) -> dict[str, Any]:
    """Train a policy by PPO-ptx (arXiv:2203.02155, section 3.5) and return its summary.

    Writes the run folder `config.out`: `checkpoints/step-N/` is the policy, with its moving average in `ema/`
    and the value network in `value/`; `metrics.jsonl` has a row a round, `samples.jsonl` some replies,
    `alarms.jsonl` what the live checks said. Called again with the same configuration it goes on where it
    stopped, bit by bit on a CPU, or returns the summary of a finished run.

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
        config = settle_precision(run, parts, config)
        memory = memory_of(parts, config)
        announce_memory("ppo", memory, config.max_tokens)
        beta, first, last = parts.kl_coefficient, parts.first, parts.last
        alarms = Alarms(config, parts.alarms)
        finished, stopped = run.start, parts.stopped

        def write_checkpoint() -> None:
            state = {"kl_coefficient": beta, "first": first, "last": last, "stopped": stopped}
            state |= {"old_logprobs": config.old_logprobs, "alarms": alarms.state()}
            save(run, finished, parts, config, state)

        MetricsLog(run.folder / "alarms.jsonl", run.start).close()  # drops alarms of rounds to be done again
        for iteration in run.steps(run.start, run.start if stopped else config.iterations, config.save_every):
            with phase("rollout"):
                episodes = sample(parts, parts.prompts, config, iteration)
            with phase("scoring"):
                judged = judge(parts, episodes, config, beta)
            rollout, rewards = judged.rollout, judged.rewards
            config = settle_old_logprobs(rollout, config)
            if iteration == run.start:
                check(parts, judged, config, fresh=iteration == 0)
            kl = rewards.kl.mean().item()
            if 0 < config.max_kl < kl:
                stopped = f"mean KL {kl:.3g} nats per reply is above --max-kl {config.max_kl:g}"
                break
            with phase("update"):
                losses = learn(parts, judged, config, iteration)
            finished = iteration + 1
            last = describe(judged, beta, first.get("length"))
            last |= losses | {"beta": beta} | _speed(run.timing(), rollout)
            if config.eval_every > 0 and finished % config.eval_every == 0:
                with phase("evaluate"):
                    last |= evaluate(parts, config)
            first = first or last
            run.log(finished, **last)
            rung = alarms.look(finished, last)
            _announce(run, rung)
            if rung and config.on_alarm == "stop":
                stopped = "alarm: " + ", ".join(alarm.name for alarm in rung)
            if config.kl_target > 0:
                beta = adapt_coefficient(beta, kl, config.kl_target, config.batch, config.kl_horizon)
            if run.should_save(finished):
                _write_samples(run, finished, parts, rollout, rewards)
                write_checkpoint()
            if stopped:
                break
        if stopped and run.latest != run.checkpoint(finished):
            write_checkpoint()
        summary = _summary(run, finished, stopped, parts, first, last) | {"alarms": alarms.counts}
        return run.finish(summary | {"memory_estimate_mib": memory.rounded()})


def _speed(timing: dict[str, float], rollout: Rollout) -> dict[str, float]:
    """The timing with tokens a second: of prompts and replies in all phases, of replies in the rollout."""
    episodes = rollout.episodes
    replied = int(episodes.response_length.sum())
    tokens = replied + int(episodes.prompt_length.sum())
    return throughput(timing, tokens, replied)


def _announce(run: Run, alarms: Sequence[Alarm]) -> None:
    """Say on stderr which alarms a round set off, and append them to alarms.jsonl."""
    for alarm in alarms:
        log = MetricsLog(run.folder / "alarms.jsonl", alarm.step)
        log.write(alarm.row())
        log.close()
        print(f"instructgpt ppo: {alarm}", file=sys.stderr)


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
