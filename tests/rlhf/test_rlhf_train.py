"""train.py: the real run, killed and resumed, refused with a cause, and shown to learn."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import instructgpt.rlhf.round as round_module
import instructgpt.rlhf.train as module
from instructgpt.config import parse
from instructgpt.errors import CheckpointError, ConfigError, DataError
from instructgpt.model.hf import load_language_model, load_scalar_model
from instructgpt.rlhf.prepare import prompt_indices, special_ids
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.rlhf.train import train
from instructgpt.runtime.optim import linear_warmup
from instructgpt.text.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTRUCTGPT_PROGRESS", "0")


def _rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def _weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    folder = out / "checkpoints" / f"step-{step:06d}"
    files = ["model", "ema/model", "value/model", "train_state/tensors"]
    return {f"{f}:{k}": t for f in files for k, t in load_file(folder / f"{f}.safetensors").items()}


_TIMES = ("seconds", "mfu", "tokens_per_second", "rollout_tokens_per_second")


def _timeless(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.startswith(_TIMES)}


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> Path:
    """An undisturbed run of four rounds."""
    out = tmp_path_factory.mktemp("ppo") / "run"
    train(tiny.config(out, iterations=4, save_every=2, kl_target=0.01, kl_horizon=100.0, warmup=2))
    return out


def test_the_run_folder(tiny, finished) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["checkpoint"] == "checkpoints/step-000004"
    assert summary["iterations"] == 4 and summary["stopped_early"] == "" and summary["value_init"] == "reward"
    rows = _rows(finished)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    needed = {
        "reward", "kl", "kl_reward", "length", "eos_rate", "entropy", "policy_loss", "value_loss", "ptx_loss",
        "approx_kl", "clip_fraction", "tokens_per_second", "seconds_rollout", "seconds_scoring",
        "seconds_update",
        "beta", "lr", "explained_variance", "policy_grad_norm", "value_grad_norm", "skipped_steps",
        "kl_k3", "kl_std", "score_std", "reward_length_correlation", "reward_at_start_length",
    }  # fmt: skip
    assert needed <= set(rows[0])
    assert "reward_disagreement" not in rows[0]  # there is no ensemble
    assert all(row["skipped_steps"] == 0 for row in rows)
    assert summary["alarms"] == {} and (finished / "alarms.jsonl").read_text() == ""
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)  # the policy is still the reference
    assert rows[3]["kl_reward"] == pytest.approx(-rows[3]["beta"] * rows[3]["kl"])
    samples = [json.loads(line) for line in (finished / "samples.jsonl").read_text().splitlines()]
    assert {row["step"] for row in samples} == {2, 4}
    checkpoint = finished / summary["checkpoint"]
    for place in ("", "ema", "value"):
        names = {path.name for path in (checkpoint / place).iterdir()}
        assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert load_scalar_model(checkpoint / "value").reward_bias.item() == 0.25


def test_the_policy_opens_in_transformers(finished) -> None:
    transformers = pytest.importorskip("transformers")
    folder = finished / "checkpoints" / "step-000004"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = load_language_model(folder)
    ids = torch.tensor([10, 30, 50, 20])
    with torch.no_grad():
        logits = ours.logits(ours(ids, torch.arange(4), [4]))
        torch.testing.assert_close(theirs(ids[None]).logits[0], logits, atol=1e-4, rtol=1e-4)


def test_the_checkpoint_names_all_ids_that_end_a_reply(tiny, finished) -> None:
    """As SFT's does: a document's end and a reply's, `<|eos|>` and `<|end|>`, ids 2 and 3."""
    folder = finished / "checkpoints" / "step-000004"
    for place in (folder, folder / "ema"):
        assert json.loads((place / "generation_config.json").read_text())["eos_token_id"] == [2, 3]
    assert special_ids(tiny.tokenizer) == {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}


def test_without_a_padding_token_the_value_network_is_padded_with_eos(tiny, tmp_path, monkeypatch) -> None:
    """transformers refuses to score a batch with a model that names no padding id."""
    load = Tokenizer.load

    def without_padding(folder):
        tokenizer = load(folder)
        tokenizer.pad_id = None
        return tokenizer

    monkeypatch.setattr(Tokenizer, "load", without_padding)
    train(tiny.config(tmp_path / "run", iterations=1))
    folder = tmp_path / "run" / "checkpoints" / "step-000001"
    assert json.loads((folder / "value" / "config.json").read_text())["pad_token_id"] == 2  # <|eos|>
    assert "pad_token_id" not in json.loads((folder / "generation_config.json").read_text())


def test_killed_and_resumed_is_the_same_run(tiny, finished, tmp_path, monkeypatch) -> None:
    """Field fault 32: 2N rounds == N + kill + resume + N, weights, optimizers, average, beta, metrics."""
    config = tiny.config(
        tmp_path / "run", iterations=4, save_every=2, kl_target=0.01, kl_horizon=100.0, warmup=2
    )
    real = round_module.update

    def killed(*arguments):
        if arguments[-1] == 3:  # the fourth round: the third one is lost
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(round_module, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(round_module, "update", real)
    summary = train(config)
    torch.testing.assert_close(_weights(tmp_path / "run", 4), _weights(finished, 4), rtol=0.0, atol=0.0)
    assert [_timeless(row) for row in _rows(tmp_path / "run")] == [_timeless(row) for row in _rows(finished)]
    assert _timeless(summary["first"]) == _timeless(
        json.loads((finished / "summary.json").read_text())["first"]
    )


def test_a_finished_run_is_not_run_again(tiny, finished, monkeypatch) -> None:
    monkeypatch.setattr(module, "prepare", None)
    summary = train(
        tiny.config(finished, iterations=4, save_every=2, kl_target=0.01, kl_horizon=100.0, warmup=2)
    )
    assert summary["iterations"] == 4


def test_invariant_10_warm_up(finished) -> None:
    """Invariant 10: a tenth of the peak at round 0, the peak at round 10, constant afterwards."""
    assert linear_warmup(0, PPOConfig().warmup) == pytest.approx(0.1)
    assert linear_warmup(5, PPOConfig().warmup) == pytest.approx(0.55)
    assert linear_warmup(10, PPOConfig().warmup) == linear_warmup(400, PPOConfig().warmup) == 1.0
    # the run of the fixture warms up over 2 rounds from 1e-4 to 1e-3
    assert [row["lr"] for row in _rows(finished)] == pytest.approx([1e-4, 5.5e-4, 1e-3, 1e-3])


def test_adaptive_beta_follows_the_controller(finished) -> None:
    # target 0.01, batch 8, horizon 100: errors are clipped to +-0.2, so steps of at most 1.6 %
    rows = _rows(finished)
    assert rows[0]["beta"] == 0.02
    for before, after in pairwise(rows):
        error = min(max(before["kl"] / 0.01 - 1, -0.2), 0.2)
        assert after["beta"] == pytest.approx(before["beta"] * (1 + error * 8 / 100))


def test_values_of_the_paper_are_the_defaults() -> None:
    """Section 3.5 and App. C.4 of arXiv:2203.02155; lambda, value clip and coefficient of the 2019 code."""
    config = PPOConfig()
    assert (config.beta, config.ptx_coef, config.ptx_ratio, config.ema) == (0.02, 27.8, 8.0, 0.992)
    assert (config.batch, config.minibatches, config.epochs, config.warmup) == (512, 8, 1, 10)
    assert (config.clip, config.gamma, config.temperature) == (0.2, 1.0, 1.0)
    assert (config.beta1, config.beta2, config.value_lr) == (0.9, 0.95, 9e-6)
    assert config.iterations * config.batch == 256_000
    assert (config.lam, config.value_clip, config.value_coef) == (0.95, 0.2, 0.1)
    assert config.whiten_advantages and not config.whiten_rewards
    assert config.ptx_examples == 8 * 512 // 8


def test_prompt_order_is_a_shuffle_per_pass() -> None:
    taken = [i for iteration in range(3) for i in prompt_indices(12, 8, iteration, 5)]
    assert sorted(taken[:12]) == sorted(taken[12:]) == list(range(12))
    assert taken[:12] != taken[12:] and taken[:12] != list(range(12))
    assert prompt_indices(12, 8, 2, 5) == taken[16:]
    assert prompt_indices(12, 8, 2, 6) != taken[16:]


def test_max_kl_stops_before_the_update(tiny, tmp_path) -> None:
    config = tiny.config(tmp_path / "run", iterations=9, lr=1e-3, warmup=0, max_kl=0.1, beta=0.0)
    summary = train(config)
    assert 1 < summary["iterations"] < 9
    assert "above --max-kl 0.1" in summary["stopped_early"]
    assert (tmp_path / "run" / summary["checkpoint"] / "model.safetensors").exists()
    assert all(row["kl"] <= 0.1 for row in _rows(tmp_path / "run"))
    kept = _weights(tmp_path / "run", summary["iterations"])
    out = tmp_path / "every"
    every = train(dataclasses.replace(config, out=str(out), save_every=1, keep=2))
    assert every["iterations"] == summary["iterations"]
    # the policy that was measured above the limit, not updated further, and beside it the last one below
    both = [path.name for path in sorted((out / "checkpoints").iterdir())]
    assert both == [f"step-{n:06d}" for n in (summary["iterations"] - 1, summary["iterations"])]
    torch.testing.assert_close(_weights(out, summary["iterations"]), kept, rtol=0.0, atol=0.0)


def test_held_out_prompts_are_measured(tiny, tmp_path) -> None:
    config = tiny.config(
        tmp_path / "run", eval_every=2, eval_prompts=str(tiny.folder / "prompts.jsonl"), ptx_coef=0.0, ema=0.0
    )
    train(config)
    rows = _rows(tmp_path / "run")
    assert "eval_reward" not in rows[0] and {"eval_reward", "eval_kl", "eval_length"} <= set(rows[1])
    assert "ptx_loss" not in rows[0]
    assert not (tmp_path / "run" / "checkpoints" / "step-000002" / "ema").exists()


def test_the_rules_reach_the_run(tiny, tmp_path, monkeypatch) -> None:
    """A function as reward, V with a head of zeros, the missing-end rule, short prompts only."""
    (tmp_path / "judge_zero.py").write_text("def judge(prompts, replies):\n    return [0.5] * len(replies)\n")
    monkeypatch.syspath_prepend(tmp_path)
    longest = max(len(t) for t in _prompt_ids(tiny))
    summary = train(
        tiny.config(
            tmp_path / "run",
            reward="judge_zero:judge",
            iterations=1,
            missing_eos_penalty=-2.0,
            max_prompt=longest - 1,
            old_logprobs="rollout",
        )
    )
    row = _rows(tmp_path / "run")[0]
    assert summary["value_init"] == "policy" and summary["prompts_dropped"] > 0
    assert row["reward"] == 0.5
    assert row["score_used"] == pytest.approx(0.5 * row["eos_rate"] - 2.0 * (1 - row["eos_rate"]))
    state = tmp_path / "run" / "checkpoints" / "step-000001" / "train_state" / "state.json"
    assert json.loads(state.read_text())["old_logprobs"] == "rollout"
    assert row["rollout_drift"] < 1e-5  # of the first minibatch's pass from the sampler's


def _prompt_ids(tiny):
    from instructgpt.data.records import read_prompts
    from instructgpt.text.chat import render_prompt

    return [render_prompt(tiny.tokenizer, p.messages) for p in read_prompts(tiny.folder / "prompts.jsonl")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 10, "minibatches": 4}, "use 8 or 12"),
        ({"temperature": 0.0}, "--temperature is 0"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"lam": 1.5}, "--lam is 1.5"),
        ({"ema": 1.0}, "--ema is 1"),
        ({"clip": 0.0}, "--clip is 0"),
        ({"ptx_ratio": 0.0}, "--ptx-ratio"),
        ({"keep": -1}, "--keep is -1"),
        ({"save_every": -1}, "--save-every is -1"),
        ({"eval_every": -1}, "--eval-every is -1"),
        ({"max_prompt": -1}, "--max-prompt is -1"),
        ({"warmup": -1}, "--warmup is -1"),
        ({"value_warmup": -1}, "--value-warmup is -1"),
        ({"max_skipped": 0}, "--max-skipped is 0"),
        ({"judge": "m:f"}, "a judge is asked at --eval-every"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"beta": float("nan")}, "--beta is nan"),
        ({"missing_eos_penalty": float("nan")}, "--missing-eos-penalty is nan"),
    ],
)
def test_settings_that_make_no_sense(tiny, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny.config("x", **changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": ""}, ConfigError, "--model is missing"),
        ({"reward": ""}, ConfigError, "--reward is missing"),
        ({"pretrain": ""}, ConfigError, "--ptx-coef 0"),
        ({"eval_every": 1}, ConfigError, "--eval-prompts"),
        ({"model": "no/such/folder"}, CheckpointError, "no/such/folder"),
        ({"max_new": 155}, DataError, "has .* tokens, and 155 for the reply"),
        ({"ptx_length": 200}, ConfigError, "--ptx-length"),
        ({"max_prompt": 1}, DataError, "no prompt is left"),
        ({"reward": "no_module_here:f"}, ConfigError, "can't be imported"),
    ],
)
def test_bad_input_is_one_paragraph(tiny, tmp_path, changes, error, message) -> None:
    with pytest.raises(error, match=message):
        train(tiny.config(tmp_path / "run", **changes))


def test_a_change_in_a_file_that_a_pattern_means_is_noticed(tiny, tmp_path) -> None:
    line = (tiny.folder / "prompts.jsonl").read_text().splitlines(keepends=True)[1]
    (tmp_path / "a.jsonl").write_text(line * 8)
    config = tiny.config(tmp_path / "run", prompts=str(tmp_path / "*.jsonl"), iterations=1)
    train(config)
    (tmp_path / "b.jsonl").write_text(line)
    with pytest.raises(ConfigError, match="input prompts"):
        train(config)


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--top-k", "RL must sample from the policy itself"),
        ("--top-p", "RL must sample from the policy itself"),
        ("--min-p", "RL must sample from the policy itself"),
        ("--min-new", "RL must sample from the policy itself"),
        ("--suppress-eos", "RL must sample from the policy itself"),
        ("--repetition-penalty", "RL must sample from the policy itself"),
        ("--dropout", "ratio is not 1 before the first update"),
        ("--residual-dropout", "ratio is not 1 before the first update"),
    ],
)
def test_what_would_spoil_the_ratio_is_refused_with_the_reason(tmp_path, flag, reason) -> None:
    """Field faults 10 and 12: no truncated or forced sampler, no dropout, as flag or in a file."""
    name = flag[2:].replace("-", "_")
    assert name not in PPOConfig.__dataclass_fields__
    file = tmp_path / "c.toml"
    file.write_text(f"{name} = 0.5\n")
    for argv in ([flag, "0.5"], [f"{flag}=0.5"], ["--config", str(file)]):
        with pytest.raises(ConfigError, match=reason) as caught:
            parse(PPOConfig, argv, "ppo")
        assert "did you mean" not in str(caught.value)


def test_a_value_network_from_a_function_is_refused(tiny, tmp_path, monkeypatch) -> None:
    (tmp_path / "judge_one.py").write_text("def judge(prompts, replies):\n    return [1.0] * len(replies)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="--value-init"):
        train(tiny.config(tmp_path / "run", reward="judge_one:judge", value_init="reward"))


def test_a_reward_model_of_another_tokenizer_is_refused(tiny, tmp_path) -> None:
    import shutil

    from instructgpt.scoring.selftest import write_selftest
    from instructgpt.text.tokenizer import train_tokenizer

    other = train_tokenizer(["quite other words for this one"] * 4, vocab_size=270)
    shutil.copytree(tiny.folder / "reward", tmp_path / "reward")
    other.save(tmp_path / "reward")
    write_selftest(tmp_path / "reward", load_scalar_model(tmp_path / "reward"), other)
    with pytest.raises(CheckpointError, match="other tokens"):
        train(tiny.config(tmp_path / "run", reward=str(tmp_path / "reward")))


DEAD_FLAG_CASES = {
    "beta": 0.5, "temperature": 0.7, "gamma": 0.8, "lam": 0.5, "clip": 0.01, "value_clip": 0.001,
    "value_coef": 0.5, "ptx_coef": 3.0, "ptx_ratio": 2.0, "ptx_length": 12, "lr": 3e-3, "value_lr": 3e-3,
    "warmup": 3, "beta1": 0.5, "beta2": 0.999, "eps": 1e-2, "weight_decay": 0.5, "grad_clip": 0.05,
    "ema": 0.5,
    "value_init": "policy", "seed": 9, "epochs": 2, "minibatches": 4, "batch": 4, "max_new": 4,
    "missing_eos_penalty": -3.0, "whiten_rewards": True, "whiten_advantages": False, "dtype": "bfloat16",
    "kl_target": 1.0, "lr_schedule": "linear", "value_warmup": 1,
}  # fmt: skip


COVERED_ELSEWHERE = {
    "out", "model", "reward", "prompts", "pretrain", "eval_prompts", "iterations",  # the run itself
    "max_prompt", "missing_eos_penalty", "old_logprobs",  # test_the_rules_reach_the_run
    "eval_every", "kl_horizon", "max_kl", "save_every",  # their own tests above
    "keep",  # test_checkpoints_to_keep
    "max_tokens", "max_active", "device",  # test_flags_that_must_change_nothing
    "judge", "on_alarm", "max_skipped",  # test_rlhf_run_alarms.py
    "lora_rank", "lora_alpha", "lora_targets", "lora_rslora", "lora_base",  # test_rlhf_lora.py
    "profile", "trace_steps",  # test_runtime_profile.py
}  # fmt: skip


def test_every_flag_is_covered() -> None:
    """Field fault 26: a new setting without a test of its effect fails here."""
    assert {field.name for field in dataclasses.fields(PPOConfig)} == set(DEAD_FLAG_CASES) | COVERED_ELSEWHERE


def test_checkpoints_to_keep(tiny, tmp_path) -> None:
    for keep, expected in ((1, [3]), (2, [2, 3]), (0, [1, 2, 3])):
        out = tmp_path / f"run{keep}"
        train(tiny.config(out, iterations=3, save_every=1, keep=keep))
        names = sorted(path.name for path in (out / "checkpoints").iterdir())
        assert names == [f"step-{step:06d}" for step in expected]


@pytest.fixture(scope="module")
def baseline(tiny, tmp_path_factory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("flags") / "run"
    train(tiny.config(out, **_STRONG))
    return _weights(out, 2)


_STRONG = {"lr": 1e-2, "value_lr": 1e-2, "warmup": 0, "epochs": 1, "kl_horizon": 50.0, "ptx_coef": 0.1}


@pytest.mark.parametrize("flag", sorted(DEAD_FLAG_CASES))
def test_no_flag_is_dead(tiny, tmp_path, baseline, flag) -> None:
    """Field fault 26: every setting changes weights, average or optimizer state after two rounds."""
    train(tiny.config(tmp_path / "run", **(_STRONG | {flag: DEAD_FLAG_CASES[flag]})))
    found = _weights(tmp_path / "run", 2)
    assert any(not torch.equal(found[name], baseline[name]) for name in baseline)


def test_flags_that_must_change_nothing(tiny, tmp_path, baseline) -> None:
    """Invariant 4: memory bounds change no result beyond rounding."""
    train(tiny.config(tmp_path / "run", **_STRONG, max_tokens=30, max_active=3))
    found = _weights(tmp_path / "run", 2)
    for name in baseline:
        if name.startswith(("model:", "ema/model:", "value/model:")):
            torch.testing.assert_close(found[name], baseline[name], atol=2e-4, rtol=1e-2)


def test_it_learns(tiny, tmp_path, monkeypatch) -> None:
    """A learning test: the reward counts one letter, and PPO makes the policy write it more often."""
    (tmp_path / "judge_letter.py").write_text(
        "def judge(prompts, replies):\n    return [float(r.count('e') - 0.02 * len(r)) for r in replies]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = tiny.config(
        tmp_path / "run",
        reward="judge_letter:judge",
        iterations=18,
        batch=64,
        minibatches=4,
        lr=3e-3,
        value_lr=3e-3,
        warmup=0,
        ptx_coef=0.0,
        save_every=0,
        old_logprobs="rollout",
    )
    summary = train(config)
    assert summary["last"]["reward"] > summary["first"]["reward"] + 1.0
    assert summary["last"]["kl"] > 0
