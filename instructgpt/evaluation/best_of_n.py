"""Verb `best-of-n`: sample n replies to each prompt and keep the one that the reward likes best.

The simplest way to follow a reward, and the yardstick for PPO: for a reward without ties it moves the policy
by log n - (n - 1) / n nats (with ties by less; arXiv:2009.01325, appendix G.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from instructgpt.data.jsonl import expand
from instructgpt.data.records import Demonstration, Prompt, read_prompts, to_row
from instructgpt.errors import ConfigError
from instructgpt.generation.engine import MAX_ACTIVE
from instructgpt.generation.loading import open_model
from instructgpt.generation.reply import Reply, reply_requests, sample_replies
from instructgpt.generation.spool import Spool
from instructgpt.model.heads import LanguageModel
from instructgpt.runtime.checkpoint import Run, open_run
from instructgpt.runtime.device import pick_device, pick_dtype, tune_malloc
from instructgpt.scoring.reward import Reward, RewardModel, load_reward
from instructgpt.text.chat import render_prompt
from instructgpt.text.tokenizer import Tokenizer

FILE = "best.jsonl"


@dataclass(frozen=True)
class BestOfNConfig:
    """Sample n replies to each prompt and keep the best by reward."""

    model: str = ""
    """Checkpoint to sample from, or the folder of a finished stage."""
    reward: str = ""
    """Reward model (a folder), or module:function."""
    prompts: str = ""
    """Prompts: a JSONL file, a glob, or several with commas."""
    out: str = ""
    """Run folder for best.jsonl (demonstrations, so that `sft` can train on them) and summary.json."""
    n: int = 4
    """Replies to choose from."""
    max_new: int = 256
    """Largest length of a reply in tokens."""
    temperature: float = 1.0
    """Temperature of sampling."""
    seed: int = 0
    """Decides every reply, with the prompt's id and the number of the sample."""
    max_active: int = MAX_ACTIVE
    """Replies drawn at the same time: bounds memory, changes no reply."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the language model."""

    def __post_init__(self) -> None:
        for name in ("n", "max_active"):
            if getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{name} is {getattr(self, name)}", flag, "use at least 1")


def run(config: BestOfNConfig) -> dict[str, Any]:
    """Sample, score, choose; returns the summary.

    best.jsonl: a demonstration a prompt, with `reward` of the reply chosen and `rewards` of all n. Summary:
    `prompts`, `n`, `reward` (mean of the chosen), `reward_of_one` (mean of all: what n = 1 would give),
    `kl` (log n - (n-1)/n, nats per reply), `length`, `file`.

    Raises:
        ConfigError, DataError, CheckpointError, StorageError: see flags, prompts, models, disk.
        Interrupted: Ctrl-C; the same command goes on from there.
    """
    for name in ("model", "reward", "prompts"):
        if not getattr(config, name):
            where = "a file of prompts" if name == "prompts" else f"the folder of a {name}"
            raise ConfigError(f"--{name} is missing", "instructgpt best-of-n", f"give {where}")
    tune_malloc()
    files = ",".join(map(str, expand(config.prompts)))
    inputs = {"model": config.model, "reward": config.reward, "prompts": files}
    with open_run(config.out, "best-of-n", config, inputs) as opened:
        return opened.finished or _write(opened, config)


def _write(run: Run, config: BestOfNConfig) -> dict[str, Any]:
    device = pick_device(config.device)
    prompts = read_prompts(config.prompts)
    model, tokenizer = open_model(config.model, device, pick_dtype(config.dtype))
    reward = load_reward(config.reward, device)
    # Every prompt must fit before the first one is answered.
    reply_requests(
        model,
        tokenizer,
        prompts,
        1,
        config.max_new,
        config.temperature,
        config.seed,
        source=config.prompts,
    )
    portion = max(1, 2 * config.max_active // config.n)  # prompts
    spool = Spool(run.folder / FILE, portion)
    for step in run.steps(spool.done, -(-len(prompts) // portion)):
        rows = _choose(model, tokenizer, reward, prompts[step * portion : (step + 1) * portion], config)
        spool.append(rows)
        run.log(step + 1, reward=sum(row["reward"] for row in rows) / len(rows))
    rows = spool.rows()
    return run.finish(
        {
            "model": config.model,
            "reward_from": reward.name,
            "prompts": len(rows),
            "n": config.n,
            "reward": sum(row["reward"] for row in rows) / len(rows),
            "reward_of_one": sum(sum(row["rewards"]) for row in rows) / (len(rows) * config.n),
            "kl": best_of_n_kl(config.n),
            "length": sum(row["tokens"] for row in rows) / len(rows),
            "file": FILE,
        }
    )


def best_of_n_kl(n: int) -> float:
    """Nats per reply between best-of-n and the policy it samples from: log n - (n - 1) / n."""
    return math.log(n) - (n - 1) / n


def _choose(
    model: LanguageModel,
    tokenizer: Tokenizer,
    reward: Reward,
    prompts: Sequence[Prompt],
    config: BestOfNConfig,
) -> list[dict[str, Any]]:
    """One row a prompt: the reply of highest reward, the first of equals."""
    n = config.n
    replies = sample_replies(
        model,
        tokenizer,
        prompts,
        n,
        config.max_new,
        config.temperature,
        config.seed,
        max_active=config.max_active,
    )
    scores = score_replies(reward, tokenizer, prompts, replies)
    rows = []
    for prompt, row, rewards in zip(prompts, replies, scores, strict=True):
        best = max(range(n), key=rewards.__getitem__)
        rows.append(
            to_row(Demonstration(prompt, row[best].text))
            | {
                "reward": rewards[best],
                "rewards": rewards,
                "sample": best,
                "tokens": len(row[best].ids),
                "stopped": row[best].stopped,
            }
        )
    return rows


def score_replies(
    reward: Reward, tokenizer: Tokenizer, prompts: Sequence[Prompt], replies: Sequence[Sequence[Reply]]
) -> list[list[float]]:
    """Rewards [prompt][sample].

    A reward model of the same tokenizer reads the very ids, as in RL: a reply that was cut is scored as cut.
    Others read texts.
    """
    if isinstance(reward, RewardModel) and reward.tokenizer.fingerprint == tokenizer.fingerprint:
        sequences = []
        for prompt, row in zip(prompts, replies, strict=True):
            ids = render_prompt(tokenizer, prompt.messages)
            sequences += [[*ids, *reply.ids] for reply in row]
        flat = [float(score) for score in reward.score_ids(sequences).tolist()]
    else:
        asked = [prompt.messages for prompt, row in zip(prompts, replies, strict=True) for _ in row]
        flat = reward.score(asked, [reply.text for row in replies for reply in row])
    scores = iter(flat)
    return [[next(scores) for _ in row] for row in replies]
