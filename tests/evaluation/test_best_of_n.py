"""Best of n: the best is kept, means are means, and the KL is the closed form."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from instructgpt.data.records import read_prompts
from instructgpt.errors import ConfigError, InstructGPTError
from instructgpt.evaluation.answers import Candidate
from instructgpt.evaluation.best_of_n import BestOfNConfig, run
from instructgpt.evaluation.best_of_n_curve import best_of_n_kl
from instructgpt.generation.loading import open_model
from instructgpt.generation.reply import sample_replies
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model, new_scalar_model
from instructgpt.model.hf import save_model
from instructgpt.scoring.reward import RewardModel
from instructgpt.scoring.selftest import write_selftest
from instructgpt.text.chat import render_prompt
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def shape(tokenizer: Tokenizer) -> ModelConfig:
    return ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=96)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("best")
    tokenizer = train_tokenizer(["name a river", "say good morning"] * 4, 300)
    config = shape(tokenizer)
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
        "def length(prompts, replies):\n    return [float(len(r)) for r in replies]\n"
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


def checkpoints(world: Path, folder: Path, seeds: dict[int, int]) -> Path:
    """A run folder whose checkpoint of each step is a model of its own seed."""
    tokenizer = Tokenizer.load(world / "model")
    for step, seed in seeds.items():
        place = folder / "checkpoints" / f"step-{step:06d}"
        place.mkdir(parents=True)
        save_model(new_language_model(shape(tokenizer), seed), place, special=SPECIAL)
        tokenizer.save(place)
    return folder


def test_checkpoints_stand_on_the_axes_of_best_of_n(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 1 is the model itself (seed 1): KL 0, and its reply is the first sample; step 2 is another one."""
    monkeypatch.chdir(world)
    path = checkpoints(world, tmp_path / "ppo", {1: 1, 2: 9})
    settings = config(
        world, "vowels_reward:vowels", tmp_path / "out", paths=f"mine={path}", judge="vowels_reward:length"
    )
    summary = run(settings)
    found = rows(tmp_path / "out")
    same, other = summary["paths"]["mine"]
    assert (same["step"], same["kl"]) == (1, 0.0) and (other["step"], other["kl"] > 0) == (2, True)
    assert same["reward"] == pytest.approx(sum(row["rewards"][0] for row in found) / 9)
    assert same["score"] == pytest.approx(sum(row["scores"][0] for row in found) / 9)
    assert [row["n"] for row in summary["curve"]] == [1, 2, 4]
    assert summary["curve"][-1]["reward"] == pytest.approx(summary["reward"])
    assert summary["curve"][0]["reward"] == pytest.approx(summary["reward_of_one"])
    # pairs of four draws: the mean of the larger over all six
    pairs = [max(a, b) for row in found for a, b in itertools.combinations(row["rewards"], 2)]
    assert summary["curve"][1]["reward"] == pytest.approx(sum(pairs) / len(pairs))
    assert summary["kl_estimated"] <= summary["kl"] + 1e-9
    assert {(share["n"], share["kind"]) for share in summary["shares"]["mine"]} == {
        (n, kind) for n in (2, 4) for kind in ("analytic", "estimated")
    }
    assert "best of 4" in summary["table"] and "mine 2" in summary["table"]
    page = (tmp_path / "out" / "curve.html").read_text()
    assert page.count("<svg") == 1 and "http" not in page.replace("http-equiv", "")
    assert (tmp_path / "out" / "curve.svg").read_text().startswith("<svg xmlns=")


def test_averaged_weights_are_measured_where_asked_for(world: Path, tmp_path: Path) -> None:
    """The average of step 2 is the model itself: KL 0; step 1 has none."""
    path = checkpoints(world, tmp_path / "ppo", {2: 9})
    shutil.copytree(world / "model", path / "checkpoints" / "step-000002" / "ema")
    more = {"paths": f"mine={path}", "weights": "ema"}
    (row,) = run(config(world, str(world / "reward"), tmp_path / "out", **more))["paths"]["mine"]
    assert (row["step"], row["kl"]) == (2, 0.0) and row["checkpoint"].endswith("step-000002/ema")
    checkpoints(world, tmp_path / "ppo", {1: 9})
    with pytest.raises(ConfigError, match=r"no moving average \(.*step-000001/ema\).*--ema 0\.992"):
        run(config(world, str(world / "reward"), tmp_path / "other", **more))


def test_log_probabilities_and_repeats_are_kept(world: Path, tmp_path: Path) -> None:
    run(config(world, str(world / "reward"), tmp_path / "out", max_new=1))
    model, tokenizer = open_model(world / "model")
    drawn = sample_replies(model, tokenizer, read_prompts(world / "prompts.jsonl"), 4, 1, 1.0, seed=1)
    for row, replies in zip(rows(tmp_path / "out"), drawn, strict=True):
        assert row["logprobs"] == [pytest.approx(reply.logprobs[0]) for reply in replies]
        ids = [tuple(reply.ids) for reply in replies]
        assert row["same"] == [min(j for j in range(4) if ids[j] == one) for one in ids]


def test_the_curve_and_the_prompts_can_be_chosen(world: Path, tmp_path: Path) -> None:
    summary = run(config(world, str(world / "reward"), tmp_path / "out", curve="3,2", count=4))
    assert [row["n"] for row in summary["curve"]] == [1, 2, 3]
    assert summary["prompts"] == 4 == len(rows(tmp_path / "out"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"curve": "2,5"}, "use numbers from 1 to 4"),
        ({"count": -1}, "use 0 .all. or more"),
        ({"curve": "two"}, "give whole numbers"),
        ({"paths": "somewhere", "temperature": 0.5}, "use --temperature 1"),
        ({"paths": "a=somewhere,a=elsewhere"}, "two runs have one name"),
        ({"paths": "nowhere/at/all"}, "there is no such folder"),
        ({"judge": "nothing"}, "not the name of a function"),
    ],
)
def test_mistakes_of_curve_and_paths(
    world: Path, tmp_path: Path, more: dict[str, object], message: str
) -> None:
    with pytest.raises(InstructGPTError, match=message):
        run(config(world, str(world / "reward"), tmp_path / "out", **more))


def test_a_stopped_run_measures_no_checkpoint_twice(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind the first checkpoint; the last portion of prompts is short (9 prompts, 2 a portion)."""
    path = checkpoints(world, tmp_path / "ppo", {1: 1, 2: 9})
    settings = config(world, str(world / "reward"), tmp_path / "out", paths=f"mine={path}")
    whole = run(config(world, str(world / "reward"), tmp_path / "whole", paths=f"mine={path}"))
    load, opened = Candidate.load, []

    def once(name: str, folder: Path, device: torch.device) -> Candidate:
        if opened:
            raise KeyboardInterrupt
        opened.append(folder)
        return load(name, folder, device)

    monkeypatch.setattr("instructgpt.evaluation.best_of_n.Candidate.load", once)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    opened.clear()
    summary = run(settings)
    assert [folder.name for folder in opened] == ["step-000002"]
    for key in ("curve", "paths", "shares"):
        assert summary[key] == whole[key]
