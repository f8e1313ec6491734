"""Presets for single verbs: every value against its source, written here by hand from the documents."""

import dataclasses
import re
import tomllib

import pytest

from instructgpt.config import parse, preset_path
from instructgpt.reward_model.settings import RewardConfig
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.sft.settings import SFTConfig

CONFIGS = {"sft": SFTConfig, "reward": RewardConfig, "ppo": PPOConfig}

# [P] arXiv:2203.02155, 6B where it depends on the size; [L] openai/lm-human-preferences; [N]
# vwxyzjn/summarize_from_feedback_details; [N+] arXiv:2403.17031; [T] PyTorch's default where [N] is silent.
INSTRUCTGPT = {
    "sft": {
        "epochs": (2.0, "[P] C.3: 2 epochs on demonstrations"),
        "batch": (32, "[P] C.3: 32 / 32 / 8"),
        "lr": (1.04e-5, "[P] C.3: 5e-6 / 1.04e-5 / 2.45e-6"),
        "warmup": (0, "[P] C.1: without learning rate warmup"),
        "residual_dropout": (0.0, "[P] C.1 has 0.2 for the baselines alone"),
        "pretrain_fraction": (0.1, "[P] C.3: 10 % pretraining data"),
        "long_records": ("drop", "[P] C: prompts above 1k tokens filtered out"),
        "beta2": (0.95, "[P] C: Adam, 0.9 and 0.95"),
        "weight_decay": (0.0, "[L] core.py: AdamOptimizer"),
        "clip": (1.0, "ours"),
    },
    "reward": {
        "epochs": (1.0, "[P] C.2: a single epoch"),
        "batch": (64, "[P] C.2: 64 prompts"),
        "lr": (9e-6, "[P] C.2"),
        "warmup": (0, "[P] C.2 names none"),
        "demonstrations_limit": (0, "[P] 3.5: labeler demonstrations have mean 0"),
        "beta2": (0.95, "[P] C"),
        "weight_decay": (0.0, "[L] core.py: AdamOptimizer"),
        "clip": (1.0, "ours"),
    },
    "ppo": {
        "iterations": (500, "[P] C.4: 256k episodes / 512"),
        "batch": (512, "[P] C.4"),
        "minibatches": (8, "[P] C.4: minibatch size 64"),
        "epochs": (1, "[P] C.4: a single inner epoch"),
        "max_new": (1000, "[P] C: response at most 1k tokens"),
        "max_prompt": (1000, "[P] C: prompt at most 1k tokens"),
        "temperature": (1.0, "[P] C.4"),
        "beta": (0.02, "[P] C.4"),
        "kl_target": (0.0, "[P] C.4: fixed"),
        "gamma": (1.0, "[P] C.4: no discount"),
        "lam": (0.95, "[L] train_policy.py, [N] ppo.py"),
        "whiten_rewards": (False, "[N] ppo.py"),
        "whiten_advantages": (True, "[L] train_policy.py, [N] ppo.py"),
        "clip": (0.2, "[P] C.4"),
        "value_clip": (0.2, "[L], [N]: cliprange_value"),
        "value_coef": (0.1, "[L], [N]: vf_coef"),
        "ptx_coef": (27.8, "[P] C.4"),
        "ptx_ratio": (8.0, "[P] C.4: 8 times the episodes"),
        "ptx_length": (128, "ours"),
        "lr": (8e-6, "ours, in the sweep of [P] E: 2.55e-6 to 2.55e-5"),
        "lr_schedule": ("constant", "[P] C.4"),
        "warmup": (10, "[P] C.4: first 10 iterations from one tenth"),
        "value_lr": (9e-6, "[P] C.4: 9e-6 for 1.3B and 6B"),
        "value_init": ("reward", "[P] C.4: value function initialised from the RM"),
        "beta1": (0.9, "[P] C"),
        "beta2": (0.95, "[P] C"),
        "eps": (1e-5, "[L] core.py, [N] ppo.py"),
        "weight_decay": (0.0, "[L] core.py: AdamOptimizer"),
        "grad_clip": (1.0, "ours"),
        "ema": (0.992, "[P] C.4"),
    },
}
NPLUS = {
    "sft": {
        "epochs": (1.0, "[N] sft.py: num_train_epochs"),
        "batch": (128, "[N] sft.py: 1 x 16 accumulated x 8 GPUs"),
        "lr": (3e-6, "[N] sft.py"),
        "warmup": (0, "[N] sft.py: warm_up_steps"),
        "residual_dropout": (0.0, "[N] sft.py: disable_dropout"),
        "pretrain_fraction": (0.0, "[N]: no mix"),
        "beta2": (0.999, "[T] AdamW"),
        "weight_decay": (0.01, "[T] AdamW"),
        "clip": (0.0, "[N] sft.py: none"),
    },
    "reward": {
        "epochs": (1.0, "[N] reward.py: num_train_epochs"),
        "batch": (64, "[N] reward.py: 1 x 8 accumulated x 8 GPUs"),
        "lr": (3e-6, "[N] reward.py"),
        "warmup": (0, "[N] reward.py: warm_up_steps"),
        "demonstrations_limit": (0, "[N] reward.py: mean over the SFT references"),
        "beta2": (0.999, "[T] AdamW"),
        "weight_decay": (0.01, "[T] AdamW"),
        "clip": (0.0, "[N] reward.py: none"),
    },
    "ppo": {
        "iterations": (1953, "[N] ppo.py: 1,000,000 // 512"),
        "batch": (512, "[N+] table of PPO's hyperparameters"),
        "minibatches": (1, "[N] ppo.py: nminibatches"),
        "epochs": (4, "[N] ppo.py: noptepochs"),
        "max_new": (53, "[N] ppo.py: response_length"),
        "max_prompt": (512, "[N+]: query of 512 tokens"),
        "temperature": (0.7, "[N] ppo.py"),
        "beta": (0.05, "[N] ppo.py: kl_coef"),
        "kl_target": (0.0, "[N] ppo.py: fixed"),
        "missing_eos_penalty": (-1.0, "[N] ppo.py: penalty_reward_value"),
        "gamma": (1.0, "[N] ppo.py"),
        "lam": (0.95, "[N] ppo.py"),
        "whiten_rewards": (False, "[N] ppo.py"),
        "whiten_advantages": (True, "[N] ppo.py"),
        "clip": (0.2, "[N] ppo.py: cliprange"),
        "value_clip": (0.2, "[N] ppo.py: cliprange_value"),
        "value_coef": (0.1, "[N] ppo.py: vf_coef"),
        "ptx_coef": (0.0, "[N]: none"),
        "lr": (3e-6, "[N] ppo.py"),
        "value_lr": (3e-6, "[N] ppo.py: one optimizer"),
        "lr_schedule": ("linear", "[N] ppo.py: frac"),
        "warmup": (0, "[N] ppo.py: none"),
        "value_init": ("reward", "[N] ppo.py: critic from reward_model_path"),
        "beta1": (0.9, "[T] AdamW"),
        "beta2": (0.999, "[T] AdamW"),
        "eps": (1e-5, "[N] ppo.py"),
        "weight_decay": (0.01, "[T] AdamW"),
        "grad_clip": (0.0, "[N] ppo.py: none"),
        "ema": (0.0, "[N]: none"),
    },
}
SOURCES = {"instructgpt": INSTRUCTGPT, "nplus": NPLUS}


@pytest.mark.parametrize("name", SOURCES)
def test_every_value_has_its_source(name: str) -> None:
    written = tomllib.loads(preset_path(name).read_text(encoding="utf-8"))
    expected = {
        verb: {key: value for key, (value, _) in table.items()} for verb, table in SOURCES[name].items()
    }
    assert written == expected


@pytest.mark.parametrize("name", SOURCES)
def test_the_file_says_the_source_of_every_value(name: str) -> None:
    for line in preset_path(name).read_text(encoding="utf-8").splitlines():
        if re.match(r"\w+ = ", line):
            assert re.search(r"# .*(\[(P|L|N|N\+|T)\]|ours)", line), line


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("verb", CONFIGS)
def test_a_verb_takes_its_flags_from_the_preset_and_flags_win(name: str, verb: str) -> None:
    config = parse(CONFIGS[verb], ["--preset", name, "--model", "m", "--lr=0.25"], verb)
    expected = {key: value for key, (value, _) in SOURCES[name][verb].items()} | {"model": "m", "lr": 0.25}
    assert config == dataclasses.replace(CONFIGS[verb](), **expected)


def test_what_differs_between_the_two_is_in_sight() -> None:
    """InstructGPT: 8 minibatches x 1 epoch, beta 0.02, T 1, with ptx; N+: 1 x 4, 0.05, T 0.7, without."""
    ours, theirs = (parse(PPOConfig, [f"--preset={name}"], "ppo") for name in SOURCES)
    steps = [config.minibatches * config.epochs * config.iterations for config in (ours, theirs)]
    assert steps == [4000, 7812]  # [P] about 4,000 updates; [N] 1,953 * 4
    assert (ours.minibatches, ours.epochs, theirs.minibatches, theirs.epochs) == (8, 1, 1, 4)
    assert ours.batch // ours.minibatches == 64 and theirs.batch // theirs.minibatches == 512
    assert ours.ptx_examples == 8 * 64
