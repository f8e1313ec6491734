"""One round of PPO on Transformers of two layers, and the same numbers the slow way: a reply at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from instructgpt.doctor.certificate import MAX_NEW, PROMPTS, VOCABULARY, assemble
from instructgpt.doctor.world import enumerate_world
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, ScalarModel, new_language_model, new_scalar_model
from instructgpt.rlhf.prepare import Parts
from instructgpt.rlhf.rollout import Rollout
from instructgpt.rlhf.round import Judged, judge, sample
from instructgpt.rlhf.settings import PPOConfig

CONFIG = PPOConfig(
    batch=16,
    minibatches=1,
    max_new=MAX_NEW,
    beta=0.3,
    temperature=0.8,
    lr=1e-3,
    value_lr=1e-3,
    warmup=0,
    ptx_coef=0.0,
    grad_clip=0.0,
    max_tokens=24,
)
"""Sixteen replies to two prompts, in several micro-batches; a temperature, so that one forgotten shows."""
SHAPE = ModelConfig.llama(vocab_size=VOCABULARY, width=16, layers=2, heads=2, context=12)
BIAS = 0.25
"""The reward model's mean-0 shift."""
DOCUMENTS = ((5, 3, 1, 4, 6), (2, 6), (1, 1, 4, 5, 2, 3, 6, 2))


@dataclass(frozen=True)
class Tiny:
    """Parts of a run with one judged round of it."""

    parts: Parts
    judged: Judged
    config: PPOConfig

    @property
    def rollout(self) -> Rollout:
        """What was sampled, and what the networks say of it."""
        return self.judged.rollout

    def pairs(self) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, reply ids) of every row."""
        episodes = self.rollout.episodes
        return [
            (list(prompt), row[len(prompt) :])
            for prompt, row in zip(episodes.prompt_ids, episodes.sequences(), strict=True)
        ]


def tiny_round(device: torch.device, **changes: object) -> Tiny:
    """A fresh round: policy, reference and reward model random and different, V the reward model's copy."""
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    policy, reference = new_language_model(SHAPE, 1), new_language_model(SHAPE, 2)
    reward = new_scalar_model(SHAPE, 3)
    reward.reward_bias.fill_(BIAS)
    world = enumerate_world(VOCABULARY, MAX_NEW, PROMPTS)
    parts = assemble(
        world, policy.to(device), reference.to(device).requires_grad_(False), reward.to(device), config
    )
    judged = judge(parts, sample(parts, parts.prompts, config, 0), config, config.beta)
    return Tiny(parts, judged, config)


def slow_logprobs(
    model: LanguageModel, prompt: Sequence[int], reply: Sequence[int], temperature: float = 1.0
) -> Tensor:
    """(n,) nats: log-probabilities of one reply, each from the whole softmax over the vocabulary."""
    hidden = _hidden(model, prompt, reply)
    full = torch.log_softmax(hidden @ model.unembedding.T / temperature, dim=1)
    return torch.stack([full[len(prompt) + t - 1, token] for t, token in enumerate(reply)])


def slow_values(model: ScalarModel, prompt: Sequence[int], reply: Sequence[int]) -> Tensor:
    """(n + 1,) reward units: a scalar model's numbers before each token of one reply, and after its last."""
    return (_hidden(model, prompt, reply) @ model.head.weight[0] - BIAS)[len(prompt) - 1 :]


def _hidden(model: LanguageModel | ScalarModel, prompt: Sequence[int], reply: Sequence[int]) -> Tensor:
    device = next(model.parameters()).device
    ids = torch.tensor([*prompt, *reply], device=device)
    hidden: Tensor = model(ids, torch.arange(len(ids), device=device), [len(ids)])
    return hidden
