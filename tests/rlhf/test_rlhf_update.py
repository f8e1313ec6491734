"""update.py: the reviewer's invariants 1, 4, 8 and 9, and what is stepped with what."""

from __future__ import annotations

import copy
import dataclasses
import math
from itertools import chain

import pytest
import torch

import instructgpt.rlhf.update as module
from instructgpt.errors import CheckError
from instructgpt.rlhf.advantage import estimate
from instructgpt.rlhf.reward import shape_rewards
from instructgpt.rlhf.rollout import micro_batches
from instructgpt.rlhf.update import ppo_gradients, ptx_gradients, update, value_gradients
from instructgpt.runtime.optim import optimizer_tensors

DOCUMENTS = [[5, 9, 12, 40, 7], [8, 11], [100, 7, 9, 9, 30, 21, 6, 15]]


def _gradients(model) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def _targets(rollout):
    return estimate(rollout, shape_rewards(rollout, 0.1), gamma=1.0, lam=0.95)


def test_invariant_1_learning_rate_zero(tiny, rollout, models, learner_of) -> None:
    """Invariant 1, field fault 9: in all minibatches ratio 1, approx_kl 0, clip_fraction 0; weights stay."""
    config = tiny.config(lr=0.0, value_lr=0.0, epochs=2)
    policy, _, value = models
    before = copy.deepcopy(policy.state_dict())
    learner = learner_of(policy, value, config)
    metrics = update(learner, rollout, *_targets(rollout), lambda step: DOCUMENTS, config, 0)
    assert metrics["ratio_mean"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["approx_kl"] == pytest.approx(0.0, abs=1e-8)
    assert metrics["clip_fraction"] == 0.0
    # advantages are whitened over the round, so the mean over its tokens of -A * 1 is near 0
    assert math.isfinite(metrics["policy_loss"])
    for name, tensor in policy.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0.0, atol=0.0)


def test_invariant_4_one_micro_batch_of_eight_is_eight_of_one(tiny, rollout, models) -> None:
    """Invariant 4, field fault 16: losses, statistics and gradients; replies of 1 to 6 tokens."""
    policy, _, value = models
    advantages, returns = _targets(rollout)
    results = []
    for max_tokens in (100_000, 20, 1):
        config = tiny.config(max_tokens=max_tokens)
        minibatch = micro_batches(rollout.episodes, range(8), max_tokens)
        stats = ppo_gradients(policy, minibatch, rollout, advantages, config)
        ptx = ptx_gradients(policy, DOCUMENTS, config)
        value_stats = value_gradients(value, minibatch, rollout, returns, config)
        results.append(
            (len(minibatch), stats | value_stats | {"ptx": ptx}, _gradients(policy), _gradients(value))
        )
    # rows of 3 6 10 7 12 11 8 14 tokens, longest first, at most 20 together: 14 | 12 | 11 | 10 8 | 7 6 3
    assert [result[0] for result in results] == [1, 5, 8]
    for other in results[1:]:
        for name, number in results[0][1].items():
            assert other[1][name] == pytest.approx(number, abs=1e-5), name
        torch.testing.assert_close(other[2], results[0][2], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(other[3], results[0][3], atol=1e-6, rtol=1e-4)


def test_policy_gradient_equals_a_padded_slow_version(tiny, rollout, models) -> None:
    """Row by row with the whole softmax and the formula written out, no packing and no function of ours."""
    policy = models[0]
    advantages, _ = _targets(rollout)
    shifted = dataclasses.replace(rollout, old_logprobs=rollout.old_logprobs - 0.4 * rollout.values)
    stats = ppo_gradients(
        policy, micro_batches(rollout.episodes, range(8), 50), shifted, advantages, tiny.config()
    )
    ours = _gradients(policy)
    total, count = torch.tensor(0.0), int(rollout.mask.sum())
    for row, n in enumerate(rollout.episodes.response_length.tolist()):
        p = len(rollout.episodes.prompt_ids[row])
        ids = torch.tensor(
            [*rollout.episodes.prompt_ids[row], *rollout.episodes.response_ids[row, :n].tolist()]
        )
        full = torch.log_softmax(policy.logits(policy(ids, torch.arange(p + n), [p + n])), dim=1)
        for t in range(n):
            ratio = (full[p + t - 1, ids[p + t]] - shifted.old_logprobs[row, t]).exp()
            a = advantages[row, t]
            total = total + torch.max(-a * ratio, -a * ratio.clamp(0.8, 1.2))
    loss = total / count
    loss.backward()
    assert stats["policy_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert stats["clip_fraction"] > 0
    torch.testing.assert_close(ours, _gradients(policy), atol=1e-5, rtol=1e-4)


def test_invariant_8_ptx_gradient_is_gamma_times_the_lm_gradient(tiny, models) -> None:
    """Invariant 8: against cross-entropy over single documents, in float64 so that 1e-6 means something."""
    policy = models[0].double()
    config = tiny.config(ptx_coef=27.8, max_tokens=6)
    loss = ptx_gradients(policy, DOCUMENTS, config)
    ours = _gradients(policy)
    losses = []
    for document in DOCUMENTS:
        ids = torch.tensor(document)
        logits = policy.logits(policy(ids, torch.arange(len(ids)), [len(ids)]))
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none"))
    mean = torch.cat(losses).mean()
    mean.backward()
    assert loss == pytest.approx(mean.item(), abs=1e-6)
    expected = {name: 27.8 * gradient for name, gradient in _gradients(policy).items()}
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def test_invariant_8_ptx_is_accumulated_in_the_same_step(
    tiny, rollout, models, learner_of, monkeypatch
) -> None:
    """Invariant 8, field faults 25 and 26: a step's gradient is PPO's plus gamma x LM, not one in turn."""
    config = tiny.config(minibatches=1, grad_clip=0.0, ptx_coef=5.0)
    policy, _, value = models
    advantages, returns = _targets(rollout)
    learner = learner_of(policy, value, config)
    minibatch = micro_batches(rollout.episodes, range(8), config.max_tokens)
    ppo_gradients(policy, minibatch, rollout, advantages, config)
    ppo = _gradients(policy)
    ptx_gradients(policy, DOCUMENTS, config)
    ptx = _gradients(policy)
    seen = []
    step = learner.policy_optimizer.step

    def spy():
        seen.append({n: p.grad.clone() for n, p in policy.named_parameters()})
        step()

    monkeypatch.setattr(learner.policy_optimizer, "step", spy)
    metrics = update(learner, rollout, advantages, returns, lambda step: DOCUMENTS, config, 0)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], {n: ppo[n] + ptx[n] for n in ppo}, atol=1e-5, rtol=1e-4)
    assert metrics["ptx_loss"] > 0


def test_invariant_9_ema_closed_form(tiny, rollout, models, learner_of) -> None:
    """Invariant 9: after n steps the average is d^n w_0 + (1 - d) sum over k of d^(n - k) w_k."""
    config = tiny.config(minibatches=4, epochs=2, ema=0.9)
    policy, _, value = models
    learner = learner_of(policy, value, config)
    assert learner.ema is not None
    path = [{n: p.detach().clone() for n, p in policy.named_parameters()}]
    step = learner.policy_optimizer.step

    def follow():
        step()
        path.append({n: p.detach().clone() for n, p in policy.named_parameters()})

    learner.policy_optimizer.step = follow
    update(learner, rollout, *_targets(rollout), None, config, 0)
    assert len(path) == 1 + 8
    for name, average in learner.ema.values.items():
        expected = 0.9**8 * path[0][name]
        for k in range(1, 9):
            expected = expected + 0.1 * 0.9 ** (8 - k) * path[k][name]
        torch.testing.assert_close(average, expected, atol=1e-6, rtol=1e-5)


def test_losses_have_their_own_names(tiny, rollout, models, learner_of) -> None:
    """Field fault 24."""
    config = tiny.config()
    learner = learner_of(models[0], models[2], config)
    metrics = update(learner, rollout, *_targets(rollout), lambda step: DOCUMENTS, config, 0)
    assert set(metrics) == {
        "policy_loss", "value_loss", "ptx_loss", "approx_kl", "clip_fraction", "ratio_mean", "ratio_max",
        "entropy", "policy_grad_norm", "value_grad_norm", "value_clip_fraction", "value_error",
        "explained_variance", "skipped_steps",
    }  # fmt: skip
    without = update(learner, rollout, *_targets(rollout), None, config, 0)
    assert "ptx_loss" not in without


def test_pretraining_examples_are_asked_for_by_step(tiny, rollout, models, learner_of) -> None:
    config = tiny.config(minibatches=4, epochs=2)
    learner = learner_of(models[0], models[2], config)
    steps = []
    update(learner, rollout, *_targets(rollout), lambda step: steps.append(step) or DOCUMENTS, config, 3)
    assert steps == list(range(24, 32))


def test_every_episode_is_used_once_an_epoch(tiny, rollout, models, learner_of, monkeypatch) -> None:
    used = []

    def spy(episodes, rows, *rest):
        used.append(list(rows))
        return micro_batches(episodes, rows, *rest)

    monkeypatch.setattr(module, "micro_batches", spy)
    config = tiny.config(minibatches=4, epochs=2)
    update(learner_of(models[0], models[2], config), rollout, *_targets(rollout), None, config, 0)
    first, second = used[:4], used[4:]
    assert [len(rows) for rows in used] == [2] * 8
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(8))
    assert first != second


def _poisoned(model, monkeypatch, which):
    """The gradient of the chosen backward passes (0, 1, ...) of a model becomes infinite at one weight."""
    calls = iter(range(1000))

    def spoil(gradient):
        if next(calls) in which:
            gradient = gradient.clone()
            gradient.view(-1)[3] = math.inf
        return gradient

    model.transformer.embedding.weight.register_hook(spoil)


def _all_state(learner) -> dict[str, torch.Tensor]:
    """Everything that a step changes: weights, optimizer moments and the average."""
    policy, value = learner.policy, learner.value
    tensors = {f"policy {n}": p for n, p in policy.named_parameters()}
    tensors |= {f"value {n}": p for n, p in value.named_parameters()}
    tensors |= {f"ema {n}": t for n, t in learner.ema.values.items()}
    tensors |= optimizer_tensors(learner.policy_optimizer, policy, "policy optimizer ")
    tensors |= optimizer_tensors(learner.value_optimizer, value, "value optimizer ")
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def test_a_step_that_is_not_finite_is_skipped(tiny, rollout, models, learner_of, monkeypatch) -> None:
    """Field fault 21: the second of four steps of the policy; the value network's are taken."""
    policy, _, value = models
    config = tiny.config(minibatches=4, ema=0.9)
    learner = learner_of(policy, value, config)
    _poisoned(policy, monkeypatch, {1})
    states = []
    real = module._policy_step

    def follow(*arguments):
        states.append(_all_state(learner))
        result = real(*arguments)
        states.append(_all_state(learner))
        return result

    monkeypatch.setattr(module, "_policy_step", follow)
    metrics = update(learner, rollout, *_targets(rollout), None, config, 0)
    assert metrics["skipped_steps"] == 1.0 and learner.skipped_in_a_row == 0
    assert all(math.isfinite(number) for number in metrics.values())
    torch.testing.assert_close(states[3], states[2], rtol=0.0, atol=0.0)  # nothing of the skipped step
    for before, after in ((0, 1), (4, 5), (6, 7)):
        changed = [n for n in states[before] if not torch.equal(states[after][n], states[before][n])]
        assert any(name.startswith("policy ") for name in changed)
        assert any(name.startswith("ema ") for name in changed)


def test_steps_skipped_in_a_row_end_the_run(tiny, rollout, models, learner_of, monkeypatch) -> None:
    """They are counted over rounds; one good step between them starts the count anew."""
    policy, _, value = models
    config = tiny.config(minibatches=2, max_skipped=3)
    learner = learner_of(policy, value, config)
    _poisoned(policy, monkeypatch, {0, 2, 3, 5, 6, 7})
    good = update(learner, rollout, *_targets(rollout), None, config, 0)  # 0 skipped, 1 taken
    assert good["skipped_steps"] == 1.0 and learner.skipped_in_a_row == 0
    both = update(learner, rollout, *_targets(rollout), None, config, 1)  # 2 and 3 skipped
    assert both["skipped_steps"] == 2.0 and learner.skipped_in_a_row == 2
    assert "policy_loss" not in both and "value_loss" in both  # no step of the policy to speak of
    update(learner, rollout, *_targets(rollout), None, config, 2)  # 4 taken, 5 skipped
    assert learner.skipped_in_a_row == 1
    with pytest.raises(CheckError, match="gradient of the policy is not finite, and the last 3 steps"):
        update(learner, rollout, *_targets(rollout), None, config, 3)


def test_a_loss_that_is_not_finite_is_no_step_either(tiny, rollout, models, learner_of) -> None:
    policy, _, value = models
    config = tiny.config(max_skipped=1)
    advantages, returns = _targets(rollout)
    learner = learner_of(policy, value, config)
    before = _all_state(learner)
    with pytest.raises(CheckError, match=r"policy is not finite, and the last step was"):
        update(learner, rollout, advantages * math.nan, returns, None, config, 0)
    after = {n: t for n, t in _all_state(learner).items() if n.startswith(("policy", "ema"))}
    torch.testing.assert_close(after, {n: before[n] for n in after}, rtol=0.0, atol=0.0)


def test_in_the_value_warm_up_the_policy_rests(tiny, rollout, models, learner_of) -> None:
    policy, _, value = models
    config = tiny.config(value_warmup=2, ema=0.9)
    learner = learner_of(policy, value, config)
    before = _all_state(learner)
    for iteration in (0, 1):
        metrics = update(learner, rollout, *_targets(rollout), lambda step: DOCUMENTS, config, iteration)
        assert not {"policy_loss", "entropy", "ptx_loss", "ratio_max"} & set(metrics)
        assert metrics["value_loss"] > 0
    resting = _all_state(learner)
    for name in before:
        assert torch.equal(resting[name], before[name]) == name.startswith(("policy", "ema")), name
    metrics = update(learner, rollout, *_targets(rollout), lambda step: DOCUMENTS, config, 2)
    assert {"policy_loss", "entropy", "ptx_loss", "ratio_max"} <= set(metrics)


def test_update_raises_what_paid_and_lowers_what_did_not(tiny, rollout, models, learner_of) -> None:
    """One step along the advantages: tokens with A > 0 gain probability, the others lose it, on average."""
    policy, _, value = models
    config = tiny.config(minibatches=1, lr=1e-3, ema=0.0)
    advantages, returns = _targets(rollout)
    update(learner_of(policy, value, config), rollout, advantages, returns, None, config, 0)
    from instructgpt.rlhf.rollout import episode_logprobs

    micros = micro_batches(rollout.episodes, range(8), 10_000)
    change = (episode_logprobs(policy, rollout.episodes, micros, 1.0) - rollout.old_logprobs)[rollout.mask]
    a = advantages[rollout.mask]
    assert (change * a).mean().item() > 0


def test_bfloat16_passes_are_close_and_leave_float32_weights(tiny, rollout, models) -> None:
    policy = models[0]
    advantages, _ = _targets(rollout)
    minibatch = micro_batches(rollout.episodes, range(8), 10_000)
    grads = []
    for dtype in ("float32", "bfloat16"):
        ppo_gradients(policy, minibatch, rollout, advantages, tiny.config(dtype=dtype))
        ptx_gradients(policy, DOCUMENTS, tiny.config(dtype=dtype))
        grads.append(torch.cat([g.flatten() for g in _gradients(policy).values()]))
    assert grads[1].dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(grads[0], grads[1], dim=0)
    assert cosine.item() > 0.99
    assert not torch.equal(grads[0], grads[1])
