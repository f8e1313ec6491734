"""Step 4: one PPO-ptx update (Eq. 2 of arXiv:2203.02155) over a round's episodes.

For each minibatch the PPO gradient and then the pretraining gradient are accumulated into the policy, and one
optimizer step is taken; the value network learns beside it with its own optimizer. Every loss is a sum over
tokens divided by the minibatch's count of them, so the cut into micro-batches changes nothing (field fault
16).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instructgpt.errors import CheckError
from instructgpt.maths.logprobs import token_logprobs_and_entropy
from instructgpt.maths.ppo import explained_variance, policy_loss, value_loss
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.model.linear import forget_rounded
from instructgpt.rlhf.rollout import Micro, Rollout, autocast, micro_batches, reply_hidden, torch_dtype
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.runtime.flops import training_flops
from instructgpt.runtime.optim import Ema, clip_gradients
from instructgpt.runtime.profile import phase, work
from instructgpt.runtime.seeds import derive_seed
from instructgpt.scoring.likelihood import accumulate, all_counted, counted

Stats = dict[str, float]


@dataclass
class Learner:
    """What an update changes."""

    policy: LanguageModel
    value: ScalarModel
    policy_optimizer: torch.optim.Optimizer
    value_optimizer: torch.optim.Optimizer
    ema: Ema | None
    skipped_in_a_row: int = 0
    """Optimizer steps up to now, without one taken in between, whose gradient was not finite."""


def update(
    learner: Learner,
    rollout: Rollout,
    advantages: Tensor,
    returns: Tensor,
    pretraining: Callable[[int], list[list[int]]] | None,
    config: PPOConfig,
    iteration: int,
) -> Stats:
    """Take `epochs` x `minibatches` optimizer steps and return the round's metrics, each loss under its own
    name.

    `advantages` and `returns` are (B, R); `pretraining` gives the token ids of the pretraining examples for
    an optimizer step counted from the start of the run, None = no ptx term. Metrics are means over the steps
    taken, but `ratio_max` is the largest and `skipped_steps` the number of steps that policy or value network
    skipped, their loss or gradient not being finite (field fault 21): weights, optimizer and average then
    stay as they were. In the first `value_warmup` rounds the policy rests and has no metrics. Units: losses
    as in `maths.ppo`, `ptx_loss` and `entropy` in nats per token. Where the old log-probs are the sampler's,
    `rollout_drift` is how far they are off the first step's pass, mean absolute nats.

    Raises:
        CheckError: the last `max_skipped` steps in a row were skipped; the last checkpoint stays good.
    """
    device = next(learner.policy.parameters()).device
    history: dict[str, list[Stats]] = {"policy": [], "value network": []}
    skipped = 0
    for epoch in range(config.epochs):
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "minibatches", iteration, epoch))
        order = torch.randperm(len(rollout.episodes.prompts), generator=generator)
        for number, rows in enumerate(order.chunk(config.minibatches)):
            step = (iteration * config.epochs + epoch) * config.minibatches + number
            minibatch = micro_batches(rollout.episodes, rows.tolist(), config.max_tokens, device)
            taken: dict[str, Stats | None] = {}
            if iteration >= config.value_warmup:
                documents = None if pretraining is None else pretraining(step)
                taken["policy"] = _policy_step(learner, minibatch, rollout, advantages, documents, config)
            taken["value network"] = _value_step(learner, minibatch, rollout, returns, config)
            for name, stats in taken.items():
                history[name] += [] if stats is None else [stats]
            failed = [name for name, stats in taken.items() if stats is None]
            skipped += bool(failed)
            learner.skipped_in_a_row = learner.skipped_in_a_row + 1 if failed else 0
            if learner.skipped_in_a_row >= config.max_skipped:
                raise _refuse(" and of the ".join(failed), config.max_skipped)
    metrics = _means(history["policy"]) | _means(history["value network"])
    metrics.pop("drift", None)
    if history["policy"]:
        if config.old_logprobs == "rollout":
            metrics["rollout_drift"] = history["policy"][0]["drift"]
        metrics["ratio_max"] = max(stats["ratio_max"] for stats in history["policy"])
    metrics["explained_variance"] = explained_variance(rollout.values, returns, rollout.mask).item()
    return metrics | {"skipped_steps": float(skipped)}


def _policy_step(
    learner: Learner,
    minibatch: Sequence[Micro],
    rollout: Rollout,
    advantages: Tensor,
    documents: Sequence[Sequence[int]] | None,
    config: PPOConfig,
) -> Stats | None:
    """One optimizer step of the policy, and of its average; returns the statistics, None if skipped."""
    stats = ppo_gradients(learner.policy, minibatch, rollout, advantages, config)
    if documents is not None:
        with phase("ptx"):
            stats["ptx_loss"] = ptx_gradients(learner.policy, documents, config)
    taken = _step(learner.policy_optimizer, "policy_grad_norm", stats, config.grad_clip)
    forget_rounded(learner.policy)  # of before the step; the value network's take their place
    if not taken:
        return None
    if learner.ema is not None:
        learner.ema.update(learner.policy)
    return stats


def _value_step(
    learner: Learner, minibatch: Sequence[Micro], rollout: Rollout, returns: Tensor, config: PPOConfig
) -> Stats | None:
    """One optimizer step of the value network; returns the statistics, None if skipped."""
    stats = value_gradients(learner.value, minibatch, rollout, returns, config)
    taken = _step(learner.value_optimizer, "value_grad_norm", stats, config.grad_clip)
    forget_rounded(learner.value)
    return stats if taken else None


def ppo_gradients(
    policy: LanguageModel,
    minibatch: Sequence[Micro],
    rollout: Rollout,
    advantages: Tensor,
    config: PPOConfig,
) -> Stats:
    """Add the gradient of a minibatch's clipped policy loss to the policy's; returns its statistics."""
    count = _tokens(minibatch)
    totals: Stats = {}
    for micro in minibatch:
        logprobs, entropy = policy_logprobs(policy, micro, config)
        loss, stats = policy_terms(logprobs, micro, rollout, advantages, count, config)
        loss.backward()
        work(training_flops(policy, *micro.size))
        _add(totals, stats | {"entropy": entropy.sum() / count})
    return totals


def policy_logprobs(policy: LanguageModel, micro: Micro, config: PPOConfig) -> tuple[Tensor, Tensor]:
    """(log-probability, entropy), each (n,) in nats, of the policy at a micro-batch's reply tokens."""
    hidden = reply_hidden(policy, micro, config.dtype)
    rounded = policy.rounded_unembedding(torch_dtype(config.dtype))
    with autocast(policy, config.dtype):
        return token_logprobs_and_entropy(
            hidden, policy.unembedding, micro.targets, config.temperature, rounded=rounded
        )


def policy_terms(
    logprobs: Tensor, micro: Micro, rollout: Rollout, advantages: Tensor, count: int, config: PPOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """A micro-batch's policy loss and statistics: its part of a minibatch with `count` reply tokens."""
    old, advantage = _at(rollout.old_logprobs, micro), _at(advantages, micro)
    everything = torch.ones_like(micro.targets, dtype=torch.bool)  # packed: only reply tokens are here
    loss, stats = policy_loss(logprobs, old, advantage, everything, config.clip, count)
    drift = (logprobs.detach() - old).abs().sum() / count
    return loss, {"policy_loss": loss.detach(), "drift": drift, **stats}


def ptx_gradients(policy: LanguageModel, documents: Sequence[Sequence[int]], config: PPOConfig) -> float:
    """Add ptx_coef x the gradient of the mean next-token loss over all tokens of the documents to the
    policy's.

    Returns that mean in nats per token, without the factor.
    """
    examples = all_counted(documents)
    work(training_flops(policy, sum(map(len, documents)), counted(examples)))
    return accumulate(policy, examples, config.ptx_coef, config.max_tokens, torch_dtype(config.dtype))


def value_gradients(
    value: ScalarModel, minibatch: Sequence[Micro], rollout: Rollout, returns: Tensor, config: PPOConfig
) -> Stats:
    """Add value_coef x the gradient of a minibatch's clipped value loss; statistics without the factor."""
    count = _tokens(minibatch)
    totals: Stats = {}
    for micro in minibatch:
        values = value.score(reply_hidden(value, micro, config.dtype))
        everything = torch.ones_like(micro.targets, dtype=torch.bool)
        old, wanted = _at(rollout.values, micro), _at(returns, micro)
        loss, stats = value_loss(values, old, wanted, everything, config.value_clip, count)
        (config.value_coef * loss).backward()
        work(training_flops(value, *micro.size))
        _add(totals, {"value_loss": loss.detach(), **stats})
    return totals


def _step(optimizer: torch.optim.Optimizer, name: str, stats: Stats, max_norm: float) -> bool:
    """Clip and step, or leave everything as it is where the loss or the gradient is not finite.

    Puts the gradient's norm before clipping into `stats` under `name`; False = the step was skipped.
    """
    norm = clip_gradients((p for group in optimizer.param_groups for p in group["params"]), max_norm)
    stats[name] = norm
    finite = all(math.isfinite(number) for number in stats.values())
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return finite


def _refuse(name: str, steps: int) -> CheckError:
    last = "the last step was" if steps == 1 else f"the last {steps} steps were"
    return CheckError(
        f"the gradient of the {name} is not finite, and {last} skipped for such a reason",
        "ppo",
        "lower --lr and --value-lr or the size of the rewards, then run the same command again: "
        "it goes on from the last checkpoint",
    )


def _means(history: Sequence[Stats]) -> Stats:
    """Mean of each statistic over the steps; empty without a step."""
    if not history:
        return {}
    return {name: sum(stats[name] for stats in history) / len(history) for name in history[0]}


def _tokens(minibatch: Sequence[Micro]) -> int:
    return sum(len(micro.targets) for micro in minibatch)


def _at(grid: Tensor, micro: Micro) -> Tensor:
    """The (n,) numbers of a (B, R) tensor that belong to a micro-batch, on its device."""
    return grid.view(-1)[micro.slots].to(micro.ids.device)


def _add(totals: Stats, stats: dict[str, Tensor]) -> None:
    for name, value in stats.items():
        number = value.item()
        before = totals.get(name, 0.0)
        totals[name] = max(before, number) if name == "ratio_max" else before + number
