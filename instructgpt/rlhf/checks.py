"""Self-checks before the first update: a wrong mask, index, temperature or head shows at learning rate 0."""

from __future__ import annotations

import torch
from torch import Tensor

from instructgpt.errors import CheckError
from instructgpt.model.heads import ScalarModel
from instructgpt.rlhf.rollout import Micro, Rollout, autocast, micro_batches
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.rlhf.update import Learner, Stats, policy_logprobs, policy_terms
from instructgpt.scoring.batches import score_ids

RATIO_TOLERANCE = 1e-4
"""Largest |ratio - 1| before the first update in float32."""
DRIFT_TOLERANCE = 1e-3
"""Largest mean |difference| in nats between the sampler's and the update's log-probs in float32."""
HALF_TOLERANCE = 0.1
"""Both of the above, as means, in bfloat16 (measured on a 135M model: 0.05)."""
VALUE_TOLERANCE = 1e-3
"""Largest |V(last token) - score| relative to the score's size, at least 1."""


def check_start(learner: Learner, rollout: Rollout, advantages: Tensor, config: PPOConfig) -> Stats:
    """The first minibatch's loss without a step: ratio 1, nothing clipped, no KL to itself (field faults
    8-11).

    Also compares the sampler's log-probs with those that the update starts from. Returns what was measured.

    Raises:
        CheckError: training would start from a wrong ratio; the message names the likely cause.
    """
    half = config.dtype == "bfloat16"
    micros = _first_minibatch(rollout, config, next(learner.policy.parameters()).device)
    count = sum(len(micro.targets) for micro in micros)
    found = {"approx_kl": 0.0, "clip_fraction": 0.0, "ratio_error": 0.0}
    with torch.no_grad():
        for micro in micros:
            logprobs, _ = policy_logprobs(learner.policy, micro, config)
            _, stats = policy_terms(logprobs, micro, rollout, advantages, count, config)
            found["approx_kl"] += stats["approx_kl"].item()
            found["clip_fraction"] += stats["clip_fraction"].item()
            ratio = torch.exp(logprobs.cpu() - rollout.old_logprobs.view(-1)[micro.slots])
            error = (ratio - 1).abs()
            found["ratio_error"] = max(found["ratio_error"], (error.mean() if half else error.max()).item())
    if not found["ratio_error"] <= (HALF_TOLERANCE if half else RATIO_TOLERANCE):
        by_sampler = config.old_logprobs == "rollout"
        cause = (
            "the sampler's log-probs are not those of the update"
            if by_sampler
            else "the same weights give other log-probs when the batch is cut differently"
        )
        raise CheckError(
            f"before any update the policy ratio is off 1 by {found['ratio_error']:.2g}: {cause}",
            "ppo",
            "use --old-logprobs update" if by_sampler else "use --dtype float32 on the CPU to find out why",
        )
    episodes = rollout.episodes
    drift = (episodes.rollout_logprobs - rollout.old_logprobs).abs()[episodes.response_mask].mean().item()
    if not drift <= (HALF_TOLERANCE if half else DRIFT_TOLERANCE):
        raise CheckError(
            f"the replies were not drawn from the policy being trained: log-probs differ by {drift:.2g} nats",
            "ppo",
            "use --dtype float32; if it stays, cached and full forward pass of this model disagree",
        )
    return found | {"rollout_drift": drift}


def check_value_start(value: ScalarModel, rollout: Rollout, config: PPOConfig) -> float:
    """V at the last token must be the reward model's score when V was copied from it (field fault 20).

    Returns the largest difference in reward units over the first minibatch.

    Raises:
        CheckError: the value network is not the reward model.
    """
    rows = range(min(len(rollout.scores), config.batch // config.minibatches))
    scores = rollout.scores[: len(rows)]
    with autocast(value, config.dtype):
        difference = (score_ids(value, rollout.episodes.sequences(rows), config.max_tokens) - scores).abs()
    tolerance = HALF_TOLERANCE if config.dtype == "bfloat16" else VALUE_TOLERANCE
    if not bool((difference <= tolerance * scores.abs().clamp(min=1)).all()):
        raise CheckError(
            "the value network gives other numbers than the reward model it was copied from, by up to "
            f"{difference.max().item():.2g}",
            "ppo",
            "reward model and tokenizer must be one checkpoint: copy the whole folder again",
        )
    return difference.max().item()


def _first_minibatch(rollout: Rollout, config: PPOConfig, device: torch.device) -> list[Micro]:
    rows = range(min(len(rollout.scores), config.batch // config.minibatches))
    return micro_batches(rollout.episodes, rows, config.max_tokens, device)
