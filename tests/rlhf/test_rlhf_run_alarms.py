"""train.py with alarms, a judge and an ensemble: what a run says, writes, keeps, and resumes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import instructgpt.rlhf.alarms as alarms_module
import instructgpt.rlhf.round as round_module
import instructgpt.rlhf.update as update_module
from instructgpt.errors import CheckError, ConfigError
from instructgpt.model.heads import new_scalar_model
from instructgpt.model.hf import load_scalar_model, save_model
from instructgpt.rlhf.alarms import Check, History
from instructgpt.rlhf.rollout import episode_scores, member_scores
from instructgpt.rlhf.round import learning_rates
from instructgpt.rlhf.train import train
from instructgpt.scoring.reward import Ensemble, load_reward
from instructgpt.scoring.selftest import write_selftest


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    folder = out / "checkpoints" / f"step-{step:06d}"
    files = ["model", "ema/model", "value/model", "train_state/tensors"]
    return {f"{f}:{k}": t for f in files for k, t in load_file(folder / f"{f}.safetensors").items()}


@pytest.fixture
def overflow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gradients overflow at the given calls of the clipping: policy, value, policy, value, ..."""

    def plant(*calls: int) -> None:
        clip, count = update_module.clip_gradients, iter(range(10_000))

        def clip_gradients(parameters: Any, limit: float) -> float:
            norm = clip(parameters, limit)
            return math.inf if next(count) in calls else norm

        monkeypatch.setattr(update_module, "clip_gradients", clip_gradients)

    return plant


def test_an_alarm_is_said_written_and_counted(tiny, tmp_path, overflow, capsys) -> None:
    """Field fault 21. Round 2 takes calls 4 .. 7 of two minibatches: its first policy step is skipped."""
    overflow(4)
    summary = train(tiny.config(tmp_path / "run", iterations=3))
    said = [line for line in capsys.readouterr().err.splitlines() if "alarm" in line]
    assert len(said) == 1 and said[0].startswith("instructgpt ppo: alarm non_finite at round 2: 1 steps")
    (row,) = _rows(tmp_path / "run" / "alarms.jsonl")
    assert (row["step"], row["name"]) == (2, "non_finite") and {"found", "cause", "cure"} <= set(row)
    assert summary["alarms"] == {"non_finite": 1}
    assert summary["iterations"] == 3 and summary["stopped_early"] == ""
    assert [r["skipped_steps"] for r in _rows(tmp_path / "run" / "metrics.jsonl")] == [0.0, 1.0, 0.0]


def test_on_alarm_stop_saves_and_ends(tiny, tmp_path, overflow) -> None:
    overflow(4)
    config = tiny.config(tmp_path / "run", iterations=9, save_every=5, on_alarm="stop")
    summary = train(config)
    assert summary["iterations"] == 2 and summary["stopped_early"] == "alarm: non_finite"
    assert (tmp_path / "run" / summary["checkpoint"] / "model.safetensors").exists()
    (tmp_path / "run" / "summary.json").unlink()  # killed between the checkpoint and the summary
    again = train(config)
    for name in ("iterations", "stopped_early", "checkpoint", "alarms", "last"):
        assert again[name] == summary[name]


def test_too_many_skipped_steps_keep_the_last_good_checkpoint(tiny, tmp_path, overflow) -> None:
    """Calls 8, 10 and 12 are three policy steps in a row, the last one in round 4; round 2 was saved."""
    config = tiny.config(tmp_path / "run", iterations=6, save_every=2)
    train(tiny.config(tmp_path / "short", iterations=2))  # undisturbed
    overflow(8, 10, 12)
    with pytest.raises(CheckError, match="last 3 steps were skipped"):
        train(config)
    kept = _weights(tmp_path / "run", 2)
    torch.testing.assert_close(kept, _weights(tmp_path / "short", 2), rtol=0.0, atol=0.0)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    overflow()  # whatever it was is mended
    assert train(config)["iterations"] == 6


def test_killed_and_resumed_rings_the_same(tiny, tmp_path, monkeypatch) -> None:
    """Field fault 32: one alarm that began before the checkpoint and one after it, neither twice."""

    def early(history: History) -> str | None:
        return "long" if len(history.last["kl"]) >= 2 else None

    def late(history: History) -> str | None:
        return "longer" if len(history.last["kl"]) >= 3 else None

    monkeypatch.setattr(alarms_module, "CHECKS", (Check(early, "a", "b"), Check(late, "c", "d")))
    whole = train(tiny.config(tmp_path / "whole", iterations=4, save_every=2))
    real = round_module.update

    def killed(*arguments: Any) -> Any:
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(round_module, "update", killed)
    config = tiny.config(tmp_path / "run", iterations=4, save_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert [row["name"] for row in _rows(tmp_path / "run" / "alarms.jsonl")] == ["early", "late"]
    monkeypatch.setattr(round_module, "update", real)
    summary = train(config)
    assert _rows(tmp_path / "run" / "alarms.jsonl") == _rows(tmp_path / "whole" / "alarms.jsonl")
    assert summary["alarms"] == whole["alarms"] == {"early": 1, "late": 1}


def test_a_judge_is_asked_and_never_trained_on(tiny, tmp_path, monkeypatch) -> None:
    (tmp_path / "judge_length.py").write_text(
        "def judge(prompts, replies):\n    return [float(len(r)) for r in replies]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    asked = tiny.config(
        tmp_path / "run", eval_every=2, eval_prompts=str(tiny.folder / "prompts.jsonl"), ema=0.5
    )
    judged = dataclasses.replace(asked, out=str(tmp_path / "judged"), judge="judge_length:judge")
    train(asked)
    train(judged)
    first, second = _rows(tmp_path / "judged" / "metrics.jsonl")
    assert "eval_judge" not in first and 0 < second["eval_judge_se"] < second["eval_judge"]
    assert "eval_judge" not in _rows(tmp_path / "run" / "metrics.jsonl")[1]
    found, expected = _weights(tmp_path / "judged", 2), _weights(tmp_path / "run", 2)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)


def test_the_judge_of_a_checkpoint_is_the_checkpoint_s_score(tiny, tmp_path) -> None:
    """With the reward model as its own judge the two numbers are one."""
    config = tiny.config(
        tmp_path / "run",
        iterations=1,
        eval_every=1,
        eval_prompts=str(tiny.folder / "prompts.jsonl"),
        judge=str(tiny.folder / "reward"),
    )
    train(config)
    (row,) = _rows(tmp_path / "run" / "metrics.jsonl")
    assert row["eval_judge"] == pytest.approx(row["eval_reward"], abs=1e-6)


@pytest.fixture
def second(tiny, tmp_path) -> Path:
    """Another reward model of the same tokenizer."""
    model = new_scalar_model(tiny.model_config, 6)
    save_model(model, tmp_path / "second")
    tiny.tokenizer.save(tmp_path / "second")
    write_selftest(tmp_path / "second", model, tiny.tokenizer)
    return tmp_path / "second"


def test_an_ensemble_pays_its_mean_and_its_first_member_starts_v(tiny, tmp_path, second) -> None:
    spec = f"{tiny.folder / 'reward'},{second}"
    summary = train(tiny.config(tmp_path / "run", iterations=1, reward=spec, value_lr=0.0))
    (row,) = _rows(tmp_path / "run" / "metrics.jsonl")
    assert summary["value_init"] == "reward" and row["reward_disagreement"] > 0
    value = load_scalar_model(tmp_path / "run" / summary["checkpoint"] / "value")
    first = load_scalar_model(tiny.folder / "reward")
    torch.testing.assert_close(dict(value.state_dict()), dict(first.state_dict()), rtol=0.0, atol=0.0)


def test_disagreement_is_the_spread_over_members(tiny, episodes, second, rollout) -> None:
    """Of two members it is half their distance."""
    ensemble = load_reward(f"{tiny.folder / 'reward'},{second}")
    assert isinstance(ensemble, Ensemble)
    alone = [
        episode_scores(load_reward(str(folder)), episodes, tiny.tokenizer)
        for folder in (tiny.folder / "reward", second)
    ]
    each = member_scores(ensemble, episodes)
    torch.testing.assert_close(each, torch.stack(alone))
    torch.testing.assert_close(episode_scores(ensemble, episodes, tiny.tokenizer), (alone[0] + alone[1]) / 2)
    from instructgpt.rlhf.reward import shape_rewards

    scored = dataclasses.replace(rollout, scores=each.mean(0), member_scores=each)
    judged = round_module.Judged(scored, shape_rewards(scored, 0.1), rollout.values, rollout.values)
    expected = ((alone[0] - alone[1]).abs() / 2).mean().item()
    assert round_module.describe(judged, 0.1)["reward_disagreement"] == pytest.approx(expected, abs=1e-6)


def test_a_score_that_is_not_finite_is_an_error(tiny, episodes, second) -> None:
    """Field fault 21: one such score would spoil the whitened advantages of every reply."""
    for spec in (str(tiny.folder / "reward"), f"{tiny.folder / 'reward'},{second}"):
        reward = load_reward(spec)
        model = reward.members[1].model if isinstance(reward, Ensemble) else reward.model
        model.head.weight.data[0, 0] = math.nan
        score = member_scores if isinstance(reward, Ensemble) else episode_scores
        arguments = (reward, episodes) if isinstance(reward, Ensemble) else (reward, episodes, tiny.tokenizer)
        with pytest.raises(CheckError, match=r"gave nan to a reply \(prompt "):
            score(*arguments)


def test_describe_by_hand(tiny, rollout) -> None:
    """Lengths 1 3 6 2 6 4 1 5; scores that rise by 0.5 a token from 1 at length 0."""
    from instructgpt.rlhf.reward import shape_rewards

    lengths = [1, 3, 6, 2, 6, 4, 1, 5]
    scores = torch.tensor([1 + 0.5 * n for n in lengths])
    exact = dataclasses.replace(rollout, scores=scores)
    judged = round_module.Judged(exact, shape_rewards(exact, 0.1), rollout.values, rollout.values)
    row = round_module.describe(judged, 0.1, start_length=2.0)
    assert row["reward_length_correlation"] == pytest.approx(1.0, abs=1e-6)
    assert row["reward_at_start_length"] == pytest.approx(2.0, abs=1e-5)
    assert round_module.describe(judged, 0.1)["reward_at_start_length"] == pytest.approx(row["reward"])
    # 1 + 0.5 * 3.5; the squared distances from 3.5 are 4 x 6.25 + 2 x 2.25 + 2 x 0.25 = 30, 30 / 8 = 3.75
    assert row["reward"] == pytest.approx(2.75)
    assert row["score_std"] == pytest.approx(0.5 * 3.75**0.5, abs=1e-5)
    ratio = rollout.old_logprobs - rollout.reference_logprobs
    k3 = [
        sum(math.exp(-x) - 1 + x for x in ratio[r, :n].tolist()) for r, n in enumerate(lengths)
    ]  # pi_ref / pi - 1 - log(pi_ref / pi)
    assert row["kl_k3"] == pytest.approx(sum(k3) / 8, abs=1e-5) and min(k3) >= 0
    k1 = torch.tensor([sum(ratio[r, :n].tolist()) for r, n in enumerate(lengths)])
    assert row["kl"] == pytest.approx(k1.mean().item(), abs=1e-5)
    assert row["kl_std"] == pytest.approx(k1.std(unbiased=False).item(), abs=1e-5)


def test_reward_at_start_length_is_of_the_first_round(tiny, tmp_path, monkeypatch) -> None:
    """The reward is the number of tokens, nearly: the length then explains it all, and nothing is left."""
    (tmp_path / "judge_tokens.py").write_text(
        "def judge(prompts, replies):\n    return [float(len(r)) for r in replies]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    seen = []
    real = round_module.describe

    def describe(judged: Any, beta: float, start_length: float | None = None) -> dict[str, float]:
        seen.append(start_length)
        return real(judged, beta, start_length)

    monkeypatch.setattr("instructgpt.rlhf.train.describe", describe)
    train(tiny.config(tmp_path / "run", iterations=3, reward="judge_tokens:judge"))
    rows = _rows(tmp_path / "run" / "metrics.jsonl")
    assert seen == [None, rows[0]["length"], rows[0]["length"]]
    assert rows[0]["reward_at_start_length"] == pytest.approx(rows[0]["reward"], abs=1e-6)


def test_learning_rates_by_hand(tiny) -> None:
    def rates(**changes: Any) -> list[tuple[float, float]]:
        config = tiny.config(iterations=4, lr=1.0, value_lr=2.0, warmup=0, **changes)
        return [learning_rates(config, iteration) for iteration in range(4)]

    assert rates() == [(1.0, 2.0)] * 4
    # [N]: frac = 1 - (update - 1) / num_updates, for updates 1 .. 4
    assert rates(lr_schedule="linear") == [(1.0, 2.0), (0.75, 1.5), (0.5, 1.0), (0.25, 0.5)]
    assert rates(value_warmup=2) == [(0.0, 2.0), (0.0, 2.0), (1.0, 2.0), (1.0, 2.0)]
    config = tiny.config(iterations=20, lr=1.0, value_lr=1.0, warmup=10, value_warmup=5)
    pairs = [learning_rates(config, iteration) for iteration in (0, 4, 5, 10, 15, 19)]
    # the value network's warm-up is over at round 10, the policy's goes from round 5 (a tenth) to round 15
    expected = [(0.0, 0.1), (0.0, 0.46), (0.1, 0.55), (0.55, 1.0), (1.0, 1.0), (1.0, 1.0)]
    assert [x for pair in pairs for x in pair] == pytest.approx([x for pair in expected for x in pair])


def test_judge_and_reward_are_inputs_of_the_run(tiny, tmp_path, second) -> None:
    config = tiny.config(
        tmp_path / "run",
        iterations=1,
        eval_every=1,
        eval_prompts=str(tiny.folder / "prompts.jsonl"),
        judge=str(second),
    )
    train(config)
    save_model(new_scalar_model(tiny.model_config, 7), second)
    with pytest.raises(ConfigError, match="input judge"):
        train(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reward", "judge", "alarm"),
    [
        # Over-optimisation: what is paid for is the letter e, which the judge dislikes.
        ("float(r.count('e'))", "-float(r.count('e'))", "over_optimisation"),
        # A reward that is nothing but length; these replies begin at full length, so it can only shrink them.
        ("-float(len(r))", "0.0", "length_runaway"),
    ],
)
def test_a_reward_with_a_fault_is_heard(tiny, tmp_path, monkeypatch, reward, judge, alarm) -> None:
    """Field fault 23, in a run from files, policy and value network being real models."""
    (tmp_path / f"judge_{alarm}.py").write_text(
        f"def reward(prompts, replies):\n    return [{reward} for r in replies]\n\n\n"
        f"def judge(prompts, replies):\n    return [{judge} for r in replies]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    summary = train(
        tiny.config(
            tmp_path / "run",
            reward=f"judge_{alarm}:reward",
            judge=f"judge_{alarm}:judge",
            eval_every=2,
            eval_prompts=str(tiny.folder / "prompts.jsonl"),
            iterations=40,
            batch=64,
            minibatches=4,
            max_new=24,
            lr=3e-3,
            value_lr=3e-3,
            warmup=0,
            ptx_coef=0.0,
            save_every=0,
            old_logprobs="rollout",
            on_alarm="stop",
        )
    )
    assert alarm in summary["alarms"] and alarm in summary["stopped_early"]
