"""Pretraining learns, resumes to the bit, does not depend on the cut, writes what transformers opens."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from instructgpt.errors import CheckError, CheckpointError, ConfigError, DataError, Interrupted
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import load_language_model
from instructgpt.pretrain import train as stage
from instructgpt.pretrain.tokenizer import TokenizerConfig
from instructgpt.pretrain.tokenizer import train as train_tokenizer
from instructgpt.pretrain.train import PretrainConfig, train
from instructgpt.runtime.metrics import read_metrics
from instructgpt.scoring.likelihood import accumulate, all_counted, mean_loss

FLOAT32 = torch.float32


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short documents, four held-out ones, and a tokenizer."""
    folder = tmp_path_factory.mktemp("world")
    lines = [f"the {('red', 'blue', 'green', 'grey')[i % 4]} fox has {i % 7} old hats" for i in range(44)]
    rows = [json.dumps({"text": line}) + "\n" for line in lines]
    (folder / "train.jsonl").write_text("".join(rows[:40]))
    (folder / "valid.jsonl").write_text("".join(rows[40:]))
    train_tokenizer(TokenizerConfig(str(folder / "train.jsonl"), str(folder / "tokenizer"), 290))
    return folder


def config(world: Path, out: Path, **more: Any) -> PretrainConfig:
    values: dict[str, Any] = {
        "data": str(world / "train.jsonl"),
        "validation": str(world / "valid.jsonl"),
        "tokenizer": str(world / "tokenizer"),
        "out": str(out),
        "width": 16,
        "layers": 2,
        "heads": 2,
        "context": 24,
        "steps": 8,
        "batch": 3,
        "warmup": 2,
        "save_every": 3,
        "eval_every": 4,
        "device": "cpu",
    }
    return PretrainConfig(**(values | more))


def weights(summary: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_language_model(Path(summary["out"]) / summary["checkpoint"]).state_dict()


def interrupt_at_call(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C in the middle of step `number` (1-based)."""
    calls, original = [0], stage.clip_gradients

    def clip(*arguments: Any) -> float:
        calls[0] += 1
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(stage, "clip_gradients", clip)


@pytest.mark.parametrize("more", [{"family": "llama", "kv_heads": 1}, {"family": "gpt2", "separate": False}])
def test_interrupted_and_resumed_equals_undisturbed(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """2N steps == N + resume + N, to the bit (field fault 32)."""
    whole = train(config(world, tmp_path / "whole", **more))
    interrupt_at_call(monkeypatch, 4)
    with pytest.raises(Interrupted):
        train(config(world, tmp_path / "cut", **more))
    assert (tmp_path / "cut/checkpoints/step-000004").exists()
    monkeypatch.undo()
    cut = train(config(world, tmp_path / "cut", **more))
    one, other = weights(whole), weights(cut)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert cut["validation_loss"] == whole["validation_loss"]
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    assert cut["loss"] == whole["loss"] == pytest.approx(sum(losses[0]) / 8)  # the steps before the stop too


def test_loss_starts_near_log_vocabulary_and_falls(world: Path, tmp_path: Path) -> None:
    """Weights of variance 1 / width give logits of variance 1, hence a loss of log V + 1/2 on average.

    (Width 16 draws few numbers, so the half is 0 to 1 here.) On this text 60 steps go far below.
    """
    summary = train(config(world, tmp_path / "r", steps=60, lr=2e-2, save_every=0, eval_every=0))
    first = read_metrics(tmp_path / "r/metrics.jsonl")[0]["loss"]
    assert first == pytest.approx(math.log(290) + 0.5, abs=0.5)
    assert summary["validation_loss"] < math.log(290) / 3
    assert summary["tokens_seen"] == 60 * 3 * 24


def test_the_cut_into_micro_batches_changes_nothing(world: Path) -> None:
    """1 x 8 == 8 x 1, with lengths from 2 to 17 (field fault 16)."""
    generator = torch.Generator().manual_seed(0)
    sequences = [torch.randint(0, 50, (n,), generator=generator).tolist() for n in (2, 17, 5, 3, 9, 12, 2, 7)]
    found = []
    for micro_tokens in (1, 20, 1000):
        model = new_language_model(
            ModelConfig.llama(vocab_size=50, width=16, layers=2, heads=2, context=32), seed=1
        )
        loss = accumulate(model, all_counted(sequences), 1.0, micro_tokens, FLOAT32)
        found.append((loss, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    for loss, grads in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-5)
        for one, other in zip(grads, found[0][1], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_transformers_opens_the_checkpoint_and_gives_our_numbers(
    world: Path, tmp_path: Path, family: str
) -> None:
    summary = train(config(world, tmp_path / "r", steps=3, family=family))
    folder = Path(summary["out"]) / summary["checkpoint"]
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    ours = load_language_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.bos_token_id, *tokenizer.encode("the red fox has 3 hats", add_special_tokens=False)]
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0]
        found = ours.logits(ours(torch.tensor(ids), torch.arange(len(ids)), [len(ids)]))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        # Packed documents == each alone, and transformers' own mean over tokens as the outside value.
        documents = [ids, ids[:4], ids[:9]]
        total = sum(
            theirs(torch.tensor([d]), labels=torch.tensor([d])).loss.item() * (len(d) - 1) for d in documents
        )
    count = sum(len(d) - 1 for d in documents)
    assert mean_loss(ours, all_counted(documents), 1000, FLOAT32) == pytest.approx(total / count, abs=1e-5)
    assert theirs.config.eos_token_id == tokenizer.eos_token_id
    assert theirs.generation_config.eos_token_id == tokenizer.eos_token_id
    stage_file = json.loads((folder / "stage.json").read_text())
    assert stage_file["verb"] == "pretrain" and stage_file["inputs"]["data"] != "missing"


def test_bfloat16_trains_and_is_near_float32(world: Path, tmp_path: Path) -> None:
    wide = train(config(world, tmp_path / "wide", steps=12, lr=1e-2))
    half = train(config(world, tmp_path / "half", steps=12, lr=1e-2, dtype="bfloat16"))
    assert half["validation_loss"] == pytest.approx(wide["validation_loss"], abs=0.05)
    assert weights(half)["transformer.embedding.weight"].dtype == FLOAT32


def test_a_finished_run_is_not_done_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(config(world, tmp_path / "r", steps=2))
    monkeypatch.setattr(stage, "accumulate", None)
    assert train(config(world, tmp_path / "r", steps=2)) == first


def test_killed_after_the_last_checkpoint_the_summary_is_still_written(world: Path, tmp_path: Path) -> None:
    first = train(config(world, tmp_path / "r", steps=2))
    (tmp_path / "r/summary.json").unlink()
    again = train(config(world, tmp_path / "r", steps=2))
    assert again["validation_loss"] == first["validation_loss"] and again["checkpoint"] == first["checkpoint"]
    assert again["loss"] == first["loss"]


def test_a_gradient_that_is_not_finite_stops_the_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training does not go on silently (field fault 21)."""
    monkeypatch.setattr(stage, "clip_gradients", lambda *_: math.nan)
    with pytest.raises(CheckError, match=r"norm is nan.*step 1\).*smaller --lr"):
        train(config(world, tmp_path / "r"))


def test_wrong_inputs_are_told(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    with pytest.raises(ConfigError, match="--data"):
        train(config(world, out, data=""))
    with pytest.raises(DataError, match=r"no such file.*trein"):
        train(config(world, out, data=str(world / "trein.jsonl")))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="empty"):
        train(config(world, tmp_path / "r1", data=str(tmp_path / "empty.jsonl")))
    (tmp_path / "short.jsonl").write_text('{"text": "fox"}\n')
    with pytest.raises(DataError, match="a window needs 24"):
        train(config(world, tmp_path / "r2", data=str(tmp_path / "short.jsonl")))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        train(config(world, out, tokenizer=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match="heads"):
        train(config(world, out, heads=3))
    with pytest.raises(ConfigError, match="--length"):
        config(world, out, length=25)
    with pytest.raises(ConfigError, match="--steps"):
        config(world, out, steps=0)
    with pytest.raises(ConfigError, match="kv-heads"):
        train(config(world, out, family="gpt2", kv_heads=1))
