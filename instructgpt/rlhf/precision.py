"""What a run computes in, and whose log-probs its ratios start from: decided once and kept."""

from __future__ import annotations

from dataclasses import replace

import torch

from instructgpt.model.linear import store_rounded
from instructgpt.rlhf.prepare import Parts
from instructgpt.rlhf.rollout import Rollout
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.runtime.checkpoint import Run
from instructgpt.runtime.precision import settle
from instructgpt.scoring.ask import leaves
from instructgpt.scoring.reward import Ensemble, RewardModel

EXACT = 1e-4
"""Nats by which the sampler's log-prob of a token may differ from the update's and be the same."""


def settle_precision(run: Run, parts: Parts, config: PPOConfig) -> PPOConfig:
    """The configuration with `dtype` and `old_logprobs` in place of auto.

    Where the passes are in half precision, the linear layers of the networks that never learn are kept in it
    alone: under autocast their numbers stay the same to the bit. `old_logprobs` stays auto until the first
    round has been judged.
    """
    dtype = settle(run.folder, config.dtype, parts.learner.policy)
    if dtype != torch.float32:
        frozen = [parts.reference.transformer]
        for scorer in (parts.reward, parts.judge):
            for leaf in leaves(scorer) if scorer is not None else ():
                for model in leaf.members if isinstance(leaf, Ensemble) else (leaf,):
                    if isinstance(model, RewardModel):
                        model.dtype = dtype
                        frozen.append(model.model.transformer)
        for module in frozen:
            store_rounded(module, dtype)
    run.computes(parts.learner.policy.unembedding.device, dtype)
    return replace(
        config,
        dtype="float32" if dtype == torch.float32 else "bfloat16",
        old_logprobs=parts.old_logprobs or config.old_logprobs,
    )


def settle_old_logprobs(rollout: Rollout, config: PPOConfig) -> PPOConfig:
    """With auto the first round's old log-probs come from the update's own pass; the sampler's are taken from
    then on where they were the same (field fault 9: a ratio that is not 1 before the first step)."""
    if config.old_logprobs != "auto":
        return config
    difference = (rollout.episodes.rollout_logprobs - rollout.old_logprobs).abs()[rollout.mask]
    exact = config.dtype == "float32" and bool((difference <= EXACT).all())
    return replace(config, old_logprobs="rollout" if exact else "update")
