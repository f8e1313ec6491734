"""The updates against PPO's own, against slow loops over padded rows, and cut into micro-batches."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

import instructgpt.comparators.a2c as a2c
import instructgpt.comparators.grpo as grpo
import instructgpt.comparators.rloo as rloo
from instructgpt.comparators.distill import examples_of, winners
from instructgpt.comparators.prepare import Parts
from instructgpt.comparators.rounds import check_start, minibatch_rows, reinforce_gradients, skipped_now
from instructgpt.comparators.settings import A2CConfig, GRPOConfig, RLOOConfig
from instructgpt.errors import CheckError
from instructgpt.rlhf.advantage import estimate
from instructgpt.rlhf.reward import shape_rewards
from instructgpt.rlhf.rollout import micro_batches
from instructgpt.rlhf.round import Judged
from instructgpt.rlhf.update import ppo_gradients, update
from instructgpt.runtime.optim import adamw


def _gradients(model) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def _judged(rollout) -> Judged:
    rewards = shape_rewards(rollout, 0.1)
    return Judged(rollout, rewards, *estimate(rollout, rewards, gamma=1.0, lam=0.95))


def _full_logprobs(policy, rollout, row: int) -> torch.Tensor:
    """(n,) of one reply, with its prompt alone and the whole softmax."""
    episodes = rollout.episodes
    prompt = list(episodes.prompt_ids[row])
    reply = episodes.response_ids[row, : episodes.response_length[row]].tolist()
    ids = torch.tensor(prompt + reply)
    full = torch.log_softmax(policy.logits(policy(ids, torch.arange(len(ids)), [len(ids)])), dim=1)
    return torch.stack([full[len(prompt) + t - 1, token] for t, token in enumerate(reply)])


def test_ppos_unclipped_gradient_at_step_0_is_a2cs(tiny, rollout, models) -> None:
    """arXiv:2205.09123, the real code on both sides; in float64, so that 1e-9 means something."""
    policy = models[0].double()
    judged = _judged(rollout)
    minibatch = micro_batches(rollout.episodes, range(8), 30)
    with torch.no_grad():
        old = torch.zeros_like(rollout.old_logprobs, dtype=torch.float64)
        for row, n in enumerate(rollout.episodes.response_length.tolist()):
            old[row, :n] = _full_logprobs(policy, rollout, row)
    exact = dataclasses.replace(rollout, old_logprobs=old)
    # Any clip bound: at ratio 1 nothing is clipped.
    ppo_gradients(policy, minibatch, exact, judged.advantages.double(), tiny.config(clip=0.01))
    theirs = _gradients(policy)
    count = int(rollout.mask.sum())
    reinforce_gradients(policy, minibatch, judged.advantages.double(), count, tiny.config())
    ours = _gradients(policy)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    shifted = dataclasses.replace(exact, old_logprobs=old - 0.1)  # after a step the two part
    ppo_gradients(policy, minibatch, shifted, judged.advantages.double(), tiny.config(clip=0.01))
    other = _gradients(policy)
    assert any(not torch.allclose(ours[name], other[name], rtol=1e-3) for name in ours)


def test_a_round_of_a2c_is_a_round_of_ppo_with_one_step(tiny, rollout, models, learner_of, config_of) -> None:
    """The whole update: policy and value network, one epoch, one minibatch, no value clip, SGD so that the
    step is the gradient."""
    policy, _, value = models
    judged = _judged(rollout)
    config = config_of(A2CConfig, beta=0.1, warmup=0)
    after = []
    for one_step in (True, False):
        learner = learner_of(copy.deepcopy(policy), copy.deepcopy(value), tiny.config(ema=0.0))
        learner.policy_optimizer = torch.optim.SGD(learner.policy.parameters(), lr=1e-3)
        learner.value_optimizer = torch.optim.SGD(learner.value.parameters(), lr=1e-3)
        if one_step:
            a2c.update(learner, judged, config, 0)
        else:
            ppo = tiny.config(minibatches=1, epochs=1, value_clip=float("inf"), ema=0.0, ptx_coef=0.0)
            update(learner, rollout, judged.advantages, judged.returns, None, ppo, 0)
        after.append({**learner.policy.state_dict(), **learner.value.state_dict(prefix="value.")})
    torch.testing.assert_close(after[0], after[1], rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(after[0][n], t) for n, t in policy.state_dict().items())


def _parts(policy, config) -> Parts:
    ppo = config.ppo
    optimizer = adamw(policy, config.lr, (ppo.beta1, ppo.beta2), ppo.eps)
    return Parts(None, policy, policy, optimizer, None, None, None)  # type: ignore[arg-type]


def test_rloo_is_a_slow_loop_over_replies(rollout, models, config_of) -> None:
    """Mean over replies of -A * (sum of the reply's log-probs), one step of the optimizer given."""
    policy = models[0]
    config = config_of(RLOOConfig, grad_clip=0.0, warmup=0, lr=0.5)
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.1, -0.1])
    reference = copy.deepcopy(policy)
    loss = -sum(advantages[row] * _full_logprobs(reference, rollout, row).sum() for row in range(8)) / 8
    loss.backward()
    parts = _parts(policy, config)
    parts.optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    metrics = rloo.update(parts, rollout, advantages, config, 0)
    assert metrics["policy_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert (metrics["skipped_steps"], metrics["lr"]) == (0.0, 0.5)
    for (name, ours), theirs in zip(policy.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.5 * theirs.grad, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("average", ["reply", "token"])
def test_grpo_is_a_slow_loop_over_tokens(rollout, models, config_of, average) -> None:
    """Eq. 3 with the penalty of Eq. 4, with ratios away from 1, over six of the eight replies."""
    policy = models[0]
    config = config_of(GRPOConfig, average=average, beta=0.3)
    shifted = dataclasses.replace(rollout, old_logprobs=rollout.old_logprobs - 0.4 * rollout.values)
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.1, -0.1])
    rows = [1, 2, 4, 5, 6, 7]
    stats = grpo.gradients(policy, shifted, advantages, rows, config)
    ours = _gradients(policy)
    by_reply = []
    for row in rows:
        logprobs = _full_logprobs(policy, rollout, row)
        n = len(logprobs)
        ratio = (logprobs - shifted.old_logprobs[row, :n]).exp()
        inverse = (rollout.reference_logprobs[row, :n] - logprobs).exp()
        gained = torch.min(advantages[row] * ratio, advantages[row] * ratio.clamp(0.8, 1.2))
        by_reply.append(gained - 0.3 * (inverse - inverse.log() - 1))
    if average == "reply":
        loss = -torch.stack([tokens.mean() for tokens in by_reply]).mean()
    else:
        loss = -torch.cat(by_reply).mean()
    loss.backward()
    assert stats["policy_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert stats["clip_fraction"] > 0 and stats["kl_loss"] > 0
    torch.testing.assert_close(ours, _gradients(policy), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_the_cut_into_micro_batches_changes_nothing(rollout, models, config_of, method) -> None:
    policy = models[0]
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.1, -0.1])
    found = []
    for max_tokens in (10_000, 20, 1):
        if method == "grpo":
            config = config_of(GRPOConfig, max_tokens=max_tokens)
            stats = grpo.gradients(policy, rollout, advantages, list(range(8)), config)
        else:
            config = config_of(RLOOConfig, max_tokens=max_tokens)
            minibatch = micro_batches(rollout.episodes, range(8), max_tokens)
            grid = advantages[:, None].expand(rollout.mask.shape)
            stats = reinforce_gradients(policy, minibatch, grid, 8, config.ppo)
        found.append((stats, _gradients(policy)))
    for stats, gradients in found[1:]:
        assert stats == pytest.approx(found[0][0], abs=1e-5)
        torch.testing.assert_close(gradients, found[0][1], atol=1e-6, rtol=1e-4)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(rollout, models, config_of) -> None:
    """Field fault 21: weights and optimizer stay; several in a row end the run."""
    policy = models[0]
    config = config_of(RLOOConfig, max_skipped=2)
    parts = _parts(policy, config)
    before = copy.deepcopy(policy.state_dict())
    broken = torch.full((8,), float("nan"))
    metrics = rloo.update(parts, rollout, broken, config, 0)
    assert metrics["skipped_steps"] == 1.0 and parts.skipped_in_a_row == 1 and not parts.optimizer.state
    torch.testing.assert_close(policy.state_dict(), before, rtol=0.0, atol=0.0)
    with pytest.raises(CheckError, match="the last 2 steps were skipped"):
        rloo.update(parts, rollout, broken, config, 1)
    assert skipped_now(1, True, 2, "rloo") == 0


def test_the_start_is_checked(rollout, models, config_of) -> None:
    """Field faults 8 to 12: a ratio off 1, and replies that the policy did not draw, are refused."""
    ppo = config_of(RLOOConfig).ppo
    drawn = dataclasses.replace(rollout.episodes, rollout_logprobs=rollout.old_logprobs)
    good = dataclasses.replace(rollout, episodes=drawn)
    assert check_start(models[0], good, ppo, "rloo")["ratio_error"] < 1e-4
    with pytest.raises(CheckError, match="ratio is off 1"):
        check_start(models[1], good, ppo, "rloo")
    with pytest.raises(CheckError, match="not drawn from the policy"):
        check_start(models[0], rollout, ppo, "rloo")


def test_minibatches_are_a_shuffle_of_all_rows_an_epoch(config_of) -> None:
    ppo = dataclasses.replace(config_of(GRPOConfig).ppo, epochs=2)
    found = list(minibatch_rows(8, ppo, 3))
    assert [len(rows) for rows in found] == [4, 4, 4, 4]
    assert sorted(found[0] + found[1]) == sorted(found[2] + found[3]) == list(range(8))
    assert found[:2] != found[2:] and found == list(minibatch_rows(8, ppo, 3))


def test_the_winner_is_the_highest_score_and_the_first_of_equals(tiny, episodes) -> None:
    scores = torch.tensor([0.0, 3.0, 2.0, 2.0, -1.0, -2.0, 5.0, 4.0])
    assert winners(scores, 2).tolist() == [1, 2, 4, 6]
    assert winners(scores, 4).tolist() == [1, 6]
    first, second = examples_of(episodes, torch.tensor([3, 2]))
    # prompts of 5 and 4 ids; the reply of row 3 ends itself, row 2 has its largest length
    assert first.ids == [*episodes.prompt_ids[3], *episodes.response_ids[3, :2].tolist()]
    assert first.train_mask == [False] * 5 + [True] * 2
    assert second.train_mask == [False] * 4 + [True] * 6
    assert first.ids[-1] == tiny.tokenizer.end_of_turn_id != second.ids[-1]
