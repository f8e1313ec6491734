"""The golden runs by other means: transformers' models on padded batches, their losses, torch's plain AdamW.

Only the order of the data is ours. So the rows on record are not merely what our code once gave, and packed
is padded over a whole run: a padding token that counted, or a document that saw its neighbour, would show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks import golden
from benchmarks.golden import Row, differences, threads
from benchmarks.golden_world import STAGES, STEPS
from instructgpt.data.records import read_texts
from instructgpt.data.shards import write_shards
from instructgpt.model.heads import new_language_model, scalar_from_language
from instructgpt.model.hf import load_language_model, save_model
from instructgpt.reward_model.comparisons import Comparison, read_comparisons
from instructgpt.reward_model.comparisons import Stream as RankingStream
from instructgpt.runtime.seeds import derive_seed
from instructgpt.sft.examples import Stream, read_examples
from instructgpt.text.chat import Rendered
from instructgpt.text.tokenizer import Tokenizer

PAD = 0


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids (B, T) with PAD on the right, and True where a token is real."""
    longest = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[PAD] * (longest - len(sequence))] for sequence in sequences])
    return ids, torch.arange(longest) < torch.tensor([[len(sequence)] for sequence in sequences])


def mean_loss(model: nn.Module, batch: Sequence[Rendered]) -> Tensor:
    """transformers' mean over the labels that are not -100."""
    ids, real = padded([example.ids for example in batch])
    labels, _ = padded([[i if c else -100 for i, c in zip(e.ids, e.train_mask, strict=True)] for e in batch])
    return model(input_ids=ids, attention_mask=real, labels=labels.where(real, -100)).loss


def ranking_loss(model: nn.Module, batch: Sequence[Comparison]) -> Tensor:
    """Eq. 1 pair by pair: the mean over a prompt's pairs, then over prompts."""
    ids, real = padded([sequence for comparison in batch for sequence in comparison.sequences])
    scores = iter(model(input_ids=ids, attention_mask=real).logits.squeeze(1).split(1))
    prompts = []
    for comparison in batch:
        ranked = [(rank, next(scores)) for rank in comparison.ranks]
        pairs = [-F.logsigmoid(r - other) for a, r in ranked for b, other in ranked if a < b]
        prompts.append(torch.cat(pairs).mean())
    return torch.stack(prompts).mean()


def train(
    model: nn.Module, losses: Callable[[int], dict[str, Tensor]], stage: str, shares: dict[str, float]
) -> list[Row]:
    """Fifty steps on the sum of `losses`, each times its share; learning rate and decay as the stage's."""
    values = STAGES[stage].values
    warmup, decay = values.get("warmup", 0), 0.1 if stage == "pretrain" else 0.0
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), foreach=False)
    rows: list[Row] = []
    for step in range(STEPS):
        cosine = 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))
        for group in optimizer.param_groups:
            group["lr"] = values["lr"] * ((step + 1) / warmup if step < warmup else cosine)
        found = losses(step)
        optimizer.zero_grad()
        torch.stack([shares[name] * loss for name, loss in found.items()]).sum().backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        optimizer.step()
        measured = {name: loss.item() for name, loss in found.items()}
        rows.append({"step": step + 1, **measured, "grad_norm": norm.item()})
    return rows


def hold(stage: str, found: list[Row]) -> None:
    record = golden.read(stage)
    assert record is not None
    lines = differences(stage, [{name: row[name] for name in found[0]} for row in record.rows], found)
    assert not lines, "\n".join(lines[:5])


def opened(model: Any, folder: Path, kind: Any = AutoModelForCausalLM) -> nn.Module:
    save_model(model, folder, special={"pad_token_id": PAD})
    return kind.from_pretrained(folder, attn_implementation="eager").eval()


def test_pretrain(world: Path, tmp_path: Path) -> None:
    config = STAGES["pretrain"].make_config(world, tmp_path)
    tokenizer = Tokenizer.load(config.tokenizer)
    shards = write_shards(read_texts(config.data), tokenizer, tmp_path / "tokens")
    start = new_language_model(
        config.model_config(tokenizer.vocab_size), derive_seed(config.seed, "pretrain")
    )
    model = opened(start, tmp_path / "model")

    def losses(step: int) -> dict[str, Tensor]:
        windows = shards.batch(step, 8, config.length, config.seed)
        return {"loss": mean_loss(model, [Rendered(ids, [True] * len(ids)) for ids in windows])}

    hold("pretrain", train(model, losses, "pretrain", {"loss": 1.0}))


def test_sft(world: Path, tmp_path: Path) -> None:
    config = STAGES["sft"].make_config(world, tmp_path)
    tokenizer = Tokenizer.load(config.model)
    model = opened(load_language_model(config.model), tmp_path / "model")
    stream = Stream(read_examples(config, tokenizer, 96).train, 8, config.seed, config.epochs)
    shards = write_shards(read_texts(config.pretrain_data), tokenizer, tmp_path / "tokens")

    def losses(step: int) -> dict[str, Tensor]:
        # One window beside eight demonstrations: a tenth, rounded.
        windows = shards.batch(step, 1, config.pretrain_length, derive_seed(config.seed, "sft mix"))
        mix = [Rendered(ids, [True] * len(ids)) for ids in windows]
        return {"loss": mean_loss(model, stream.batch(step)), "pretrain_loss": mean_loss(model, mix)}

    hold("sft", train(model, losses, "sft", {"loss": 0.9, "pretrain_loss": 0.1}))


def test_reward(world: Path, tmp_path: Path) -> None:
    config = STAGES["reward"].make_config(world, tmp_path)
    tokenizer = Tokenizer.load(config.model)
    body = load_language_model(config.model)
    start = scalar_from_language(body, derive_seed(config.seed, "reward head"))
    model = opened(start, tmp_path / "model", AutoModelForSequenceClassification)
    stream = RankingStream(read_comparisons(config, tokenizer, 96).train, 8, config.seed, config.epochs)

    def losses(step: int) -> dict[str, Tensor]:
        return {"loss": ranking_loss(model, stream.batch(step))}

    hold("reward", train(model, losses, "reward", {"loss": 1.0}))
