"""Best of n: the best is kept, means are means, and the KL is the closed form."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from instructgpt.data.records import read_prompts
from instructgpt.errors import ConfigError
from instructgpt.evaluation.best_of_n import BestOfNConfig, best_of_n_kl, run
from instructgpt.generation.loading import open_model
from instructgpt.generation.reply import sample_replies
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model, new_scalar_model
from instructgpt.model.hf import save_model
from instructgpt.scoring.reward import RewardModel
from instructgpt.scoring.selftest import write_selftest
from instructgpt.text.chat import render_prompt
from instructgpt.text.tokenizer import train_tokenizer

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("best")
    tokenizer = train_tokenizer(["name a river", "say good morning"] * 4, 300)
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=96)
    for name in ("model", "reward"):
        (folder / name).mkdir()
        tokenizer.save(folder / name)
    save_model(new_language_model(config, 1), folder / "model", special=SPECIAL)
    reward = new_scalar_model(config, 2)
    save_model(reward, folder / "reward", special=SPECIAL)
    write_selftest(folder / "reward", reward, tokenizer)
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"say {i}", "id": str(i)}) + "\n" for i in range(9))
    )
    (folder / "vowels_reward.py").write_text(
        "def vowels(prompts, replies):\n    return [float(sum(c in 'aeiou' for c in r)) for r in replies]\n"
    )
    return folder


def config(world: Path, reward: str, out: Path, **more: object) -> BestOfNConfig:
    settings = {"n": 4, "max_new": 10, "seed": 1, "device": "cpu", "max_active": 4, **more}
    return BestOfNConfig(  # type: ignore[arg-type]
        model=str(world / "model"),
        reward=reward,
        prompts=str(world / "prompts.jsonl"),
        out=str(out),
        **settings,
    )


def rows(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in (folder / "best.jsonl").read_text().splitlines()]


def test_the_best_reply_is_kept(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    summary = run(config(world, "vowels_reward:vowels", tmp_path / "out"))
    found = rows(tmp_path / "out")
    assert len(found) == 9
    for row in found:
        assert len(row["rewards"]) == 4
        assert row["reward"] == max(row["rewards"]) == sum(c in "aeiou" for c in row["response"])
        assert row["rewards"].index(row["reward"]) == row["sample"]
    assert summary["reward"] == pytest.approx(sum(row["reward"] for row in found) / 9)
    assert summary["reward_of_one"] == pytest.approx(sum(sum(row["rewards"]) for row in found) / 36)
    assert summary["reward"] > summary["reward_of_one"]
    assert summary["kl"] == pytest.approx(math.log(4) - 0.75)


def test_a_reward_model_scores_the_ids_that_were_drawn(world: Path, tmp_path: Path) -> None:
    """A reply cut at the largest length has no end-of-turn, and is scored without one, as in RL."""
    run(config(world, str(world / "reward"), tmp_path / "out", max_new=5))
    model, tokenizer = open_model(world / "model")
    prompts = read_prompts(world / "prompts.jsonl")
    replies = sample_replies(model, tokenizer, prompts, 4, 5, 1.0, seed=1)
    assert not all(reply.stopped for row in replies for reply in row)
    reward = RewardModel.load(world / "reward")
    for row, prompt, drawn in zip(rows(tmp_path / "out"), prompts, replies, strict=True):
        ids = [render_prompt(tokenizer, prompt.messages) + reply.ids for reply in drawn]
        alone = [reward.score_ids([sequence]).item() for sequence in ids]
        assert row["rewards"] == pytest.approx(alone, abs=1e-5)
        assert row["response"] == drawn[alone.index(max(alone))].text


def test_one_of_one_is_plain_sampling(world: Path, tmp_path: Path) -> None:
    summary = run(config(world, str(world / "reward"), tmp_path / "out", n=1))
    assert summary["kl"] == 0 and summary["reward"] == pytest.approx(summary["reward_of_one"])


def test_kl_against_an_enumeration() -> None:
    """Best of n of a uniform choice among many: the k-th best of m is drawn with ((k/m)^n - ((k-1)/m)^n)."""
    m, n = 20_000, 4
    weights = [((k / m) ** n - ((k - 1) / m) ** n) for k in range(1, m + 1)]
    exact = sum(w * math.log(w * m) for w in weights if w > 0)
    assert best_of_n_kl(n) == pytest.approx(exact, abs=1e-3)


def test_what_is_missing_is_named(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--reward is missing"):
        run(config(world, "", tmp_path / "out"))
    with pytest.raises(ConfigError, match="--n"):
        config(world, "x", tmp_path, n=0)
