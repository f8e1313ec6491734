"""Instruction tuning learns, stops, resumes to the bit, does not depend on the cut, chooses a checkpoint."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from instructgpt.errors import CheckpointError, ConfigError, DataError, Interrupted
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import load_language_model
from instructgpt.pretrain.train import write_checkpoint
from instructgpt.runtime.metrics import read_metrics
from instructgpt.scoring.likelihood import counted, mean_loss
from instructgpt.sft import train as stage
from instructgpt.sft.train import SFTConfig, gradients, train
from instructgpt.text.chat import Message, render_reply
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

COLOURS = ("red", "blue", "green", "grey", "pink")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random base model, demonstrations that say a colour back, and some plain text."""
    folder = tmp_path_factory.mktemp("world")
    rows = [{"prompt": f"say {colour} {n}", "response": f"{colour}!"} for n in range(4) for colour in COLOURS]
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "train.jsonl").write_text("".join(lines[:16]))
    (folder / "valid.jsonl").write_text("".join(lines[16:]))
    (folder / "text.txt").write_text("\n".join(f"the {colour} fox" for colour in COLOURS * 8))
    tokenizer = train_tokenizer([row["prompt"] + row["response"] for row in rows], 280)
    config = ModelConfig.llama(
        vocab_size=tokenizer.vocab_size, width=16, layers=2, heads=2, kv_heads=1, context=32
    )
    write_checkpoint(new_language_model(config, seed=3), tokenizer, folder / "base")
    return folder


def config(world: Path, out: Path, **more: Any) -> SFTConfig:
    values: dict[str, Any] = {
        "model": str(world / "base"),
        "data": str(world / "train.jsonl"),
        "validation": str(world / "valid.jsonl"),
        "out": str(out),
        "epochs": 2.0,
        "batch": 3,
        "lr": 1e-2,
        "max_new": 6,
        "eval_prompts": 4,
        "eval_every": 2,
        "device": "cpu",
    }
    return SFTConfig(**(values | more))


def weights(summary: dict[str, Any], checkpoint: str) -> dict[str, torch.Tensor]:
    return load_language_model(Path(summary["out"]) / checkpoint).state_dict()


def interrupt_at_call(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C in the middle of step `number` (1-based)."""
    calls, original = [0], stage.clip_gradients

    def clip(*arguments: Any) -> float:
        calls[0] += 1
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(stage, "clip_gradients", clip)


@pytest.mark.parametrize(("stop", "dtype"), [(4, "auto"), (6, "auto"), (4, "bfloat16")])
def test_interrupted_and_resumed_equals_undisturbed(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, dtype: str
) -> None:
    """2N steps == N + resume + N, to the bit, with dropout and the mix on (field fault 32).

    16 demonstrations, 2 epochs, 3 a step: 11 steps, checkpoints at 6 and 11.
    """
    more = {"residual_dropout": 0.2, "pretrain_data": str(world / "text.txt"), "pretrain_length": 12}
    more["dtype"] = dtype
    whole = train(config(world, tmp_path / "whole", **more))
    interrupt_at_call(monkeypatch, stop)
    with pytest.raises(Interrupted):
        train(config(world, tmp_path / "cut", **more))
    monkeypatch.undo()
    cut = train(config(world, tmp_path / "cut", **more))
    for checkpoint in ("checkpoints/step-000006", "checkpoints/step-000011"):
        one, other = weights(whole, checkpoint), weights(cut, checkpoint)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert {**cut, "out": 0, "seconds": 0, "peak_memory_mib": 0} == {
        **whole,
        "out": 0,
        "seconds": 0,
        "peak_memory_mib": 0,
    }


def test_bfloat16_passes_train_the_same_model(world: Path, tmp_path: Path) -> None:
    """float32 weights, gradients and optimizer; losses differ by the rounding of bfloat16 alone (2^-9)."""
    rows = {}
    for dtype in ("float32", "bfloat16"):
        train(config(world, tmp_path / dtype, dtype=dtype, lr=1e-3))
        rows[dtype] = read_metrics(tmp_path / dtype / "metrics.jsonl")
        assert json.loads((tmp_path / dtype / "choices.json").read_text())["dtype"] == dtype
    for one, other in zip(rows["float32"], rows["bfloat16"], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=5e-3)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=5e-2)
    assert rows["float32"] != rows["bfloat16"]
    summary = train(config(world, tmp_path / "bfloat16", dtype="bfloat16", lr=1e-3))  # finished: shown again
    saved = weights(summary, "checkpoints/step-000011")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_it_learns_to_answer_and_to_stop(world: Path, tmp_path: Path) -> None:
    """A model that never stops is the field's oldest SFT fault (field fault 17)."""
    summary = train(config(world, tmp_path / "r", epochs=20.0, lr=2e-2, residual_dropout=0.1))
    rows = read_metrics(tmp_path / "r/metrics.jsonl")
    assert rows[0]["loss"] > 5 and summary["validation_loss"] < 0.5
    assert summary["eos_rate"] == 1.0
    assert "eos_rate" in rows[5] and "eos_rate" not in rows[4]  # measured at the checkpoints


def test_one_end_of_turn_counts_and_the_prompt_does_not(world: Path) -> None:
    """Trained end labels per row == 1 (field fault 17)."""
    tokenizer = Tokenizer.load(world / "base")
    example = render_reply(tokenizer, [Message("user", "say red 1")], "red!")
    trained = [i for i, counts in zip(example.ids, example.train_mask, strict=True) if counts]
    assert trained.count(tokenizer.end_of_turn_id) == 1
    assert counted([example]) == len(trained) == len(tokenizer.encode("red!")) + 1


def test_the_loss_is_that_of_transformers_and_of_each_demonstration_alone(
    world: Path, tmp_path: Path
) -> None:
    """Packed == each alone; sum over reply tokens / their number, prompt tokens labelled -100 outside."""
    tokenizer, ours = Tokenizer.load(world / "base"), load_language_model(world / "base")
    theirs = AutoModelForCausalLM.from_pretrained(world / "base")
    examples = [
        render_reply(tokenizer, [Message("user", "say " + "red " * n)], "blue! " * (4 - n)) for n in range(4)
    ]
    total, count = 0.0, 0
    for example in examples:
        labels = [i if c else -100 for i, c in zip(example.ids, example.train_mask, strict=True)]
        with torch.no_grad():
            loss = theirs(torch.tensor([example.ids]), labels=torch.tensor([labels])).loss.item()
        total, count = total + loss * sum(example.train_mask), count + sum(example.train_mask)
    for micro_tokens in (1, 1000):
        assert mean_loss(ours, examples, micro_tokens, torch.float32) == pytest.approx(
            total / count, abs=1e-5
        )


def test_the_cut_into_micro_batches_changes_nothing_and_the_mix_has_its_weight(world: Path) -> None:
    """1 x 8 == 8 x 1 (field fault 16); the gradient is (1 - f) x demonstrations + f x pretraining text."""
    tokenizer = Tokenizer.load(world / "base")
    batch = [
        render_reply(tokenizer, [Message("user", "say " * (n + 1))], "red!" * (8 - n) * 2) for n in range(8)
    ]
    windows = [render_reply(tokenizer, [Message("user", "x")], "the fox " * n) for n in (1, 3)]

    def run(micro_tokens: int, demonstrations: list[Any], texts: list[Any]) -> list[torch.Tensor]:
        model = load_language_model(world / "base")
        settings = SFTConfig(micro_tokens=micro_tokens, pretrain_data="x", pretrain_fraction=0.25)
        gradients(model, demonstrations, texts, settings, 0, torch.float32)
        return [p.grad for p in model.parameters() if p.grad is not None]

    whole = run(10_000, batch, windows)
    for one, other in zip(run(1, batch, windows), whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    demonstrations, texts = run(10_000, batch, []), run(10_000, windows, [])
    for mixed, one, other in zip(whole, demonstrations, texts, strict=True):
        torch.testing.assert_close(mixed, 0.75 * one + 0.25 * other, atol=1e-6, rtol=1e-5)


def test_a_reward_chooses_the_checkpoint_and_all_are_kept(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies are scored at every checkpoint; the summary names the best, which need not be the last."""
    (tmp_path / "sft_test_reward.py").write_text(
        "calls = []\n"
        "def score(prompts, replies):\n"
        "    calls.append(len(replies))\n"
        "    return [[1.0, 3.0, 2.0][len(calls) - 1]] * len(replies)\n"
    )
    monkeypatch.chdir(tmp_path)
    summary = train(
        config(
            world,
            tmp_path / "r",
            reward="sft_test_reward:score",
            epochs=3.0,
            selection_prompts=str(world / "valid.jsonl"),
        )
    )
    assert summary["chosen_by"] == "reward" and summary["reward"] == 3.0
    assert summary["checkpoint"] == "checkpoints/step-000012"  # 16 demonstrations, 3 a step: 6, 12, 16
    assert list(summary["candidates"]) == ["6", "12", "16"]
    for step in (6, 12, 16):
        folder = tmp_path / f"r/checkpoints/step-{step:06d}"
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.generation_config.eos_token_id == [2, 3]  # <|eos|> and <|end|>


@pytest.mark.parametrize(("keep", "left"), [(1, [12, 22]), (2, [12, 18, 22]), (0, [6, 12, 18, 22])])
def test_the_best_are_kept_beside_the_latest(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int, left: list[int]
) -> None:
    """16 demonstrations, 4 epochs, 3 a step: checkpoints at 6, 12, 18, 22 score 1, 3, 2, 0. Stopped after
    step 13, which is no candidate."""
    scores = iter([1.0, 3.0, 2.0, 0.0])
    monkeypatch.setattr(
        stage,
        "make_judge",
        lambda *_: type("Judge", (), {"measure": lambda self, model: {"reward": next(scores)}})(),
    )
    settings = config(world, tmp_path / "r", epochs=4.0, keep=keep)
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, 13)
        with pytest.raises(Interrupted):
            train(settings)
    summary = train(settings)
    found = sorted(int(path.name[5:]) for path in (tmp_path / "r/checkpoints").iterdir())
    assert found == (sorted([13, *left]) if keep == 0 else left)
    assert summary["checkpoint"] == "checkpoints/step-000012" and summary["reward"] == 3.0
    assert list(summary["candidates"]) == ["6", "12", "18", "22"]
    load_language_model(tmp_path / "r" / summary["checkpoint"])


def test_what_is_gone_is_not_chosen(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last checkpoint could not be scored: then the loss decides, among those that the reward left."""
    found = iter([{"reward": 1.0}, {"reward": 3.0}, {}])
    losses = iter([0.1, 0.3, 0.2])
    monkeypatch.setattr(
        stage,
        "make_judge",
        lambda *_: type("Judge", (), {"measure": lambda self, model: next(found)})(),
    )
    monkeypatch.setattr(stage, "mean_loss", lambda *_: next(losses))
    summary = train(config(world, tmp_path / "r", epochs=3.0, keep=1, eval_every=0))
    assert summary["chosen_by"] == "validation_loss"
    assert summary["checkpoint"] == "checkpoints/step-000016"  # 0.2 at the last; 0.1 at step 6 is gone


def test_without_a_reward_the_lowest_validation_loss_chooses(world: Path, tmp_path: Path) -> None:
    summary = train(config(world, tmp_path / "r", epochs=3.0))
    losses = {step: found["validation_loss"] for step, found in summary["candidates"].items()}
    assert summary["chosen_by"] == "validation_loss"
    assert summary["checkpoint"].endswith(f"{int(min(losses, key=losses.__getitem__)):06d}")


def test_long_demonstrations_are_dropped_and_counted_or_an_error(world: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "say red", "response": "red!"},
        {"prompt": "say red", "response": "red!" * 40, "id": "b"},
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = {"data": str(tmp_path / "d.jsonl"), "epochs": 1.0}
    summary = train(config(world, tmp_path / "r", **more))
    assert (summary["dropped"], summary["demonstrations"], summary["steps"]) == (1, 1, 1)
    with pytest.raises(DataError, match=r"32 fit \(.*id b"):
        train(config(world, tmp_path / "r2", long_records="error", **more))
    with pytest.raises(DataError, match="none of the 2 demonstrations fits into 3 tokens"):
        train(config(world, tmp_path / "r3", max_length=3, **more))


def test_held_out_part_of_the_data_when_no_validation_is_given(world: Path, tmp_path: Path) -> None:
    summary = train(config(world, tmp_path / "r", validation="", validation_share=0.3, epochs=1.0))
    assert summary["held_out"] > 0 and summary["held_out"] + summary["demonstrations"] == 16
    assert "validation_loss" in summary


def test_bfloat16_trains(world: Path, tmp_path: Path) -> None:
    wide = train(config(world, tmp_path / "wide"))
    half = train(config(world, tmp_path / "half", dtype="bfloat16"))
    assert half["validation_loss"] == pytest.approx(wide["validation_loss"], abs=0.05)


def test_wrong_inputs_are_told(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    with pytest.raises(ConfigError, match="--model"):
        train(config(world, out, model=""))
    with pytest.raises(CheckpointError, match="no such folder"):
        train(config(world, out, model=str(tmp_path / "nothing")))
    with pytest.raises(DataError, match="no such file"):
        train(config(world, out, data=str(tmp_path / "nothing.jsonl")))
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(DataError, match=r"no 'response'.*bad\.jsonl:2"):
        train(config(world, out, data=str(tmp_path / "bad.jsonl")))
    with pytest.raises(ConfigError, match=r"no prompt to choose.*leaves room for 40 new tokens"):
        train(config(world, tmp_path / "r2", reward="json:loads", max_new=40))
    with pytest.raises(ConfigError, match="--residual-dropout"):
        config(world, out, residual_dropout=1.0)
    with pytest.raises(ConfigError, match="--epochs"):
        config(world, out, epochs=0.0)


def test_the_texts_of_a_mistaken_first_try_are_not_kept(world: Path, tmp_path: Path) -> None:
    """The same folder with enough text must not train on the tokens of the text that was too short."""
    short = tmp_path / "short.txt"
    short.write_text("a fox")
    mix = {"pretrain_length": 20, "epochs": 0.2}
    with pytest.raises(DataError, match="tokens, a window needs 20"):
        train(config(world, tmp_path / "r", pretrain_data=str(short), **mix))
    text = str(world / "text.txt")
    after = train(config(world, tmp_path / "r", pretrain_data=text, **mix))
    fresh = train(config(world, tmp_path / "s", pretrain_data=text, **mix))
    assert after["validation_loss"] == fresh["validation_loss"]
