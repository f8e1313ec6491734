"""PPO with LoRA: one frozen base under four networks, adapters alone trained and saved, exact resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import instructgpt.rlhf.round as round_module
from instructgpt.errors import ConfigError
from instructgpt.evaluation.answers import Candidate
from instructgpt.generation.loading import open_model
from instructgpt.model.adapter import is_adapter
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.model.hf import load_language_model, load_scalar_model, save_model
from instructgpt.model.lora import adapters
from instructgpt.model.lora_settings import Lora
from instructgpt.model.shared import Bases, language_over, scalar_over
from instructgpt.rlhf.prepare import Parts, memory_of, prepare, resolve
from instructgpt.rlhf.round import judge, learn, sample
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.rlhf.train import train
from instructgpt.runtime.checkpoint import open_run
from instructgpt.runtime.files import hash_path
from instructgpt.runtime.memory import estimate_memory
from instructgpt.scoring.reward import RewardModel, load_reward
from instructgpt.scoring.selftest import write_selftest

RANK = 2


def lively(model: LanguageModel | ScalarModel, seed: int) -> None:
    """B that is not 0, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in adapters(model, model.config).values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory) -> Path:
    """Adapters of an SFT model and of a reward model over the tiny world's `sft` as the base."""
    folder = tmp_path_factory.mktemp("adapters")
    base, lora = Bases().open(tiny.folder / "sft"), Lora(RANK)
    policy, reward = language_over(base, lora), scalar_over(base, lora, 3)
    reward.reward_bias.fill_(0.25)
    for model, name, seed in ((policy, "sft", 1), (reward, "reward", 2)):
        lively(model, seed)
        save_model(model, folder / name)
        tiny.tokenizer.save(folder / name)
    write_selftest(folder / "reward", reward, tiny.tokenizer)
    return folder


def config(tiny, world: Path, out: Path, **changes) -> PPOConfig:
    values = {"model": str(world / "sft"), "reward": str(world / "reward"), "lora_rank": RANK}
    return tiny.config(out, **(values | {"lr": 1e-2, "value_lr": 1e-2, "warmup": 0} | changes))


def prepared(settings: PPOConfig) -> Parts:
    inputs = resolve(settings)
    with open_run(settings.out, "ppo", settings, inputs) as run:
        return prepare(settings, inputs, run)


def one_round(parts: Parts, settings: PPOConfig, iteration: int = 0):
    judged = judge(parts, sample(parts, parts.prompts, settings, iteration), settings, settings.beta)
    return judged, learn(parts, judged, settings, iteration)


def test_the_base_is_in_memory_once_and_only_adapters_are_trained(tiny, world, tmp_path) -> None:
    settings = config(tiny, world, tmp_path / "run")
    parts = prepared(settings)
    learner, shape = parts.learner, tiny.model_config
    base = load_language_model(tiny.folder / "sft")
    reward = parts.reward
    assert isinstance(reward, RewardModel)
    networks = (learner.policy, parts.reference, learner.value, reward.model)
    storages = {p.untyped_storage().data_ptr(): p.numel() for m in networks for p in m.parameters()}
    sizes = sum(p.numel() for p in base.parameters())
    # A and B of a (rows, columns) matrix hold RANK x (rows + columns) numbers; width 32, feed-forward 96.
    adapter = shape.layers * RANK * (4 * (32 + 32) + 3 * (32 + 96))
    head = 32
    assert sum(storages.values()) == sizes + 4 * adapter + 2 * head
    for optimizer, model, extra in (
        (learner.policy_optimizer, learner.policy, 0),
        (learner.value_optimizer, learner.value, head),
    ):
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        assert sum(p.numel() for p in trained) == adapter + extra
        assert {id(p) for p in trained} == {id(p) for p in model.parameters() if p.requires_grad}
    assert learner.ema is not None
    assert sum(value.numel() for value in learner.ema.values.values()) == adapter
    mib = 2**20 / 4
    memory = memory_of(parts, settings)
    assert memory.trained == pytest.approx((2 * adapter + head) / mib)
    # reward_bias of reward and value network: two numbers
    assert memory.frozen == pytest.approx((sizes + 2 * adapter + head + 2) / mib)
    assert memory.optimizer == pytest.approx(2 * memory.trained)
    assert memory.gradients == pytest.approx((adapter + head) / mib)
    assert memory.average == pytest.approx(adapter / mib)


def test_a_round_moves_policy_and_value_and_nothing_else(tiny, world, tmp_path) -> None:
    settings = config(tiny, world, tmp_path / "run", beta=0.1)
    parts = prepared(settings)
    learner, reward = parts.learner, parts.reward
    frozen = {name: p.clone() for name, p in learner.policy.named_parameters() if not p.requires_grad}
    own = [t.detach().clone() for t in adapters(parts.reference, parts.reference.config).values()]
    judged, losses = one_round(parts, settings)
    # The policy is still the reference, and the first minibatch's ratio is 1.
    assert judged.rewards.kl.abs().max() < 1e-4
    before = judged.rollout
    after, _ = one_round(parts, settings, 1)
    again = judge(parts, before.episodes, settings, settings.beta).rollout
    assert torch.equal(again.reference_logprobs, before.reference_logprobs)
    assert torch.equal(again.scores, before.scores)
    assert not torch.allclose(again.old_logprobs, before.old_logprobs, atol=1e-3)
    assert not torch.allclose(again.values, before.values, atol=1e-3)
    assert after.rewards.kl.abs().max() > 1e-3
    assert losses["policy_grad_norm"] > 0 and losses["value_grad_norm"] > 0
    assert all(torch.equal(dict(learner.policy.named_parameters())[n], p) for n, p in frozen.items())
    now = adapters(parts.reference, parts.reference.config).values()
    assert all(torch.equal(a, b) for a, b in zip(own, now, strict=True))
    assert isinstance(reward, RewardModel) and not any(p.requires_grad for p in reward.model.parameters())


def test_the_ratio_is_1_and_value_is_the_reward_model_at_step_0(tiny, world, tmp_path) -> None:
    """Learning rate 0: the start-up checks pass (they refuse otherwise), nothing is clipped or moved."""
    out = tmp_path / "run"
    train(config(tiny, world, out, lr=0.0, value_lr=0.0, iterations=1))
    row = json.loads((out / "metrics.jsonl").read_text())
    assert row["ratio_max"] == pytest.approx(1.0, abs=1e-5) and row["clip_fraction"] == 0.0
    assert abs(row["kl"]) < 1e-5
    saved = load_file(out / "checkpoints" / "step-000001" / "adapter_model.safetensors")
    given = load_file(world / "sft" / "adapter_model.safetensors")
    assert saved.keys() == given.keys() and all(torch.equal(saved[name], given[name]) for name in given)


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    folder = out / "checkpoints" / f"step-{step:06d}"
    files = ("adapter_model", "ema/adapter_model", "value/adapter_model", "train_state/tensors")
    return {f"{f}:{k}": t for f in files for k, t in load_file(folder / f"{f}.safetensors").items()}


def test_killed_and_resumed_is_the_same_run_and_the_base_is_not_touched(
    tiny, world, tmp_path, monkeypatch
) -> None:
    base, before = tiny.folder / "sft", hash_path(tiny.folder / "sft")
    settings = config(tiny, world, tmp_path / "whole", iterations=4, save_every=2)
    train(settings)
    real = round_module.update

    def killed(*arguments):
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    cut = replace(settings, out=str(tmp_path / "cut"))
    monkeypatch.setattr(round_module, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    monkeypatch.setattr(round_module, "update", real)
    train(cut)
    one, other = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)
    start = load_file(world / "sft" / "adapter_model.safetensors")
    assert all(not torch.equal(one[f"adapter_model:{name}"], start[name]) for name in start)
    assert hash_path(base) == before


def test_a_checkpoint_is_what_every_verb_opens(tiny, world, tmp_path) -> None:
    """Adapters with their tokenizer: `generate`, `eval` and `serve` open them merged, rewards score."""
    out = tmp_path / "run"
    summary = train(config(tiny, world, out, iterations=1))
    checkpoint = out / summary["checkpoint"]
    for place in (checkpoint, checkpoint / "ema", checkpoint / "value"):
        names = {path.name for path in place.iterdir()}
        assert {"adapter_model.safetensors", "adapter_config.json", "base.json", "tokenizer.json"} <= names
        assert "model.safetensors" not in names and is_adapter(place)
    ids, lengths = torch.tensor([10, 30, 50, 20]), [4]
    model, tokenizer = open_model(out)
    assert tokenizer.fingerprint == tiny.tokenizer.fingerprint
    attached = Bases().language(checkpoint)
    with torch.no_grad():
        expected = attached(ids, torch.arange(4), lengths)
        torch.testing.assert_close(model(ids, torch.arange(4), lengths), expected, atol=1e-5, rtol=1e-5)
    assert Candidate.load("ppo", out).model.config == model.config
    assert load_scalar_model(checkpoint / "value").reward_bias.item() == 0.25
    assert load_reward(str(world / "reward")).name == str(world / "reward")
    again = train(config(tiny, world, tmp_path / "next", model=str(out), iterations=1))
    assert again["iterations"] == 1


@pytest.mark.parametrize("reward", ["complete", "function"])
def test_from_a_complete_sft_model(tiny, world, tmp_path, monkeypatch, reward) -> None:
    """The reference is the base itself; V shares a complete reward model's body, or the base's."""
    (tmp_path / "judge_short.py").write_text(
        "def judge(prompts, replies):\n    return [-len(r) for r in replies]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = str(tiny.folder / "reward") if reward == "complete" else "judge_short:judge"
    settings = config(
        tiny, world, tmp_path / "run", model=str(tiny.folder / "sft"), reward=spec, iterations=1
    )
    parts = prepared(replace(settings, out=str(tmp_path / "look")))
    body = parts.reward.model if isinstance(parts.reward, RewardModel) else parts.reference
    shared = {p.data_ptr() for p in body.parameters()}
    frozen = [p for p in parts.learner.value.parameters() if not p.requires_grad]
    assert frozen and all(p.data_ptr() in shared for p in frozen)
    policy = [p for p in parts.learner.policy.parameters() if not p.requires_grad]
    assert {p.data_ptr() for p in policy} == {p.data_ptr() for p in parts.reference.parameters()}
    assert train(settings)["value_init"] == ("reward" if reward == "complete" else "policy")


def test_an_8_bit_base(tiny, tmp_path) -> None:
    """The matrices of the base take a quarter; the run goes its way and its checkpoint knows of it."""
    plain = {"model": str(tiny.folder / "sft"), "iterations": 1, "lora_rank": RANK}
    settings = tiny.config(tmp_path / "run", lora_base="int8", **plain)
    parts = prepared(replace(settings, out=str(tmp_path / "look")))
    exact = prepared(tiny.config(tmp_path / "exact", **plain))
    small, large = (
        sum(t.numel() * t.element_size() for t in (*p.reference.parameters(), *p.reference.buffers()))
        for p in (parts, exact)
    )
    numbers = 2 * (4 * 32 * 32 + 3 * 32 * 96)
    rows = 2 * (4 * 32 + 2 * 96 + 32)
    assert large - small == 3 * numbers - 4 * rows  # one scale of four bytes a row
    summary = train(settings)
    checkpoint = tmp_path / "run" / summary["checkpoint"]
    assert json.loads((checkpoint / "base.json").read_text())["precision"] == "int8"
    ids = torch.tensor([10, 30, 50, 20])
    with torch.no_grad():
        torch.testing.assert_close(
            load_language_model(checkpoint)(ids, torch.arange(4), [4]),
            Bases().language(checkpoint, "int8")(ids, torch.arange(4), [4]),
            atol=1e-5,
            rtol=1e-5,
        )


def test_it_learns(tiny, tmp_path, monkeypatch) -> None:
    """The reward counts one letter; adapters alone make the policy write it more often."""
    (tmp_path / "judge_e.py").write_text(
        "def judge(prompts, replies):\n    return [float(r.count('e') - 0.02 * len(r)) for r in replies]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    summary = train(
        tiny.config(
            tmp_path / "run",
            reward="judge_e:judge",
            iterations=14,
            batch=64,
            minibatches=4,
            lr=2e-2,
            value_lr=2e-2,
            warmup=0,
            ptx_coef=0.0,
            save_every=0,
            lora_rank=4,
            old_logprobs="rollout",
        )
    )
    assert summary["last"]["reward"] > summary["first"]["reward"] + 1.0


@pytest.mark.parametrize(
    "flag",
    [{"lora_alpha": 8.0}, {"lora_targets": "attention"}, {"lora_rslora": True}, {"lora_rank": 3}],
    ids=lambda flag: next(iter(flag)),
)
def test_no_flag_is_dead(tiny, tmp_path, flag) -> None:
    """Field fault 26: each changes the trained policy."""
    found = []
    for name, changes in (("plain", {}), ("changed", flag)):
        values = {"lora_rank": RANK, "iterations": 1, "lr": 1e-2, "warmup": 0, "ptx_coef": 0.0} | changes
        summary = train(tiny.config(tmp_path / name, **values))
        found.append(load_language_model(tmp_path / name / summary["checkpoint"]).state_dict())
    assert any(not torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": -1}, "--lora-rank is -1"),
        ({"lora_rank": 2, "lora_alpha": 0.0}, "--lora-alpha is 0"),
        ({"lora_rank": 2, "lora_targets": " , "}, "no layer is adapted"),
        ({"lora_base": "int8"}, "add --lora-rank 16"),
        ({"lora_rank": 2, "lora_base": "int4"}, "choose float32 or int8"),
    ],
)
def test_settings_that_make_no_sense(tiny, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny.config("x", **changes)


def test_an_adapter_of_another_rank_is_refused(tiny, world, tmp_path) -> None:
    with pytest.raises(ConfigError, match="use --lora-rank 2"):
        train(config(tiny, world, tmp_path / "run", lora_rank=4))


def test_the_estimate_of_activations_is_what_a_pass_keeps(tiny) -> None:
    """Against what autograd really saves for the backward pass, counted once a tensor."""
    model = load_language_model(tiny.folder / "sft")
    lengths = [40] * 25
    ids = torch.randint(0, 200, (1000,), generator=torch.Generator().manual_seed(0))
    weights_of_it = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights_of_it:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model(ids, torch.arange(40).repeat(25), lengths)
    logits = 4 * 1000 * model.config.vocab_size  # the estimate has them, this pass stops before
    estimate = estimate_memory([model], tokens=1000).activations * 2**20 - logits
    assert hidden.requires_grad
    assert estimate == pytest.approx(sum(kept.values()), rel=0.25)
