"""The fixed little world of the golden runs, and the configuration of each stage on it.

Everything follows from the arithmetic below and from seeds. No stage starts from another one's result, so
that a change in one of them changes one golden run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, ScalarModel, new_language_model, new_scalar_model
from instructgpt.model.hf import save_model
from instructgpt.pretrain import train as pretrain
from instructgpt.reward_model import train as reward
from instructgpt.rlhf import train as ppo
from instructgpt.scoring.selftest import write_selftest
from instructgpt.sft import train as sft
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

STEPS = 50
CONTEXT = 96

_WHO = ("the grey fox", "a small cat", "the old miller", "her brother", "one tall guard", "the red hen")
_DID = ("walks to", "looks at", "sings in", "never leaves", "builds", "dreams of", "paints")
_WHERE = ("the mill", "a stone bridge", "the harbour", "our garden", "that hill")
_COLOURS = ("red", "blue", "green", "grey")


def _sentence(number: int) -> str:
    who, did, where = _WHO[number % 6], _DID[number * 3 % 7], _WHERE[number * 2 % 5]
    return f"{who} {did} {where}" + (f" with {number % 4 + 2} friends" if number % 3 == 0 else "")


def _texts(numbers: Iterable[int]) -> list[dict[str, str]]:
    """Three to eight sentences each: some windows hold pieces of over 64 tokens, for which attention takes
    another path."""
    return [
        {"text": ". ".join(_sentence(number + 11 * part) for part in range(3 + number * 5 % 6))}
        for number in numbers
    ]


def _question(number: int) -> str:
    return (
        f"where is {_WHO[number % 6]}?"
        if number % 2
        else f"say {_COLOURS[number % 4]} {number % 5 + 1} times"
    )


def _demonstrations(numbers: Iterable[int]) -> list[dict[str, str]]:
    return [
        {
            "prompt": f"{number}: {_question(number)}",
            "response": f"in {_WHERE[number % 5]}"
            if number % 2
            else f"{_COLOURS[number % 4]} " * (number % 5 + 1),
        }
        for number in numbers
    ]


def _rankings(numbers: Iterable[int]) -> list[dict[str, Any]]:
    """Three to five replies, one pair of equal rank in every third ranking."""
    rows = []
    for number in numbers:
        replies = [
            {
                "text": f"{_COLOURS[(number + i) % 4]} {_WHERE[(number + 2 * i) % 5]}"
                + "!" * (i * number % 4),
                "rank": 1 + i - (i == 2 and number % 3 == 0),
            }
            for i in range(3 + number % 3)
        ]
        rows.append({"prompt": f"{number}: {_question(number)}", "responses": replies})
    return rows


def write_world(folder: Path) -> Path:
    """Write texts, demonstrations, rankings, prompts, a tokenizer and three random models of two layers."""
    prompts = [{"prompt": f"{number}: {_question(number)}"} for number in range(60)]
    files: dict[str, list[dict[str, Any]]] = {
        "texts": _texts(range(60)),
        "texts-held-out": _texts(range(60, 68)),
        "demonstrations": _demonstrations(range(40)),
        "demonstrations-held-out": _demonstrations(range(40, 48)),
        "rankings": _rankings(range(40)),
        "rankings-held-out": _rankings(range(40, 48)),
        "prompts": prompts[:24],
    }
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    words = [row["text"] for row in files["texts"]] + [row["prompt"] for row in prompts]
    tokenizer = train_tokenizer(words, vocab_size=320)
    tokenizer.save(folder / "tokenizer")
    size: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "width": 32,
        "layers": 2,
        "heads": 2,
        "context": CONTEXT,
    }
    llama = ModelConfig.llama(**size, kv_heads=1)
    scorer = new_scalar_model(llama, seed=4)
    scorer.reward_bias = torch.tensor(0.25)
    gpt2 = new_language_model(ModelConfig.gpt2(**size), seed=2)
    _let_end(gpt2, tokenizer.end_of_turn_id)
    _save(new_language_model(llama, seed=1), tokenizer, folder / "llama")
    _save(gpt2, tokenizer, folder / "gpt2")
    _save(scorer, tokenizer, folder / "scorer")
    write_selftest(folder / "scorer", scorer, tokenizer)
    return folder


def _let_end(model: LanguageModel, end: int) -> None:
    """Turn a random model so that about every tenth token ends the reply: replies then differ in length."""
    bias = model.get_parameter("transformer.final_norm.bias")
    with torch.no_grad():
        bias.copy_(torch.arange(len(bias)).cos() / 2)
        model.unembedding[end] = 1.1 * bias


def _save(model: LanguageModel | ScalarModel, tokenizer: Tokenizer, folder: Path) -> None:
    save_model(model, folder)
    tokenizer.save(folder)


@dataclass(frozen=True)
class Stage:
    """A stage's entry point, its configuration on the little world, and what is compared."""

    train: Callable[[Any], dict[str, Any]]
    config: Callable[..., Any]
    values: dict[str, Any]
    """Fields of the configuration; a path is a file or folder of the world."""
    metrics: tuple[str, ...]
    """What a row keeps of metrics.jsonl: no clock's reading, nothing that is rounding alone."""
    scale: dict[str, float]
    """Smallest size, in the metric's unit, against which its difference counts: for signed means, near 0."""

    def make_config(self, world: Path, out: Path, **changes: Any) -> Any:
        """The configuration of a run into folder `out`."""
        values = {k: str(world / v) if isinstance(v, Path) else v for k, v in self.values.items()}
        return self.config(**(values | {"out": str(out), "device": "cpu"} | changes))


STAGES: dict[str, Stage] = {
    "pretrain": Stage(
        pretrain.train,
        pretrain.PretrainConfig,
        {
            "data": Path("texts.jsonl"),
            "validation": Path("texts-held-out.jsonl"),
            "tokenizer": Path("tokenizer"),
            "width": 32,
            "layers": 2,
            "heads": 2,
            "kv_heads": 1,
            "context": CONTEXT,
            "length": 72,
            "steps": STEPS,
            "batch": 8,
            "lr": 3e-3,
            "warmup": 5,
            "save_every": 0,
            "eval_every": 10,
        },
        ("loss", "validation_loss", "grad_norm", "lr"),
        {},
    ),
    "sft": Stage(
        sft.train,
        sft.SFTConfig,
        {
            "model": Path("gpt2"),
            "data": Path("demonstrations.jsonl"),
            "validation": Path("demonstrations-held-out.jsonl"),
            "pretrain_data": Path("texts.jsonl"),
            "pretrain_length": 24,
            "epochs": STEPS * 8 / 40,
            "batch": 8,
            "lr": 2e-3,
            "eval_every": 10,
            "eval_prompts": 0,
        },
        ("loss", "pretrain_loss", "validation_loss", "grad_norm", "lr"),
        {},
    ),
    "reward": Stage(
        reward.train,
        reward.RewardConfig,
        {
            "model": Path("llama"),
            "data": Path("rankings.jsonl"),
            "validation": Path("rankings-held-out.jsonl"),
            "epochs": STEPS * 8 / 40,
            "batch": 8,
            "lr": 1e-3,
            "eval_every": 10,
            "baselines": False,
        },
        ("loss", "accuracy", "validation_loss", "validation_accuracy", "grad_norm", "lr"),
        {},
    ),
    "ppo": Stage(
        ppo.train,
        ppo.PPOConfig,
        {
            "model": Path("gpt2"),
            "reward": Path("scorer"),
            "prompts": Path("prompts.jsonl"),
            "pretrain": Path("texts.jsonl"),
            "iterations": STEPS,
            "batch": 8,
            "minibatches": 4,
            "beta": 0.1,
            "max_new": 8,
            "ptx_coef": 1.0,
            "ptx_ratio": 1.0,
            "ptx_length": 16,
            "lr": 1e-3,
            "value_lr": 1e-3,
            "warmup": 5,
            "save_every": 0,
        },
        (
            "reward", "kl", "length", "eos_rate", "objective", "entropy", "policy_loss", "value_loss",
            "ptx_loss", "approx_kl", "clip_fraction", "value_clip_fraction", "ratio_max",
            "explained_variance", "policy_grad_norm", "value_grad_norm", "beta", "lr",
        ),
        {"reward": 1.0, "kl": 1.0, "objective": 1.0, "policy_loss": 1.0, "explained_variance": 1.0,
         "approx_kl": 0.1},
    ),
}  # fmt: skip
