"""What the methods without a value network need before their first round, and their checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from instructgpt.errors import CheckpointError
from instructgpt.model.adapter import tokenizer_folder
from instructgpt.model.heads import LanguageModel
from instructgpt.model.hf import save_model
from instructgpt.rlhf.alarms import Alarms
from instructgpt.rlhf.networks import Networks
from instructgpt.rlhf.prepare import PromptSet, load_prompts, special_ids
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.runtime.checkpoint import Run
from instructgpt.runtime.device import pick_device, pick_dtype
from instructgpt.runtime.memory import MemoryEstimate, estimate_memory
from instructgpt.runtime.optim import adamw, optimizer_tensors, restore_optimizer
from instructgpt.scoring.ask import check_prompts, leaves
from instructgpt.scoring.reward import Ensemble, Reward, RewardModel
from instructgpt.text.tokenizer import Tokenizer

_OPTIMIZER = "optimizer."


@dataclass
class Parts:
    """Everything that a run works with, and what it remembers from round to round."""

    tokenizer: Tokenizer
    policy: LanguageModel
    reference: LanguageModel
    optimizer: torch.optim.Optimizer
    reward: Reward
    prompts: PromptSet
    alarms: Alarms
    first: dict[str, float] = field(default_factory=dict)
    """Metrics of the first and of the latest round, for the summary; empty at a fresh start."""
    last: dict[str, float] = field(default_factory=dict)
    skipped_in_a_row: int = 0
    """Optimizer steps up to now, without one taken in between, whose gradient was not finite."""


def prepare(config: PPOConfig, inputs: dict[str, str | Path], run: Run) -> Parts:
    """Load everything, from the latest checkpoint of `run` where there is one.

    Raises:
        ConfigError, CheckpointError, DataError: an input that is missing, foreign or does not fit the others.
    """
    folder = Path(inputs["model"])
    tokenizer = Tokenizer.load(tokenizer_folder(folder))
    device = pick_device(config.device)
    run.computes(device, pick_dtype(config.dtype))
    networks = Networks(config, folder, run.latest, device)
    reference, policy = networks.reference(), networks.policy()
    prompts = load_prompts(config.prompts, tokenizer, reference.config.context, config)
    reward = networks.reward(str(inputs["reward"]))
    for leaf in leaves(reward):
        if isinstance(leaf, RewardModel | Ensemble) and leaf.tokenizer.fingerprint != tokenizer.fingerprint:
            raise CheckpointError(
                "the reward model reads other tokens than the policy writes",
                str(inputs["reward"]),
                "train the reward model from a model with the policy's tokenizer",
            )
    check_prompts(reward, prompts.prompts, config.prompts)
    betas = (config.beta1, config.beta2)
    optimizer = adamw(policy, config.lr, betas, config.eps, config.weight_decay)
    state, tensors = run.load_state()
    restore_optimizer(optimizer, policy, tensors, _OPTIMIZER)
    return Parts(
        tokenizer=tokenizer,
        policy=policy,
        reference=reference,
        optimizer=optimizer,
        reward=reward,
        prompts=prompts,
        alarms=Alarms(config, state.get("alarms")),
        first=dict(state.get("first", {})),
        last=dict(state.get("last", {})),
        skipped_in_a_row=int(state.get("skipped_in_a_row", 0)),
    )


def memory_of(parts: Parts, config: PPOConfig) -> MemoryEstimate:
    """What the policy's training takes beside the frozen models; what they share counts once."""
    frozen: list[nn.Module] = [parts.reference]
    for leaf in leaves(parts.reward):
        members = leaf.members if isinstance(leaf, Ensemble) else (leaf,)
        frozen += [member.model for member in members if isinstance(member, RewardModel)]
    return estimate_memory([parts.policy], frozen, tokens=config.max_tokens)


def save(run: Run, finished: int, parts: Parts, keep: int) -> None:
    """Write the checkpoint of `finished` rounds: the policy, with what resuming needs."""
    state: dict[str, Any] = {
        "alarms": parts.alarms.state(),
        "first": parts.first,
        "last": parts.last,
        "skipped_in_a_row": parts.skipped_in_a_row,
    }
    tensors = optimizer_tensors(parts.optimizer, parts.policy, _OPTIMIZER)
    run.save(
        finished,
        lambda folder: write_policy(folder, parts.policy, parts.tokenizer),
        tensors,
        state,
        keep=keep or None,
    )


def write_policy(folder: Path, policy: LanguageModel, tokenizer: Tokenizer) -> None:
    """A complete folder that transformers opens and whose generation ends with a reply's end."""
    save_model(policy, folder, special=special_ids(tokenizer))
    tokenizer.save(folder)
