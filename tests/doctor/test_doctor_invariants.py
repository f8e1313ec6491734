"""invariants.py: all hold, and each fails when its fault is planted in the code that it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from instructgpt.doctor import invariants
from instructgpt.doctor.invariants import CHECKS, Finding, check_invariants
from instructgpt.errors import CheckError
from instructgpt.maths.gae import gae
from instructgpt.maths.ppo import policy_loss, value_loss
from instructgpt.maths.ranking import ranking_loss
from instructgpt.reward_model.train import score_sequences
from instructgpt.rlhf.rollout import episode_logprobs
from instructgpt.rlhf.update import policy_logprobs, policy_terms, ptx_gradients
from instructgpt.runtime.optim import Ema
from instructgpt.scoring.batches import score_ids

CPU = torch.device("cpu")
EMA_UPDATE = Ema.update


def test_all_hold_and_all_ten_are_there() -> None:
    findings = check_invariants(CPU)
    assert {finding.name: finding.measured for finding in findings if not finding.holds} == {}
    assert {finding.number for finding in findings} == set(range(1, 11))
    assert len({finding.name for finding in findings}) == len(CHECKS)


def test_what_is_not_a_number_does_not_hold() -> None:
    assert not Finding(1, "x", float("nan"), 1.0).holds
    assert Finding(1, "x", 0.0, 0.0).holds
    assert not Finding(1, "x", 1.1, 1.0).holds


def late_average(self, model):
    """The average takes what the policy was one step ago."""
    previous, self.previous = getattr(self, "previous", model), model
    if previous is not model or not hasattr(self, "skipped"):
        self.skipped = True
        return
    EMA_UPDATE(self, model)


def one_more_forward(model, sequences, dtype):
    score_sequences(model, sequences[:1], dtype)
    return score_sequences(model, sequences, dtype)


# check, what is replaced, by what
FAULTS = [
    (
        "no_learning_keeps_the_ratio",  # temperature forgotten in the update
        "instructgpt.rlhf.update.policy_logprobs",
        lambda policy, micro, config: policy_logprobs(policy, micro, replace(config, temperature=1.0)),
    ),
    (
        "sampler_and_update_agree",  # temperature forgotten in the scoring
        "instructgpt.rlhf.rollout.episode_logprobs",
        lambda model, episodes, micros, _, dtype: episode_logprobs(model, episodes, micros, 1.0, dtype),
    ),
    (
        "first_return_is_score_less_kl",  # sign of the KL
        "instructgpt.rlhf.reward.k1",
        lambda ours, theirs: theirs - ours,
    ),
    (
        "first_return_is_score_less_kl",  # the score of the reply without its last id
        "instructgpt.scoring.reward.score_ids",
        lambda model, rows, *rest: score_ids(model, [row[:-1] for row in rows], *rest),
    ),
    (
        "gae_at_lambda_one_and_zero",  # padding counted
        "instructgpt.doctor.invariants.gae",
        lambda values, rewards, mask, *rest: gae(
            values.nan_to_num(0.5), rewards.nan_to_num(0.5), torch.ones_like(mask), *rest
        ),
    ),
    (
        "gradients_of_packed_replies",  # policy not clipped
        "instructgpt.rlhf.update.policy_loss",
        lambda ours, old, weight, mask, _, count: policy_loss(ours, old, weight, mask, 1e3, count),
    ),
    (
        "gradients_of_packed_replies",  # value not clipped
        "instructgpt.rlhf.update.value_loss",
        lambda ours, old, wanted, mask, _, count: value_loss(ours, old, wanted, mask, 1e3, count),
    ),
    (
        "gradients_however_cut",  # mean of means
        "instructgpt.rlhf.update.policy_terms",
        lambda ours, micro, rollout, weight, _, config: policy_terms(
            ours, micro, rollout, weight, len(micro.targets), config
        ),
    ),
    (
        "every_pair_counts_alike",  # a tie counted as a win of the first
        "instructgpt.reward_model.train.ranking_loss",
        lambda rewards, ranks, *rest, **named: ranking_loss(
            rewards, ranks.double() + 1e-3 * torch.arange(len(ranks)), *rest, **named
        ),
    ),
    ("every_reply_is_read_once", "instructgpt.reward_model.train.score_sequences", one_more_forward),
    (
        "a_shift_of_rewards",  # a loss of single rewards, not of differences
        "instructgpt.doctor.invariants.pair_loss",
        lambda rewards, ranks: -torch.log(rewards.sigmoid())[ranks == 1].mean(),
    ),
    ("demonstrations_at_zero", "instructgpt.doctor.invariants.normalise", lambda *_: None),
    (
        "value_starts_as_the_reward_model",  # V read one id early
        "instructgpt.rlhf.checks.score_ids",
        lambda model, rows, *rest: score_ids(model, [row[:-1] for row in rows], *rest),
    ),
    (
        "ptx_gradient",  # unscaled
        "instructgpt.doctor.invariants.ptx_gradients",
        lambda policy, documents, config: ptx_gradients(policy, documents, replace(config, ptx_coef=1.0)),
    ),
    ("ptx_in_the_same_step", "instructgpt.rlhf.update.ptx_gradients", lambda *_: 0.0),
    ("average_in_closed_form", "instructgpt.runtime.optim.Ema.update", late_average),
    ("warmup_of_the_rate", "instructgpt.rlhf.round.linear_warmup", lambda *_, **__: 1.0),
]


def test_every_check_has_its_fault() -> None:
    assert {name for name, _, _ in FAULTS} == {check.__name__ for check in CHECKS}


@pytest.mark.parametrize(
    ("name", "target", "fault"), FAULTS, ids=[f"{f[0]}-{n}" for n, f in enumerate(FAULTS)]
)
def test_a_planted_fault_is_seen(name, target, fault, monkeypatch) -> None:
    monkeypatch.setattr(target, fault)
    try:
        finding = getattr(invariants, name)(CPU)
    except CheckError:
        return  # the code's own check came first
    assert not finding.holds
