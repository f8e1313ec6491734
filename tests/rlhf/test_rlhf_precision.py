"""precision.py: whose log-probs the ratios start from, and runs in bfloat16."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import instructgpt.rlhf.rollout as rollout_module
from instructgpt.model.hf import load_language_model
from instructgpt.rlhf.precision import settle_old_logprobs, settle_precision
from instructgpt.rlhf.prepare import prepare, resolve
from instructgpt.rlhf.rollout import episode_logprobs, micro_batches
from instructgpt.rlhf.round import judge, sample
from instructgpt.rlhf.train import train
from instructgpt.runtime.checkpoint import open_run


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTRUCTGPT_PROGRESS", "0")


def _rows(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def _off_by(rollout, place, nats):
    """The rollout whose sampler saw `nats` more than the update at one place."""
    sampled = rollout.old_logprobs.clone()
    sampled[place] += nats
    return dataclasses.replace(
        rollout, episodes=dataclasses.replace(rollout.episodes, rollout_logprobs=sampled)
    )


@pytest.mark.parametrize(
    ("place", "nats", "dtype", "expected"),
    [
        ((2, 5), 0.9e-4, "float32", "rollout"),
        ((2, 5), 1.1e-4, "float32", "update"),
        ((2, 5), -1.1e-4, "float32", "update"),
        ((0, 1), 5.0, "float32", "rollout"),  # beyond the first reply's only token
        ((2, 5), float("nan"), "float32", "update"),
        ((2, 5), 0.0, "bfloat16", "update"),
    ],
)
def test_auto_takes_the_sampler_where_it_is_exact(tiny, rollout, place, nats, dtype, expected) -> None:
    config = tiny.config(dtype=dtype)
    assert config.old_logprobs == "auto"
    assert settle_old_logprobs(_off_by(rollout, place, nats), config).old_logprobs == expected


@pytest.mark.parametrize("choice", ["update", "rollout"])
def test_what_was_asked_for_stays(tiny, rollout, choice) -> None:
    config = tiny.config(old_logprobs=choice)
    assert settle_old_logprobs(_off_by(rollout, (2, 5), 1.0), config) is config


def test_the_policys_pass_is_saved_from_the_second_round_on(tiny, tmp_path, monkeypatch) -> None:
    """Two passes in the first round, then the reference's alone; the numbers are those of the pass."""
    passes = []

    def spy(model, *rest):
        passes.append(model)
        return episode_logprobs(model, *rest)

    monkeypatch.setattr(rollout_module, "episode_logprobs", spy)
    train(tiny.config(tmp_path / "auto", iterations=3, save_every=0))
    assert len(passes) == 4 and passes[1] is passes[2] is passes[3] is not passes[0]
    train(tiny.config(tmp_path / "update", iterations=3, save_every=0, old_logprobs="update"))
    assert len(passes) == 4 + 6
    state = tmp_path / "auto" / "checkpoints" / "step-000003" / "train_state" / "state.json"
    assert json.loads(state.read_text())["old_logprobs"] == "rollout"
    for one, other in zip(_rows(tmp_path / "auto"), _rows(tmp_path / "update"), strict=True):
        for name in ("policy_loss", "value_loss", "kl", "ptx_loss", "value_grad_norm"):
            assert one[name] == pytest.approx(other[name], abs=1e-4, rel=1e-3), name
        assert one["rollout_drift"] < 1e-5
    # the pass of the update and not 0, which is what the sampler's differ from themselves by
    assert _rows(tmp_path / "auto")[1]["rollout_drift"] > 0


def test_a_restart_keeps_the_choice(tiny, tmp_path) -> None:
    """Recomputed in its first round, the restarted run would part from the undisturbed one by rounding."""
    config = tiny.config(tmp_path / "half", iterations=4, save_every=2)
    with open_run(config.out, "ppo", config, resolve(config)) as run:
        parts = dataclasses.replace(prepare(config, resolve(config), run), old_logprobs="rollout")
        assert settle_precision(run, parts, config).old_logprobs == "rollout"


def test_bfloat16_keeps_the_kl_of_an_untouched_policy_at_zero(tiny, tmp_path) -> None:
    """The frozen networks hold their layers in 16 bits; their numbers stay the same to the bit."""
    config = tiny.config(tmp_path / "run", dtype="bfloat16")
    with open_run(config.out, "ppo", config, resolve(config)) as run:
        parts = prepare(config, resolve(config), run)
        exact = parts.reward.score_ids([[5, 9, 40], [8, 11]])
        config = settle_precision(run, parts, config)
        for frozen in (parts.reference, parts.reward.model):
            assert {b.feed.up.weight.dtype for b in frozen.transformer.blocks} == {torch.bfloat16}
            assert frozen.transformer.embedding.weight.dtype == torch.float32
        assert parts.learner.policy.transformer.blocks[0].feed.up.weight.dtype == torch.float32
        rounded = parts.reward.score_ids([[5, 9, 40], [8, 11]])
        torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.02)
        assert not torch.equal(rounded, exact)
        judged = judge(parts, sample(parts, parts.prompts, config, 0), config, 0.1)
        assert torch.equal(judged.rollout.old_logprobs, judged.rollout.reference_logprobs)


def test_a_run_in_bfloat16(tiny, tmp_path) -> None:
    """It learns, and what it saves is float32."""
    summary = train(tiny.config(tmp_path / "run", dtype="bfloat16"))
    rows = _rows(tmp_path / "run")
    assert rows[0]["kl"] == 0.0 and rows[1]["kl"] != 0.0
    assert 0 < rows[0]["rollout_drift"] < 0.1
    saved = load_language_model(tmp_path / "run" / summary["checkpoint"])
    start = load_language_model(tiny.folder / "sft")
    assert saved.unembedding.dtype == torch.float32 and not torch.equal(saved.unembedding, start.unembedding)


def test_bfloat16_log_probs_are_near(tiny, episodes, models) -> None:
    micros = micro_batches(episodes, range(8), 10_000)
    exact, rounded = (episode_logprobs(models[0], episodes, micros, 1.0, t) for t in ("float32", "bfloat16"))
    assert 0 < (exact - rounded).abs().max() < 0.1
