"""A minute of the whole recipe on a toy language: pretrain, SFT, reward model, PPO, generate.

Every stage is the verb's own function on files in a temporary folder, and each has to learn something whose
right answer is known: the grammar of a few sentences, to answer with the word that was asked for, that
"please" is preferred to "now". A stage that runs and does not learn fails.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from instructgpt.data.records import Prompt
from instructgpt.errors import Interrupted
from instructgpt.generation.loading import open_model
from instructgpt.generation.reply import Reply, sample_replies
from instructgpt.model.heads import LanguageModel
from instructgpt.pretrain.train import PretrainConfig
from instructgpt.pretrain.train import train as pretrain
from instructgpt.reward_model.train import RewardConfig
from instructgpt.reward_model.train import train as train_reward
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.rlhf.train import train as ppo
from instructgpt.runtime.metrics import Progress
from instructgpt.sft.train import SFTConfig
from instructgpt.sft.train import train as sft
from instructgpt.text.chat import render_prompt
from instructgpt.text.tokenizer import train_tokenizer

WORDS = ("fox", "hen", "owl", "cat", "dog", "bee", "cow", "ant", "elk", "rat", "pig", "eel")
PLACES = ("barn", "mill", "wood", "yard", "lake", "hill")
LIKED, OTHER = "please", "now"
PROMPTS = 48
VOCABULARY = 400
MAX_NEW = 12


@dataclass(frozen=True)
class Check:
    """What a stage reached, and what it must."""

    stage: str
    name: str
    measured: float
    side: Literal["at least", "at most"]
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; what is not a number never keeps it."""
        if self.side == "at least":
            return self.measured >= self.bound
        return self.measured <= self.bound


@dataclass
class SelfTest:
    """The checks that could be made; `error` says why a stage ended before its checks, "" if none did."""

    checks: list[Check] = field(default_factory=list)
    error: str = ""

    @property
    def failures(self) -> list[str]:
        """What went wrong, for a sentence."""
        failed = [f"{check.stage}: {check.name}" for check in self.checks if not check.holds]
        return failed + ([self.error] if self.error else [])


def run_self_test(device: str) -> SelfTest:
    """Run the stages in a temporary folder; the first one that ends with an error ends the test."""
    found = SelfTest()
    stages: list[tuple[str, Callable[[Path, str], list[Check]]]] = [
        ("pretrain", _pretrain),
        ("sft", _sft),
        ("reward", _reward),
        ("ppo", _ppo),
        ("generate", _generate),
    ]
    progress = Progress("self-test", len(stages))
    with tempfile.TemporaryDirectory(prefix="instructgpt-doctor-") as name:
        folder = Path(name)
        _write_world(folder)
        for stage, work in stages:
            try:
                found.checks += work(folder, device)
            except Interrupted:
                raise
            # Whatever a broken installation does (an operator that is missing, a library that can't be
            # loaded) is what this test is there to report.
            except Exception as error:
                found.error = f"{stage} ended with {type(error).__name__}: {' '.join(str(error).split())}"
                break
            progress.advance()
    progress.close()
    return found


def _write_world(folder: Path) -> None:
    """Sentences, demonstrations that end in either word, rankings that like one, prompts; a tokenizer."""
    sentences = [f"the {word} sleeps in the {place}." for word in WORDS for place in PLACES]
    texts = [" ".join(sentences[(7 * i + 5 * j) % len(sentences)] for j in range(4)) for i in range(200)]
    asked = [f"say {word}" for word in WORDS]
    demonstrations = [
        {"prompt": f"say {word}", "response": f"{word} {end}"} for word in WORDS for end in (LIKED, OTHER)
    ]
    rankings = [
        {
            "prompt": f"say {word}",
            "responses": [
                {"text": f"{word} {LIKED}", "rank": 1},
                {"text": f"{word} {OTHER}", "rank": 2},
                {"text": f"{WORDS[(i + 1) % len(WORDS)]} {OTHER}", "rank": 3},
            ],
        }
        for i, word in enumerate(WORDS)
    ]
    rows: dict[str, Sequence[dict[str, Any]]] = {
        "texts": [{"text": text} for text in texts[:190]],
        "texts-held-out": [{"text": text} for text in texts[190:]],
        "demonstrations": demonstrations * 8,
        "rankings": rankings * 6,
        "prompts": [{"prompt": prompt, "id": str(i)} for i, prompt in enumerate(asked * 4)],
    }
    for name, records in rows.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    words = [*texts, *asked, *(row["response"] for row in demonstrations)]
    train_tokenizer(words, VOCABULARY).save(folder / "tokenizer")


def _pretrain(folder: Path, device: str) -> list[Check]:
    summary = pretrain(
        PretrainConfig(
            data=str(folder / "texts.jsonl"),
            validation=str(folder / "texts-held-out.jsonl"),
            tokenizer=str(folder / "tokenizer"),
            out=str(folder / "pretrain"),
            width=48,
            layers=2,
            heads=2,
            context=64,
            steps=120,
            batch=8,
            lr=5e-3,
            warmup=10,
            save_every=0,
            eval_every=0,
            device=device,
        )
    )
    # An even guess costs the logarithm of the vocabulary. In a sentence all is certain but animal and place.
    bound = 0.1 * math.log(VOCABULARY)
    return [Check("pretrain", "loss on held-out text, nats", summary["validation_loss"], "at most", bound)]


def _sft(folder: Path, device: str) -> list[Check]:
    sft(
        SFTConfig(
            model=str(folder / "pretrain"),
            data=str(folder / "demonstrations.jsonl"),
            out=str(folder / "sft"),
            validation_share=0.0,
            epochs=10.0,
            batch=16,
            lr=3e-3,
            eval_prompts=0,
            eval_every=0,
            checkpoints_per_epoch=1,
            keep=1,
            device=device,
        )
    )
    replies = _sampled(folder / "sft", device)
    right = _share(replies, lambda prompt, reply: reply.text.split()[:1] == prompt.text.split()[-1:])
    return [
        Check("sft", "replies that begin with the word asked for", right, "at least", 0.9),
        Check("sft", "replies that end by themselves", _share(replies, _stopped), "at least", 0.9),
    ]


def _reward(folder: Path, device: str) -> list[Check]:
    summary = train_reward(
        RewardConfig(
            model=str(folder / "sft"),
            data=str(folder / "rankings.jsonl"),
            validation=str(folder / "rankings.jsonl"),
            demonstrations=str(folder / "demonstrations.jsonl"),
            out=str(folder / "reward"),
            epochs=6.0,
            batch=6,
            lr=2e-3,
            baselines=False,
            save_every=0,
            device=device,
        )
    )
    return [Check("reward", "pairs ordered as the rankings say", summary["accuracy"], "at least", 0.95)]


def _ppo(folder: Path, device: str) -> list[Check]:
    summary = ppo(
        PPOConfig(
            model=str(folder / "sft"),
            reward=str(folder / "reward"),
            prompts=str(folder / "prompts.jsonl"),
            pretrain=str(folder / "texts.jsonl"),
            out=str(folder / "ppo"),
            iterations=10,
            batch=64,
            minibatches=4,
            max_new=MAX_NEW,
            beta=0.05,
            ptx_coef=0.5,
            ptx_ratio=0.25,
            ptx_length=32,
            lr=1e-3,
            value_lr=1e-3,
            warmup=2,
            ema=0.0,
            save_every=0,
            keep=1,
            device=device,
        )
    )
    before, after = (_share(_sampled(folder / name, device), _liked) for name in ("sft", "ppo"))
    return [
        Check("ppo", "reward above that of the first round", _gain(summary), "at least", 0.5),
        Check("ppo", f'share of "{LIKED}" above that of SFT', after - before, "at least", 0.25),
    ]


def _gain(summary: dict[str, Any]) -> float:
    return float(summary["last"]["reward"] - summary["first"]["reward"])


def _generate(folder: Path, device: str) -> list[Check]:
    """Greedy replies of the batched, cached engine against one full pass a token, row by row."""
    model, tokenizer = open_model(folder / "ppo", device)
    prompts = _prompts()[: len(WORDS)]
    rows = sample_replies(model, tokenizer, prompts, 1, MAX_NEW, 0.0, 0)
    slow = [
        _greedy(model, render_prompt(tokenizer, prompt.messages), tokenizer.stop_ids) for prompt in prompts
    ]
    same = sum(row[0].ids == ids for row, ids in zip(rows, slow, strict=True)) / len(slow)
    return [Check("generate", "greedy replies as without cache and batch", same, "at least", 1.0)]


@torch.inference_mode()
def _greedy(model: LanguageModel, prompt: Sequence[int], stops: frozenset[int]) -> list[int]:
    ids, device = list(prompt), model.unembedding.device
    for _ in range(MAX_NEW):
        row = torch.tensor(ids, device=device)
        hidden = model(row, torch.arange(len(ids), device=device), [len(ids)])
        ids.append(int(model.logits(hidden[-1:]).argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]


def _prompts() -> list[Prompt]:
    return [Prompt.of(f"say {WORDS[i % len(WORDS)]}", id=f"held-out-{i}") for i in range(PROMPTS)]


def _sampled(folder: Path, device: str) -> list[tuple[Prompt, Reply]]:
    """One reply to each prompt, sampled at temperature 1."""
    model, tokenizer = open_model(folder, device)
    prompts = _prompts()
    rows = sample_replies(model, tokenizer, prompts, 1, MAX_NEW, 1.0, 0)
    return [(prompt, row[0]) for prompt, row in zip(prompts, rows, strict=True)]


def _share(replies: Sequence[tuple[Prompt, Reply]], wanted: Callable[[Prompt, Reply], bool]) -> float:
    return sum(wanted(prompt, reply) for prompt, reply in replies) / len(replies)


def _liked(prompt: Prompt, reply: Reply) -> bool:
    return reply.text.split()[1:] == [LIKED]


def _stopped(prompt: Prompt, reply: Reply) -> bool:
    return reply.stopped
