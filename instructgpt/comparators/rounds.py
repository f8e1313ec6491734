"""Steps that rounds of several methods share: groups of replies, scores, self-check, optimizer step, logs."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from instructgpt.comparators.prepare import Parts
from instructgpt.errors import CheckError
from instructgpt.maths.policy_gradient import reinforce_loss
from instructgpt.model.heads import LanguageModel
from instructgpt.rlhf.alarms import Alarms
from instructgpt.rlhf.checks import DRIFT_TOLERANCE, HALF_TOLERANCE, RATIO_TOLERANCE
from instructgpt.rlhf.prepare import PromptSet, prompt_indices
from instructgpt.rlhf.rollout import (
    Episodes,
    Micro,
    Rollout,
    episode_logprobs,
    micro_batches,
    part_scores,
    sample_episodes,
)
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.rlhf.update import policy_logprobs
from instructgpt.runtime.checkpoint import Run
from instructgpt.runtime.flops import training_flops
from instructgpt.runtime.metrics import MetricsLog
from instructgpt.runtime.optim import clip_gradients
from instructgpt.runtime.profile import throughput, work
from instructgpt.runtime.seeds import derive_seed
from instructgpt.text.tokenizer import Tokenizer

Stats = dict[str, float]
_SAMPLES = 4


# -- sampling and scoring


def sample_groups(
    sampler: LanguageModel,
    tokenizer: Tokenizer,
    source: PromptSet,
    config: PPOConfig,
    iteration: int,
    group: int = 1,
) -> Episodes:
    """This round's `config.batch` replies: `group` of them to each prompt, which stand behind one another.

    Ancestral sampling at the temperature, no truncation; prompts and replies are keyed as in PPO.
    """
    places = prompt_indices(len(source.prompts), config.batch // group, iteration, config.seed)
    prompts, ids = source.take([place for place in places for _ in range(group)])
    return sample_episodes(
        sampler,
        prompts,
        ids,
        stop_ids=tokenizer.stop_ids,
        max_new=config.max_new,
        temperature=config.temperature,
        seed=config.seed,
        iteration=iteration,
        max_active=config.max_active,
    )


def score(parts: Parts, episodes: Episodes, config: PPOConfig) -> Rollout:
    """What policy, reference and reward say of the episodes; there is no value network, so values are 0."""
    rows = range(len(episodes.prompts))
    micros = micro_batches(episodes, rows, config.max_tokens, device_of(parts.policy))
    if config.old_logprobs == "rollout":
        old = episodes.rollout_logprobs
    else:
        old = episode_logprobs(parts.policy, episodes, micros, config.temperature, config.dtype)
    scores = part_scores(parts.reward, episodes, parts.tokenizer)
    return Rollout(
        episodes=episodes,
        old_logprobs=old,
        reference_logprobs=episode_logprobs(
            parts.reference, episodes, micros, config.temperature, config.dtype
        ),
        values=torch.zeros_like(old),
        scores=scores.total,
        part_scores=scores.parts,
    )


def check_start(policy: LanguageModel, rollout: Rollout, config: PPOConfig, verb: str) -> Stats:
    """Before the first update the policy's ratio must be 1, and the sampler must have drawn from the policy.

    Over the first minibatch; tolerances are PPO's (field faults 8 to 12). Returns what was measured.

    Raises:
        CheckError: training would start from a wrong ratio.
    """
    half = config.dtype == "bfloat16"
    episodes = rollout.episodes
    rows = range(min(len(episodes.prompts), config.batch // config.minibatches))
    errors = []
    with torch.no_grad():
        for micro in micro_batches(episodes, rows, config.max_tokens, device_of(policy)):
            logprobs, _ = policy_logprobs(policy, micro, config)
            errors.append((torch.exp(logprobs.cpu() - rollout.old_logprobs.view(-1)[micro.slots]) - 1).abs())
    error = torch.cat(errors)
    found = {"ratio_error": (error.mean() if half else error.max()).item()}
    if not found["ratio_error"] <= (HALF_TOLERANCE if half else RATIO_TOLERANCE):
        raise CheckError(
            f"before any update the policy ratio is off 1 by {found['ratio_error']:.2g}",
            verb,
            "use --old-logprobs update, and --dtype float32 on the CPU to find out why",
        )
    drift = (episodes.rollout_logprobs - rollout.old_logprobs).abs()[rollout.mask].mean().item()
    if not drift <= (HALF_TOLERANCE if half else DRIFT_TOLERANCE):
        raise CheckError(
            f"the replies were not drawn from the policy being trained: log-probs differ by {drift:.2g} nats",
            verb,
            "use --dtype float32; if it stays, cached and full forward pass of this model disagree",
        )
    return found | {"rollout_drift": drift}


# -- learning


def minibatch_rows(rows: int, config: PPOConfig, iteration: int) -> Iterator[list[int]]:
    """Row numbers of each minibatch of the round, epoch after epoch, shuffled as PPO's are."""
    for epoch in range(config.epochs):
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "minibatches", iteration, epoch))
        for chunk in torch.randperm(rows, generator=generator).chunk(config.minibatches):
            yield chunk.tolist()


def reinforce_gradients(
    policy: LanguageModel, minibatch: Sequence[Micro], advantages: Tensor, count: float, config: PPOConfig
) -> Stats:
    """Add the gradient of `reinforce_loss` with (B, R) advantages to the policy's; returns its statistics."""
    tokens = sum(len(micro.targets) for micro in minibatch)
    totals: Stats = {}
    for micro in minibatch:
        logprobs, entropy = policy_logprobs(policy, micro, config)
        everything = torch.ones_like(micro.targets, dtype=torch.bool)  # packed: only reply tokens are here
        loss = reinforce_loss(logprobs, at(advantages, micro), everything, count)
        loss.backward()
        work(training_flops(policy, *micro.size))
        add(totals, {"policy_loss": loss.detach(), "entropy": entropy.sum() / tokens})
    return totals


def at(grid: Tensor, micro: Micro) -> Tensor:
    """The (n,) numbers of a (B, R) tensor that belong to a micro-batch, on its device."""
    return grid.reshape(-1)[micro.slots].to(micro.ids.device)


def add(totals: Stats, stats: dict[str, Tensor]) -> None:
    """Add a micro-batch's statistics to a minibatch's; of `ratio_max` the larger one counts."""
    for name, value in stats.items():
        number, before = value.item(), totals.get(name, 0.0)
        totals[name] = max(before, number) if name == "ratio_max" else before + number


def take_step(optimizer: torch.optim.Optimizer, name: str, stats: Stats, max_norm: float) -> bool:
    """Clip and step, or leave everything as it is where the loss or the gradient is not finite (field fault
    21).

    Puts the gradient's norm before clipping into `stats` as `name`; False = the step was skipped.
    """
    stats[name] = clip_gradients((p for group in optimizer.param_groups for p in group["params"]), max_norm)
    finite = all(math.isfinite(number) for number in stats.values())
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return finite


def skipped_now(before: int, taken: bool, most: int, verb: str) -> int:
    """Steps skipped in a row, this one included.

    Raises:
        CheckError: they are as many as allowed; the last checkpoint stays good.
    """
    skipped = 0 if taken else before + 1
    if skipped >= most:
        raise CheckError(
            f"the gradient is not finite, and the last {skipped} steps were skipped for it",
            verb,
            "lower --lr or the size of the rewards, then run the same command again: it goes on from the "
            "last checkpoint",
        )
    return skipped


def policy_step(parts: Parts, stats: Stats, config: PPOConfig, verb: str) -> bool:
    """One optimizer step of the policy from the gradient that it holds; False = skipped, which is counted."""
    taken = take_step(parts.optimizer, "policy_grad_norm", stats, config.grad_clip)
    parts.skipped_in_a_row = skipped_now(parts.skipped_in_a_row, taken, config.max_skipped, verb)
    return taken


def means(history: Sequence[Stats]) -> Stats:
    """Mean of each statistic over the steps taken, of `ratio_max` the largest; empty without a step."""
    if not history:
        return {}
    found = {name: sum(stats[name] for stats in history) / len(history) for name in history[0]}
    if "ratio_max" in found:
        found["ratio_max"] = max(stats["ratio_max"] for stats in history)
    return found


def device_of(model: LanguageModel) -> torch.device:
    """Where the model's weights are."""
    return next(model.parameters()).device


# -- what a run says


def speed(run: Run, episodes: Episodes) -> Stats:
    """The round's timing, with tokens a second: of prompts and replies in all phases, of replies sampled."""
    replied = int(episodes.response_length.sum())
    return throughput(run.timing(), replied + int(episodes.prompt_length.sum()), replied)


def forget_alarms(run: Run) -> None:
    """Drop the alarms of rounds that are done again."""
    MetricsLog(run.folder / "alarms.jsonl", run.start).close()


def log_round(run: Run, alarms: Alarms, finished: int, metrics: Stats) -> None:
    """Write the round's row; the alarms that it sets off go to stderr and to alarms.jsonl."""
    run.log(finished, **metrics)
    for alarm in alarms.look(finished, metrics):
        log = MetricsLog(run.folder / "alarms.jsonl", alarm.step)
        log.write(alarm.row())
        log.close()
        print(f"instructgpt {run.verb}: {alarm}", file=sys.stderr)


def write_samples(
    run: Run, finished: int, tokenizer: Tokenizer, episodes: Episodes, **columns: Tensor
) -> None:
    """Append a few replies of this round to samples.jsonl, with their numbers of each (B,) column."""
    texts = episodes.texts(tokenizer)
    log = MetricsLog(run.folder / "samples.jsonl", finished - 1)
    for row in range(min(_SAMPLES, len(texts))):
        log.write(
            {
                "step": finished,
                "prompt": episodes.prompts[row].text,
                "reply": texts[row],
                "stopped": bool(episodes.stopped[row]),
                **{name: column[row].item() for name, column in columns.items()},
            }
        )
    log.close()


def summary(run: Run, finished: int, prompts: PromptSet, first: Stats, last: Stats) -> dict[str, Any]:
    """What every online method's summary holds; units as in docs/ppo.md."""
    shown = ("reward", "kl", "length", "eos_rate", "samples")
    return {
        "checkpoint": str(run.checkpoint(finished).relative_to(run.folder)),
        "iterations": finished,
        "prompts": len(prompts.prompts),
        "prompts_dropped": prompts.dropped,
        "first": first,
        "last": last,
        **{name: last[name] for name in shown if name in last},
    }
