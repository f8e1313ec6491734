"""DPO: log-probs the slow way, log 2 at the reference, the right direction, and the Bradley-Terry optimum."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

import instructgpt.comparators.dpo as dpo
from instructgpt.comparators.dpo import Preference, accumulate, measure, preferences_of, reply_logprobs
from instructgpt.comparators.settings import DPOConfig
from instructgpt.doctor.certificate import Problem
from instructgpt.doctor.tables import policy_logits, tabular_policy
from instructgpt.doctor.world import END, enumerate_world, independent_rewards, reference_logits
from instructgpt.errors import CheckError, ConfigError
from instructgpt.reward_model.comparisons import Comparison, read_comparisons

F32 = torch.float32


@pytest.fixture
def preferences(tiny, config_of) -> list[Preference]:
    rankings = read_comparisons(config_of(DPOConfig).rankings, tiny.tokenizer, 160)
    return preferences_of(rankings.train, rankings.train_texts, tiny.tokenizer)


def _gradients(model) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def test_reply_logprobs_are_sums_over_the_reply_and_its_end(tiny, models, preferences) -> None:
    policy = models[0]
    found = reply_logprobs(policy, preferences, F32)
    slow = []
    for one in preferences:
        for sequence in one.comparison.sequences:
            ids = torch.tensor(sequence)
            full = torch.log_softmax(policy.logits(policy(ids, torch.arange(len(ids)), [len(ids)])), dim=1)
            slow.append(sum(full[t - 1, sequence[t]] for t in range(one.prompt_length, len(sequence))))
            assert sequence[-1] == tiny.tokenizer.end_of_turn_id
    torch.testing.assert_close(found, torch.stack(slow), atol=2e-5, rtol=1e-6)


def test_at_the_reference_the_loss_is_log_2_and_a_step_raises_the_better_replies(
    models, preferences, config_of
) -> None:
    reference = models[0]
    policy = copy.deepcopy(reference)
    config = config_of(DPOConfig)
    found = accumulate(policy, reference, preferences, config, F32)
    assert found["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found["accuracy"] == 0.5 and found["margin"] == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter -= 0.1 * parameter.grad
    after = measure(policy, reference, preferences, config, F32)
    assert after["loss"] < found["loss"]
    assert after["accuracy"] > 0.5 and after["chosen_reward"] > after["rejected_reward"]
    assert after["margin"] == pytest.approx(after["chosen_reward"] - after["rejected_reward"])


def test_accumulate_is_a_slow_loop_over_pairs(models, preferences, config_of) -> None:
    policy, reference, _ = models
    config = config_of(DPOConfig, beta=0.4)
    found = accumulate(policy, reference, preferences, config, F32)
    ours = _gradients(policy)
    losses, right, chosen, rejected = [], [], [], []
    for one in preferences:
        with torch.no_grad():
            theirs = reply_logprobs(reference, [one], F32)
        rewards = 0.4 * (reply_logprobs(policy, [one], F32) - theirs)
        ranks = one.comparison.ranks
        pairs = [(i, j) for i, a in enumerate(ranks) for j, b in enumerate(ranks) if a < b]
        losses.append(
            torch.stack([-torch.nn.functional.logsigmoid(rewards[i] - rewards[j]) for i, j in pairs]).mean()
        )
        right += [float(rewards[i] > rewards[j]) for i, j in pairs]
        chosen += [rewards[i].item() for i, _ in pairs]
        rejected += [rewards[j].item() for _, j in pairs]
    torch.stack(losses).mean().backward()
    assert found["loss"] == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)
    assert found["accuracy"] == pytest.approx(sum(right) / len(right))
    assert found["chosen_reward"] == pytest.approx(sum(chosen) / len(chosen), abs=1e-5)
    assert found["rejected_reward"] == pytest.approx(sum(rejected) / len(rejected), abs=1e-5)
    torch.testing.assert_close(ours, _gradients(policy), atol=1e-6, rtol=1e-4)


def test_the_cut_into_micro_batches_changes_nothing(models, preferences, config_of) -> None:
    policy, reference, _ = models
    results = []
    for micro_tokens in (10_000, 60, 1):
        config = config_of(DPOConfig, micro_tokens=micro_tokens)
        stats = accumulate(policy, reference, preferences, config, F32)
        results.append((stats, _gradients(policy)))
        assert measure(policy, reference, preferences, config, F32) == pytest.approx(stats, abs=1e-5)
    for stats, gradients in results[1:]:
        assert stats == pytest.approx(results[0][0], abs=1e-5)
        torch.testing.assert_close(gradients, results[0][1], atol=1e-6, rtol=1e-4)


def test_a_policy_that_is_not_its_reference_is_refused_at_the_start(config_of, tmp_path, monkeypatch) -> None:
    real = dpo.reply_logprobs
    monkeypatch.setattr(
        dpo,
        "reply_logprobs",
        lambda model, batch, dtype: real(model, batch, dtype) * (1.1 if torch.is_grad_enabled() else 1.0),
    )
    with pytest.raises(CheckError, match="not log 2"):
        dpo.train(config_of(DPOConfig, tmp_path / "run"))


def test_on_an_enumerable_world_it_comes_to_the_bradley_terry_optimum(config_of) -> None:
    """All pairs of all replies, each labelled 20 times in Bradley-Terry's proportions: DPO's optimum is then
    pi_ref * exp(r / beta), that of the RL objective (section 5.1 of arXiv:2305.18290), of which it must reach
    99 % on the certificate's scale."""
    world = enumerate_world(4, 2, ((1, 2), (3,)))
    logits = reference_logits(world, 0.3, 1)
    found = Problem(world, logits, independent_rewards(world, 2), beta=0.5)
    labelled = []
    for row, prompt in enumerate(world.prompts):
        ids = [[*prompt, *(i for i in reply if i >= 0)] for reply in world.replies.tolist()]
        assert all(len(one) == len(prompt) + 2 or one[-1] == END for one in ids)
        for i in range(len(ids)):
            for j in range(i):
                chance = torch.sigmoid(found.rewards[row, i] - found.rewards[row, j]).item()
                wins = round(20 * chance)
                for ranks, times in (([1, 2], wins), ([2, 1], 20 - wins)):
                    comparison = Comparison([ids[i], ids[j]], ranks)
                    labelled += [Preference(comparison, len(prompt))] * times
    assert len(labelled) == 2 * 20 * 78  # 13 replies to each prompt
    reference = tabular_policy(world, logits).requires_grad_(False)
    policy = tabular_policy(world, logits)
    assert found.share(found.reference) == 0.0
    optimizer = torch.optim.Adam([policy.get_parameter("transformer.rows")], lr=0.1)
    config = replace(config_of(DPOConfig), beta=found.beta, micro_tokens=100_000)
    for _ in range(60):
        accumulate(policy, reference, labelled, config, F32)
        optimizer.step()
        optimizer.zero_grad()
    share = found.share(world.reply_logprobs(policy_logits(policy)))
    assert 0.99 < share <= 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "--beta is 0"),
        ({"beta": float("nan")}, "--beta is nan"),
        ({"batch": 0}, "--batch is 0"),
        ({"keep": -1}, "--keep is -1"),
        ({"grad_clip": -1.0}, "--grad-clip is -1"),
        ({"epochs": 0.0}, "--epochs is 0"),
        ({"max_skipped": 0}, "--max-skipped is 0"),
        ({"lr": -1.0}, "--lr is -1"),
    ],
)
def test_settings_that_make_no_sense(config_of, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(DPOConfig, **changes)


@pytest.mark.parametrize(
    ("changes", "message"), [({"model": ""}, "no model was named"), ({"data": ""}, "no data was named")]
)
def test_what_must_be_named(config_of, tmp_path, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        dpo.train(config_of(DPOConfig, tmp_path / "run", **changes))
