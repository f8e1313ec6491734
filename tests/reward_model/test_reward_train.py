"""The reward model: Eq. 1, all pairs of a prompt as one element, the mean-0 shift, resume, transformers."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from instructgpt.errors import CheckpointError, ConfigError, DataError, Interrupted
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import ScalarModel, new_language_model, new_scalar_model
from instructgpt.model.hf import load_scalar_model
from instructgpt.pretrain.train import write_checkpoint
from instructgpt.reward_model import train as stage
from instructgpt.reward_model.comparisons import Comparison
from instructgpt.reward_model.train import RewardConfig, accumulate, train, validate
from instructgpt.runtime.metrics import read_metrics
from instructgpt.scoring.reward import RewardModel
from instructgpt.text.chat import Message, render_reply
from instructgpt.text.tokenizer import train_tokenizer

THINGS = ("fox", "hat", "sea", "cup", "owl", "map")


def ranking(number: int) -> dict[str, Any]:
    """Four replies: "good" is best, two "fair" tie, "bad" is worst, whatever their lengths."""
    thing = THINGS[number % 6]
    words = [("good", 1), ("fair", 2), ("fair", 2), ("bad", 3)]
    texts = [
        (f"{word} {thing}" + " x" * ((number * (i + 3)) % 4), rank) for i, (word, rank) in enumerate(words)
    ]
    return {"prompt": f"a {thing} {number}?", "responses": [{"text": t, "rank": r} for t, r in texts]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    rows = [ranking(n) for n in range(32)]
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "train.jsonl").write_text("".join(lines[:24]))
    (folder / "valid.jsonl").write_text("".join(lines[24:]))
    shown = [{"prompt": row["prompt"], "response": row["responses"][0]["text"]} for row in rows[:10]]
    (folder / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    texts = [row["prompt"] + response["text"] for row in rows for response in row["responses"]]
    tokenizer = train_tokenizer(texts, 280)
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=2, heads=2, context=40)
    write_checkpoint(new_language_model(config, seed=3), tokenizer, folder / "base")
    return folder


def config(world: Path, out: Path, **more: Any) -> RewardConfig:
    values: dict[str, Any] = {
        "model": str(world / "base"),
        "data": str(world / "train.jsonl"),
        "validation": str(world / "valid.jsonl"),
        "demonstrations": str(world / "demonstrations.jsonl"),
        "out": str(out),
        "batch": 4,
        "lr": 5e-3,
        "save_every": 2,
        "eval_every": 2,
        "device": "cpu",
    }
    return RewardConfig(**(values | more))


def final(summary: dict[str, Any]) -> Path:
    return Path(summary["out"]) / summary["checkpoint"]


def comparisons(prompt: int = 0) -> list[Comparison]:
    """Rankings of 2 to 5 replies of 1 to 12 tokens, with ties; each after a prompt of so many tokens."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for ranks in ([1, 2], [1, 2, 2, 3], [2, 1, 1], [5, 4, 3, 2, 1], [1, 1, 2], [2, 1]):
        lengths = torch.randint(1, 13, (len(ranks),), generator=generator).tolist()
        replies = [torch.randint(0, 50, (n,), generator=generator).tolist() for n in lengths]
        asked = torch.randint(0, 50, (prompt,), generator=generator).tolist()
        made.append(Comparison([asked + reply for reply in replies], ranks))
    return made


def model() -> ScalarModel:
    return new_scalar_model(ModelConfig.llama(vocab_size=50, width=16, layers=2, heads=2, context=48), seed=1)


def gradient(of: ScalarModel) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in of.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("prompt", [0, 30])
def test_the_step_is_the_naive_mean_over_pairs_and_each_reply_is_forwarded_once(
    monkeypatch: pytest.MonkeyPatch, prompt: int
) -> None:
    """Reviewer's invariant 5, field fault 27: Eq. 1 written out pair by pair, each reply alone, while ours
    computes the prompt once for all of them."""
    batch, ours, naive = comparisons(prompt), model(), model()
    per_prompt = []
    for comparison in batch:
        scores = []
        for ids in comparison.sequences:
            hidden = naive(torch.tensor(ids), torch.arange(len(ids)), [len(ids)])
            scores.append(naive.score(hidden[-1:])[0])
        losses = [
            -torch.log(torch.sigmoid(scores[a] - scores[b]))
            for a in range(len(scores))
            for b in range(len(scores))
            if comparison.ranks[a] < comparison.ranks[b]
        ]
        per_prompt.append(sum(losses) / len(losses))
    expected = sum(per_prompt) / len(per_prompt)
    expected.backward()
    forwarded: list[int] = []
    original = ScalarModel.forward

    def counting(self: ScalarModel, ids: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        forwarded.append(len(ids))
        return original(self, ids, *rest, **named)

    monkeypatch.setattr(ScalarModel, "forward", counting)
    loss, _ = accumulate(ours, batch, 1000, torch.float32)
    replies = sum(comparison.tokens - prompt * len(comparison.ranks) for comparison in batch)
    assert forwarded == [prompt * len(batch) + replies] == [sum(c.computed_tokens for c in batch)]
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    for one, other in zip(gradient(ours), gradient(naive), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_the_cut_into_micro_batches_changes_nothing() -> None:
    """1 x 6 == 6 x 1, with prompts of 1 to 10 pairs (reviewer's invariant 4, field fault 16)."""
    found = []
    for micro_tokens in (1, 40, 1000):
        ours = model()
        found.append((accumulate(ours, comparisons(), micro_tokens, torch.float32), gradient(ours)))
    for (loss, accuracy), grads in found[1:]:
        assert loss == pytest.approx(found[0][0][0], abs=1e-5) and accuracy == pytest.approx(found[0][0][1])
        for one, other in zip(grads, found[0][1], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_constant_added_to_all_rewards_changes_no_loss() -> None:
    """Reviewer's invariant 6."""
    ours = model()
    before = validate(ours, comparisons())
    ours.reward_bias.fill_(-7.5)
    after = validate(ours, comparisons())
    assert after["accuracy"] == before["accuracy"]
    assert after["loss"] == pytest.approx(before["loss"], abs=1e-6)
    assert after["reward_std"] == pytest.approx(before["reward_std"], abs=1e-5)


@pytest.mark.parametrize("stop", [3, 4])
def test_interrupted_and_resumed_equals_undisturbed(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """2N steps == N + resume + N, to the bit (field fault 32); 24 rankings, 4 a step: 6 steps."""
    whole = train(config(world, tmp_path / "whole"))
    calls, original = [0], stage.clip_gradients

    def clip(*arguments: Any) -> float:
        calls[0] += 1
        if calls[0] == stop:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "clip_gradients", clip)
        with pytest.raises(Interrupted):
            train(config(world, tmp_path / "cut"))
    cut = train(config(world, tmp_path / "cut"))
    one, other = load_scalar_model(final(whole)), load_scalar_model(final(cut))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert one.reward_bias.item() == other.reward_bias.item() != 0


def test_killed_before_the_summary_the_shift_is_made_anew(world: Path, tmp_path: Path) -> None:
    first = train(config(world, tmp_path / "r"))
    (tmp_path / "r/summary.json").unlink()
    weights = tmp_path / "r" / first["checkpoint"] / "model.safetensors"
    written = weights.stat().st_mtime_ns
    again = train(config(world, tmp_path / "r"))
    assert weights.stat().st_mtime_ns == written  # not written over: a kill meanwhile would lose it
    for name in ("demonstration_mean_before", "demonstration_mean", "accuracy", "bag_of_words"):
        assert again[name] == first[name]


def test_it_learns_what_labelers_prefer_and_says_how_the_baselines_do(world: Path, tmp_path: Path) -> None:
    """good > fair > bad: words alone decide, lengths do not."""
    summary = train(config(world, tmp_path / "r", epochs=8.0))
    rows = read_metrics(tmp_path / "r/metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=0.35)  # a random head: about log 2 a pair
    assert summary["validation_loss"] < 0.1 and summary["accuracy"] == 1.0
    assert summary["pairs"] == 8 * 5  # C(4, 2) - one tie
    assert summary["bag_of_words"] == 1.0
    assert summary["longer_wins"] + summary["shorter_wins"] == pytest.approx(1.0)
    assert "validation_accuracy" in rows[1] and "validation_accuracy" not in rows[0]


def test_demonstrations_have_mean_zero(world: Path, tmp_path: Path) -> None:
    """Reviewer's invariant 6: after the shift the demonstrations' mean reward is 0 +- 1e-6."""
    summary = train(config(world, tmp_path / "r"))
    assert abs(summary["demonstration_mean"]) < 1e-6 < abs(summary["demonstration_mean_before"])
    reward = RewardModel.load(final(summary))  # checks selftest.json too
    rows = [json.loads(line) for line in (world / "demonstrations.jsonl").read_text().splitlines()]
    prompts = [(Message("user", row["prompt"]),) for row in rows]
    scores = reward.score(prompts, [row["response"] for row in rows])
    assert abs(math.fsum(scores) / len(scores)) < 1e-6


def test_transformers_opens_the_checkpoint_and_gives_our_scores(world: Path, tmp_path: Path) -> None:
    """...ForSequenceClassification minus reward_bias is our score, read at the last real token (field faults
    4, 5 and 6)."""
    summary = train(config(world, tmp_path / "r"))
    theirs = AutoModelForSequenceClassification.from_pretrained(final(summary))
    reward = RewardModel.load(final(summary))
    bias = json.loads((final(summary) / "config.json").read_text())["reward_bias"]
    assert bias == pytest.approx(summary["demonstration_mean_before"], abs=1e-6)
    for reply in ("good fox", "bad", ""):
        ids = render_reply(reward.tokenizer, [Message("user", "a fox 1?")], reply).ids
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).logits[0, 0].item() - bias
        found = reward.score([(Message("user", "a fox 1?"),)], [reply])[0]
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_checkpoint_before_the_end_is_complete_too(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, original = [0], stage.accumulate

    def fail(*arguments: Any) -> tuple[float, float]:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt  # stands for a kill in the middle of step 4
        return original(*arguments)

    monkeypatch.setattr(stage, "accumulate", fail)
    with pytest.raises(KeyboardInterrupt):
        train(config(world, tmp_path / "r"))
    RewardModel.load(tmp_path / "r/checkpoints/step-000002")


def test_what_cannot_be_compared_is_dropped_and_counted(world: Path, tmp_path: Path) -> None:
    """A reply beyond the context goes; a ranking with nothing but ties goes."""
    rows = [
        ranking(0),
        {"prompt": "q", "responses": [{"text": "a", "rank": 1}, {"text": "b", "rank": 1}]},
        {"prompt": "q", "responses": [{"text": "a " * 90, "rank": 1}, {"text": "b", "rank": 2}]},
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = train(config(world, tmp_path / "r", data=str(tmp_path / "d.jsonl")))
    assert (summary["rankings"], summary["training_pairs"]) == (1, 5)
    assert (summary["dropped_replies"], summary["dropped_rankings"]) == (1, 2)
    (tmp_path / "ties.jsonl").write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(DataError, match="two replies of different rank"):
        train(config(world, tmp_path / "r2", data=str(tmp_path / "ties.jsonl")))


def test_without_validation_and_demonstrations(world: Path, tmp_path: Path) -> None:
    more = {"validation": "", "validation_share": 0.0, "demonstrations": ""}
    summary = train(config(world, tmp_path / "r", **more))
    assert summary["accuracy"] is None and summary["demonstration_mean"] is None
    assert load_scalar_model(final(summary)).reward_bias.item() == 0
    held = train(config(world, tmp_path / "r2", validation="", validation_share=0.3))
    assert held["held_out"] > 0 and held["held_out"] + held["rankings"] == 24


def test_bfloat16_trains(world: Path, tmp_path: Path) -> None:
    summary = train(config(world, tmp_path / "r", epochs=8.0, dtype="bfloat16"))
    assert summary["accuracy"] == 1.0


def test_wrong_inputs_are_told(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    with pytest.raises(ConfigError, match="--data"):
        train(config(world, out, data=""))
    with pytest.raises(CheckpointError, match="no such folder"):
        train(config(world, out, model=str(tmp_path / "nothing")))
    with pytest.raises(DataError, match="no such file"):
        train(config(world, out, data=str(tmp_path / "nothing.jsonl")))
    reward = train(config(world, tmp_path / "ok"))
    with pytest.raises(CheckpointError, match="reward or value model"):
        train(config(world, out, model=str(final(reward))))
    with pytest.raises(DataError, match="none of 10 demonstrations fits"):
        long = tmp_path / "long.jsonl"
        long.write_text((json.dumps({"prompt": "q", "response": "a " * 90}) + "\n") * 10)
        train(config(world, tmp_path / "r2", demonstrations=str(long)))
    with pytest.raises(ConfigError, match="--batch"):
        config(world, out, batch=0)
