"""A tiny world on disk: tokenizer, policy, reward model, prompts, pretraining text. All random."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from instructgpt.data.records import Prompt, read_prompts
from instructgpt.generation.engine import Completion
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, ScalarModel, new_language_model, new_scalar_model
from instructgpt.model.hf import save_model
from instructgpt.rlhf.rollout import Episodes, Rollout, build_episodes, episode_logprobs, micro_batches
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.rlhf.update import Learner
from instructgpt.runtime.optim import Ema, adamw
from instructgpt.scoring.selftest import write_selftest
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "the",
    "dog",
    "ran",
    "to",
    "the",
    "red",
    "house",
    "by",
    "the",
    "sea",
    "in",
    "the",
    "cold",
    "grey",
    "rain",
]


@dataclass(frozen=True)
class Tiny:
    """Paths, and the tokenizer they share."""

    folder: Path
    tokenizer: Tokenizer
    model_config: ModelConfig

    def config(self, out: Path | str = "", **changes: Any) -> PPOConfig:
        """Two rounds of eight short episodes in two minibatches, with a ptx term."""
        values: dict[str, Any] = {
            "out": str(out),
            "model": str(self.folder / "sft"),
            "reward": str(self.folder / "reward"),
            "prompts": str(self.folder / "prompts.jsonl"),
            "pretrain": str(self.folder / "texts.jsonl"),
            "iterations": 2,
            "batch": 8,
            "minibatches": 2,
            "max_new": 6,
            "ptx_ratio": 1.0,
            "ptx_length": 16,
            "lr": 1e-3,
            "value_lr": 1e-3,
            "device": "cpu",
        }
        return PPOConfig(**(values | changes))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, vocab_size=290)
    shape = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=32, layers=2, heads=2, context=160)
    policy, reward = new_language_model(shape, 1), new_scalar_model(shape, 2)
    reward.reward_bias = torch.tensor(0.25)
    for model, name in ((policy, "sft"), (reward, "reward")):
        save_model(model, folder / name)
        tokenizer.save(folder / name)
    write_selftest(folder / "reward", reward, tokenizer)
    prompts = [{"prompt": " ".join(WORDS[i : i + 1 + i % 4])} for i in range(12)]
    texts = [{"text": " ".join(WORDS[i:] + WORDS[:i])} for i in range(12)]
    for name, rows in (("prompts", prompts), ("texts", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Tiny(folder, tokenizer, shape)


@pytest.fixture
def prompts(tiny: Tiny) -> list[Prompt]:
    return read_prompts(tiny.folder / "prompts.jsonl")


@pytest.fixture
def episodes(tiny: Tiny) -> Episodes:
    """Eight hand-made episodes of every shape: one token, full length, stopped or not."""
    generator = torch.Generator().manual_seed(7)
    lengths = [1, 3, 6, 2, 6, 4, 1, 5]
    stopped = [True, True, False, True, True, True, False, True]
    prompt_ids, completions = [], []
    for number, length in enumerate(lengths):
        prompt_ids.append(torch.randint(10, 280, (2 + number,), generator=generator).tolist())
        ids = torch.randint(10, 280, (length,), generator=generator).tolist()
        if stopped[number]:
            ids[-1] = tiny.tokenizer.end_of_turn_id
        logprobs = (-torch.rand(length, generator=generator)).tolist()
        completions.append(Completion(ids, logprobs, stopped[number]))
    return build_episodes([Prompt.of(f"number {i}") for i in range(8)], prompt_ids, completions)


@pytest.fixture
def models(tiny: Tiny) -> tuple[LanguageModel, LanguageModel, ScalarModel]:
    """Policy, reference and value network, all different, lively enough that a wrong token shows."""
    policy = new_language_model(tiny.model_config, 1)
    reference = new_language_model(tiny.model_config, 5)
    value = new_scalar_model(tiny.model_config, 2)
    with torch.no_grad():
        for model in (policy, reference, value):
            for parameter in model.parameters():
                parameter.mul_(0.5) if parameter.dim() > 1 else parameter.add_(0.1)
    return policy, reference, value


@pytest.fixture
def rollout(episodes: Episodes, models: tuple[LanguageModel, LanguageModel, ScalarModel]) -> Rollout:
    """The episodes with the policy's own log-probs and otherwise random numbers."""
    generator = torch.Generator().manual_seed(3)
    mask = episodes.response_mask

    def draw() -> torch.Tensor:
        return torch.where(mask, torch.randn(mask.shape, generator=generator), 0.0)

    micros = micro_batches(episodes, range(8), 10_000)
    old = episode_logprobs(models[0], episodes, micros, 1.0)
    scores = torch.randn(8, generator=generator)
    return Rollout(episodes, old, torch.where(mask, old + 0.3 * draw(), 0.0), draw(), scores)


@pytest.fixture
def learner_of() -> Callable[..., Learner]:
    def make(policy: LanguageModel, value: ScalarModel, config: PPOConfig) -> Learner:
        betas = (config.beta1, config.beta2)
        return Learner(
            policy,
            value,
            adamw(policy, config.lr, betas, config.eps, config.weight_decay),
            adamw(value, config.value_lr, betas, config.eps, config.weight_decay),
            Ema(policy, config.ema) if config.ema > 0 else None,
        )

    return make
