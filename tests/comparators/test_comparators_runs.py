"""Whole runs on the tiny world: what they write, resume bit by bit, flags that do something, learning."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import instructgpt.comparators.a2c as a2c
import instructgpt.comparators.distill as distill
import instructgpt.comparators.dpo as dpo
import instructgpt.comparators.grpo as grpo
import instructgpt.comparators.rloo as rloo
from instructgpt.comparators.settings import A2CConfig, DistillConfig, DPOConfig, GRPOConfig, RLOOConfig
from instructgpt.config import parse
from instructgpt.errors import ConfigError

METHODS = {
    "a2c": (a2c, A2CConfig),
    "rloo": (rloo, RLOOConfig),
    "grpo": (grpo, GRPOConfig),
    "distill": (distill, DistillConfig),
    "dpo": (dpo, DPOConfig),
}
ONLINE = [name for name in METHODS if name != "dpo"]


def _rows(out: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {
            k: v
            for k, v in row.items()
            if not k.startswith(("seconds", "mfu")) and not k.endswith("tokens_per_second")
        }
        for row in rows
    ]


def _weights(out: Path, step: int = 4) -> dict[str, torch.Tensor]:
    folder = out / "checkpoints" / f"step-{step:06d}"
    return load_file(folder / "model.safetensors") | load_file(folder / "train_state" / "tensors.safetensors")


@pytest.fixture(scope="module", params=sorted(METHODS))
def finished(request, config_of, tmp_path_factory) -> tuple[str, Path]:
    """An undisturbed run of four steps."""
    module, kind = METHODS[request.param]
    out = tmp_path_factory.mktemp(request.param) / "run"
    module.train(config_of(kind, out))
    return request.param, out


def test_the_run_folder(finished) -> None:
    name, out = finished
    summary = json.loads((out / "summary.json").read_text())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert summary["verb"] == name and summary["checkpoint"] == "checkpoints/step-000004"
    memory = summary["memory_estimate_mib"]
    assert memory["total"] > 0 and set(memory) > {
        "trained",
        "frozen",
        "gradients",
        "optimizer",
        "activations",
    }
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    needed = {"samples", "lr", "seconds_update", "skipped_steps", "mfu", "tokens_per_second"}
    if name == "dpo":
        needed |= {"loss", "accuracy", "margin", "chosen_reward", "rejected_reward", "grad_norm"}
        assert rows[0]["loss"] == pytest.approx(0.6931472, abs=1e-5) and rows[0]["accuracy"] == 0.5
        assert summary["steps"] == 4 and summary["rankings"] == 10
    else:
        needed |= {"reward", "length", "eos_rate", "policy_grad_norm", "seconds_rollout", "seconds_scoring"}
        assert [row["samples"] for row in rows] == [8, 16, 24, 32]
        assert summary["samples"] == 32 and summary["iterations"] == 4 and summary["alarms"] == {}
        samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        assert {row["step"] for row in samples} == {2, 4}
        assert (out / "alarms.jsonl").read_text() == ""
    if name in ("a2c", "rloo", "grpo"):
        needed |= {"kl", "kl_k3", "entropy", "policy_loss", "rollout_drift"}
        assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)  # the policy is still the reference
    if name == "a2c":
        needed |= {"value_loss", "explained_variance", "value_grad_norm"}
    if name == "grpo":
        needed |= {"kl_loss", "clip_fraction", "ratio_mean", "ratio_max"}
    if name == "distill":
        needed |= {"loss", "reward_best"}
        assert all(row["reward_best"] > row["reward"] for row in rows)
    assert needed <= set(rows[0]), needed - set(rows[0])
    # linear warm-up over two steps from a tenth of the peak
    assert [row["lr"] for row in rows] == pytest.approx([1e-4, 5.5e-4, 1e-3, 1e-3])
    names = {path.name for path in (out / "checkpoints" / "step-000004").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "generation_config.json"} <= names


def test_killed_and_resumed_is_the_same_run(finished, config_of, tmp_path, monkeypatch) -> None:
    """Field fault 32: 2N steps == N + kill + resume + N: weights, optimizer, metrics."""
    name, out = finished
    module, kind = METHODS[name]
    config = config_of(kind, tmp_path / "run")
    step = "accumulate" if name == "dpo" else "update"
    real, calls = getattr(module, step), []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 4:  # the third step was done after the checkpoint, and is lost
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, step, killed)
    with pytest.raises(KeyboardInterrupt):
        module.train(config)
    monkeypatch.setattr(module, step, real)
    summary = module.train(config)
    torch.testing.assert_close(_weights(tmp_path / "run"), _weights(out), rtol=0.0, atol=0.0)
    assert _rows(tmp_path / "run") == _rows(out)
    assert summary["samples"] == json.loads((out / "summary.json").read_text())["samples"]


def test_a_finished_run_is_not_run_again(finished, config_of, monkeypatch) -> None:
    name, out = finished
    module, kind = METHODS[name]
    monkeypatch.setattr(module, "Networks" if name == "dpo" else "prepare", None)
    assert module.train(config_of(kind, out))["out"] == str(out)


def test_the_policy_opens_in_transformers(config_of, tmp_path) -> None:
    """All methods write by one function; one of them is opened."""
    transformers = pytest.importorskip("transformers")
    from instructgpt.model.hf import load_language_model

    summary = rloo.train(config_of(RLOOConfig, tmp_path / "run", iterations=1))
    folder = tmp_path / "run" / summary["checkpoint"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = load_language_model(folder)
    ids = torch.tensor([10, 30, 50, 20])
    with torch.no_grad():
        logits = ours.logits(ours(ids, torch.arange(4), [4]))
        torch.testing.assert_close(theirs(ids[None]).logits[0], logits, atol=1e-4, rtol=1e-4)


# What every online method shares is tried with rloo, the rest with the method itself.
FLAGS = {
    "rloo": {
        "samples": 4, "beta": 0.5, "batch": 4, "max_new": 4, "temperature": 0.7, "lr": 3e-3, "warmup": 3,
        "lr_schedule": "linear", "beta1": 0.5, "beta2": 0.999, "eps": 1e-2, "weight_decay": 0.5,
        "grad_clip": 0.05, "missing_eos_penalty": -3.0, "seed": 9, "dtype": "bfloat16",
    },
    "grpo": {
        "samples": 2, "minibatches": 4, "epochs": 2, "clip": 0.01, "beta": 2.0, "scale": False,
        "batch": 16, "missing_eos_penalty": -3.0,
    },
    "a2c": {
        "beta": 0.5, "gamma": 0.8, "lam": 0.5, "whiten_advantages": False, "value_lr": 3e-3,
        "value_coef": 5.0, "value_warmup": 1, "value_init": "policy", "batch": 4,
    },
    "distill": {
        "samples": 4, "sampler": "policy", "minibatches": 1, "epochs": 2, "batch": 16,
        "missing_eos_penalty": -3.0,
    },
    "dpo": {
        "epochs": 0.5, "batch": 2, "beta": 0.5, "lr": 3e-3, "warmup": 4, "beta1": 0.5, "beta2": 0.999,
        "weight_decay": 0.5, "grad_clip": 0.05, "max_length": 12, "seed": 9, "dtype": "bfloat16",
        "validation_share": 0.3,
    },
}  # fmt: skip
ELSEWHERE = {
    "out", "model", "reward", "prompts", "iterations", "data", "validation",  # the run itself
    "max_prompt", "old_logprobs", "eval_every", "keep", "save_every", "max_skipped",  # their own tests
    "max_tokens", "max_active", "micro_tokens", "device",  # test_flags_that_must_change_nothing
    "lora_rank", "lora_alpha", "lora_targets", "lora_rslora", "lora_base",  # test_adapters_alone_are_trained
    "profile", "trace_steps",  # test_runtime_profile
    "average",  # test_grpo_is_a_slow_loop_over_tokens: here all replies have one length
}  # fmt: skip


def test_every_flag_is_covered() -> None:
    """Field fault 26: a new setting without a test of its effect fails here."""
    shared = {field.name for field in dataclasses.fields(RLOOConfig)}
    assert shared == set(FLAGS["rloo"]) | ELSEWHERE & shared
    for name, (_, kind) in METHODS.items():
        own = {field.name for field in dataclasses.fields(kind)}
        tried = set(FLAGS[name]) | (set(FLAGS["rloo"]) if name != "dpo" else set())
        assert own <= tried | ELSEWHERE, own - tried - ELSEWHERE


STRONG = {"lr": 1e-2, "warmup": 1, "save_every": 0}


@pytest.fixture(scope="module")
def baselines(config_of, tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for name, (module, kind) in METHODS.items():
        out = tmp_path_factory.mktemp("flags") / name
        rounds = {} if name == "dpo" else {"iterations": 2}
        summary = module.train(config_of(kind, out, **(STRONG | rounds)))
        found[name] = load_file(out / summary["checkpoint"] / "model.safetensors")
        found[name] |= load_file(out / summary["checkpoint"] / "train_state" / "tensors.safetensors")
    return found


@pytest.mark.parametrize(("name", "flag"), [(name, flag) for name in FLAGS for flag in FLAGS[name]])
def test_no_flag_is_dead(config_of, tmp_path, baselines, name, flag) -> None:
    """Field fault 26: every setting changes weights or optimizer state."""
    module, kind = METHODS[name]
    rounds = {} if name == "dpo" else {"iterations": 2}
    out = tmp_path / "run"
    summary = module.train(config_of(kind, out, **(STRONG | rounds | {flag: FLAGS[name][flag]})))
    found = load_file(out / summary["checkpoint"] / "model.safetensors")
    found |= load_file(out / summary["checkpoint"] / "train_state" / "tensors.safetensors")
    assert any(not torch.equal(found[key], baselines[name][key]) for key in baselines[name])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_flags_that_must_change_nothing(config_of, tmp_path, baselines, name) -> None:
    module, kind = METHODS[name]
    changes = {"micro_tokens": 30} if name == "dpo" else {"max_tokens": 30, "max_active": 3, "iterations": 2}
    summary = module.train(config_of(kind, tmp_path / "run", **(STRONG | changes)))
    found = load_file(tmp_path / "run" / summary["checkpoint"] / "model.safetensors")
    for key in found:
        torch.testing.assert_close(found[key], baselines[name][key], atol=2e-4, rtol=1e-2)


def test_the_rest_of_the_flags_reach_the_run(config_of, tiny, tmp_path) -> None:
    summary = rloo.train(
        config_of(RLOOConfig, tmp_path / "a", max_prompt=8, old_logprobs="rollout", save_every=1, keep=2)
    )
    assert summary["prompts_dropped"] > 0
    names = sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir())
    assert names == ["step-000003", "step-000004"]
    summary = dpo.train(
        config_of(DPOConfig, tmp_path / "b", validation_share=0.3, eval_every=1, save_every=1, keep=0)
    )
    rows = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert all("validation_loss" in row for row in rows) and summary["held_out"] > 0
    assert len(list((tmp_path / "b" / "checkpoints").iterdir())) == len(rows) == summary["steps"]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_adapters_alone_are_trained(config_of, tmp_path, monkeypatch, name) -> None:
    """LoRA: only adapters are saved, and a run that was killed goes on to the same ones."""
    module, kind = METHODS[name]
    flags = {"lora_rank": 2, "lora_alpha": 4.0, "lora_targets": "attention"}
    module.train(config_of(kind, tmp_path / "whole", **flags))
    folder = tmp_path / "whole" / "checkpoints" / "step-000004"
    trained = load_file(folder / "adapter_model.safetensors")
    assert not (folder / "model.safetensors").exists()
    assert all(".lora_" in key and "mlp" not in key for key in trained)
    assert any(bool(tensor.any()) for key, tensor in trained.items() if "lora_B" in key)
    config = config_of(kind, tmp_path / "parts", **flags)
    step, calls = "accumulate" if name == "dpo" else "update", []
    real = getattr(module, step)

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, step, killed)
    with pytest.raises(KeyboardInterrupt):
        module.train(config)
    monkeypatch.setattr(module, step, real)
    module.train(config)
    other = load_file(tmp_path / "parts" / "checkpoints" / "step-000004" / "adapter_model.safetensors")
    torch.testing.assert_close(other, trained, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (RLOOConfig, {"lora_rank": -1}, "--lora-rank is -1"),
        (DPOConfig, {"lora_rank": -1}, "--lora-rank is -1"),
        (RLOOConfig, {"samples": 1}, "--samples is 1"),
        (RLOOConfig, {"batch": 10, "samples": 4}, "use 8 or 12"),
        (GRPOConfig, {"batch": 2, "samples": 4}, "use 4"),
        (GRPOConfig, {"batch": 12, "samples": 4, "minibatches": 5}, "use 10 or 15"),
        (A2CConfig, {"lam": 1.5}, "--lam is 1.5"),
        (A2CConfig, {"temperature": 0.0}, "--temperature is 0"),
        (DistillConfig, {"batch": 8, "samples": 4, "minibatches": 4}, "use at most 2"),
        (DistillConfig, {"lr": float("nan")}, "--lr is nan"),
    ],
)
def test_settings_that_make_no_sense(config_of, kind, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(kind, **changes)


@pytest.mark.parametrize("name", ONLINE)
def test_rl_samples_purely(name) -> None:
    """Field faults 10 and 12: no truncated sampler, no dropout; the message says why."""
    for flag, reason in (("--top-p", "sample from the policy itself"), ("--dropout", "trains without it")):
        with pytest.raises(ConfigError, match=reason):
            parse(METHODS[name][1], [flag, "0.9"], name)


@pytest.mark.parametrize("name", ONLINE)
def test_what_must_be_named(config_of, tmp_path, name) -> None:
    module, kind = METHODS[name]
    for flag in ("model", "reward", "prompts"):
        with pytest.raises(ConfigError, match=f"--{flag} is missing"):
            module.train(config_of(kind, tmp_path / "run", **{flag: ""}))


LEARN = {"iterations": 24, "batch": 64, "lr": 3e-3, "warmup": 0, "save_every": 0, "old_logprobs": "rollout"}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("a2c", {"value_lr": 3e-3}),
        ("rloo", {"samples": 4}),
        ("grpo", {"samples": 4, "minibatches": 1, "beta": 0.04}),
        ("distill", {"samples": 8, "sampler": "policy", "minibatches": 1}),
    ],
)
def test_it_learns(config_of, tmp_path, monkeypatch, name, changes) -> None:
    """The reward counts one letter, and the policy comes to write it more often."""
    (tmp_path / "judge_letters.py").write_text(
        "def judge(prompts, replies):\n    return [float(r.count('e') - 0.02 * len(r)) for r in replies]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module, kind = METHODS[name]
    values = {k: v for k, v in LEARN.items() if name != "distill" or k != "old_logprobs"} | changes
    summary = module.train(config_of(kind, tmp_path / "run", reward="judge_letters:judge", **values))
    assert summary["last"]["reward"] > summary["first"]["reward"] + 1.0
