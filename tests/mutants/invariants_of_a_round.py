"""What holds of a round of PPO-ptx whatever the model, the data and the settings: the faults are held to it.

Each function runs the real code in a `World` and raises AssertionError (or lets the code's own CheckError
through) when its sentence is not true. None knows of the faults: expected values are hand arithmetic, closed
forms, slow loops over single replies, or numbers read from files.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from invariant import close, invariant
from mutant_world import (
    LENGTHS,
    World,
    file_scores,
    gradients,
    load_language_model,
    nudge,
    replies,
    slow_lm_loss,
    slow_logprobs,
    slow_policy_loss,
    slow_value_loss,
    slow_values,
    watched_update,
)

from instructgpt.generation.engine import Completion
from instructgpt.maths import kl
from instructgpt.rlhf import advantage, reward, rollout, round


@invariant
def networks_are_read_at_their_tokens(world: World) -> None:
    """Log-probs of policy and reference, V before each token: as one reply at a time reads them."""
    config = world.config(temperature=0.7)
    parts = world.parts(config)
    made = world.judged(parts, config).rollout
    base = load_language_model(world.tiny.folder / "sft")
    assert made.mask.sum(1).tolist() == [len(reply) for _, reply in replies(parts)]
    with torch.no_grad():
        for row, (prompt, reply) in enumerate(replies(parts)):
            n = len(reply)
            close(made.old_logprobs[row, :n], slow_logprobs(parts.learner.policy, prompt, reply, 0.7))
            close(made.reference_logprobs[row, :n], slow_logprobs(base, prompt, reply, 0.7))
            close(made.values[row, :n], slow_values(parts.learner.value, prompt, reply, 0.25)[:-1])


@invariant
def return_is_score_minus_beta_kl(world: World) -> None:
    """Return of the first token at gamma = lambda = 1, and the last token holds the whole score."""
    config = world.config(gamma=1.0, lam=1.0, whiten_advantages=False, temperature=0.7)
    parts = world.parts(config)
    judged = world.judged(parts, config, beta=0.3)
    pairs = replies(parts)
    base = load_language_model(world.tiny.folder / "sft")
    scores = file_scores(world, pairs)
    for row, pair in enumerate(pairs):
        with torch.no_grad():
            log_ratio = slow_logprobs(parts.learner.policy, *pair, 0.7) - slow_logprobs(base, *pair, 0.7)
        close(judged.returns[row, 0], scores[row] - 0.3 * log_ratio.sum())
        close(judged.returns[row, len(pair[1]) - 1], scores[row] - 0.3 * log_ratio[-1])
        close(judged.rewards.kl[row], log_ratio.sum())


@invariant
def advantages_are_the_double_loop(world: World) -> None:
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, by a loop over rewards and values of one reply."""
    config = world.config(gamma=0.9, lam=0.5, whiten_advantages=False)
    parts = world.parts(config)
    judged = world.judged(parts, config)
    for row, (_, reply) in enumerate(replies(parts)):
        n = len(reply)
        values = [*judged.rollout.values[row, :n].tolist(), 0.0]
        earned = judged.rewards.per_token[row, :n].tolist()
        deltas = [earned[t] + 0.9 * values[t + 1] - values[t] for t in range(n)]
        expected = [sum(0.45 ** (u - t) * deltas[u] for u in range(t, n)) for t in range(n)]
        assert judged.advantages[row, :n].tolist() == pytest.approx(expected, abs=1e-5)
        wanted = [a + v for a, v in zip(expected, values[:n], strict=True)]
        assert judged.returns[row, :n].tolist() == pytest.approx(wanted, abs=1e-5)
        assert judged.advantages[row, n:].abs().sum() == 0


@invariant
def whitening_centres_advantages_and_scales_rewards(world: World) -> None:
    """Advantages: mean 0, variance 1 over the counted tokens. Whitened rewards: variance 1, mean kept."""
    config = world.config()
    parts = world.parts(config)
    judged = world.judged(parts, config)
    counted = torch.cat([judged.advantages[row, :n] for row, n in enumerate(LENGTHS)]).double()
    assert counted.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert counted.var(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    settings = {"gamma": 1.0, "lam": 1.0, "whiten_rewards": True, "whiten_advantages": False}
    _, returns = advantage.estimate(judged.rollout, judged.rewards, **settings)
    earned = [judged.rewards.per_token[row, :n].double() for row, n in enumerate(LENGTHS)]
    mean, std = torch.cat(earned).mean(), torch.cat(earned).std(correction=0)
    for row, rewards in enumerate(earned):
        assert returns[row, 0].item() == pytest.approx(((rewards - mean) / std + mean).sum().item(), abs=1e-3)


@invariant
def nothing_beyond_a_reply_is_read(world: World) -> None:
    """Whatever stands in slots behind a reply's end changes no reward, advantage, return or statistic."""
    config = world.config(lr=0.0, value_lr=0.0, ptx_coef=0.0)
    parts = world.parts(config)
    clean = world.judged(parts, config)
    beyond = torch.arange(max(LENGTHS)) >= torch.tensor(LENGTHS)[:, None]
    results = []
    for poison in (0.0, 1e6):
        fields = ("old_logprobs", "reference_logprobs", "values")
        filled = {name: getattr(clean.rollout, name).masked_fill(beyond, poison) for name in fields}
        made = dataclasses.replace(clean.rollout, **filled)
        rewards = reward.shape_rewards(made, 0.3)
        dirty = dataclasses.replace(rewards, per_token=rewards.per_token.masked_fill(beyond, poison))
        found = advantage.estimate(made, dirty, gamma=1.0, lam=0.95)
        judged = round.Judged(made, rewards, *(x.masked_fill(beyond, poison) for x in found))
        stats = round.learn(parts, judged, config, 0)
        results.append((rewards.kl, *found, torch.tensor([stats[name] for name in sorted(stats)])))
    close(results[1], results[0])


@invariant
def ratio_is_1_at_learning_rate_0(world: World) -> None:
    """On sampled replies, through two epochs of minibatches; and the code's own checks are silent."""
    config = world.config(lr=0.0, value_lr=0.0, epochs=2, minibatches=4, temperature=0.7)
    parts = world.parts(config, drift=0.0)
    judged = round.judge(parts, round.sample(parts, parts.prompts, config, 0), config, 0.3)
    round.check(parts, judged, config, fresh=True)
    stats = round.learn(parts, judged, config, 0)
    assert stats["ratio_mean"] == pytest.approx(1.0, abs=1e-4)
    assert stats["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert stats["approx_kl"] == pytest.approx(0.0, abs=1e-7) and stats["clip_fraction"] == 0.0


@invariant
def policy_steps_follow_eq_2(world: World) -> None:
    """Each step's gradient is that of the clipped loss plus coefficient x LM loss, in one optimizer step.

    The policy moves after the rollout, so that ratios are far from 1; with learning rate 0 the second epoch
    must give the same PPO gradient again.
    """
    config = world.config(lr=0.0, epochs=2, temperature=0.7)
    parts = world.parts(config)
    judged = world.judged(parts, config)
    nudge(parts.learner.policy, 0.1, seed=2)
    seen = watched_update(parts, judged, config)
    assert len(seen["policy"]) == 2
    policy = parts.learner.policy
    ppo = slow_policy_loss(policy, judged, replies(parts), config)
    assert seen["stats"]["policy_loss"] == pytest.approx(ppo.item(), abs=1e-5)
    plain = gradients(policy, ppo)
    for step, found in enumerate(seen["policy"]):
        ptx = gradients(policy, slow_lm_loss(policy, parts.pretraining(step)))
        expected = {name: plain[name] + 5.0 * ptx[name] for name in plain}
        close(found, expected, atol=2e-5, rtol=1e-3)


@invariant
def value_steps_follow_the_clipped_loss(world: World) -> None:
    """0.1 x the gradient of the clipped value loss, after V has moved by more than the clip."""
    config = world.config(value_lr=0.0, epochs=2, ptx_coef=0.0)
    parts = world.parts(config)
    judged = world.judged(parts, config)
    nudge(parts.learner.value, 0.3, seed=3)
    seen = watched_update(parts, judged, config)
    loss = slow_value_loss(parts.learner.value, judged, replies(parts), config)
    assert seen["stats"]["value_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert seen["stats"]["value_clip_fraction"] > 0
    plain = gradients(parts.learner.value, loss)
    for found in seen["value"]:
        close(found, {name: 0.1 * plain[name] for name in plain}, atol=1e-5, rtol=1e-3)


@invariant
def the_cut_changes_nothing(world: World) -> None:
    """One micro-batch of eight replies = several = eight of one: gradients of every step and statistics."""
    found = []
    for max_tokens in (100_000, 40, 1):
        config = world.config(max_tokens=max_tokens, lr=0.0, value_lr=0.0, minibatches=2)
        parts = world.parts(config)
        judged = world.judged(parts, config)
        nudge(parts.learner.policy, 0.1, seed=2)
        seen = watched_update(parts, judged, config)
        seen["stats"].pop("lr")
        found.append((seen["policy"], seen["value"], seen["stats"]))
    for other in found[1:]:
        close(other[:2], found[0][:2], atol=2e-5, rtol=1e-3)
        assert other[2] == pytest.approx(found[0][2], abs=1e-4, rel=1e-3)


@invariant
def kl_is_exact_on_all_one_token_replies(world: World) -> None:
    """Over all replies of one token, weighted by probability, the rewards' KL is the exact divergence."""
    config = world.config(max_new=1, temperature=0.7)
    parts = world.parts(config)
    size = parts.learner.policy.config.vocab_size
    prompts, ids = parts.prompts.take([3] * size)
    stops = world.tiny.tokenizer.stop_ids
    completions = [Completion([token], [-1.0], token in stops) for token in range(size)]
    judged = round.judge(parts, rollout.build_episodes(prompts, ids, completions), config, 0.3)
    base = load_language_model(world.tiny.folder / "sft")
    with torch.no_grad():
        rows = []
        for model in (parts.learner.policy, base):
            hidden = model(torch.tensor(ids[0]), torch.arange(len(ids[0])), [len(ids[0])])
            rows.append(torch.log_softmax(hidden[-1] @ model.unembedding.T / 0.7, dim=0))
    exact = (rows[0].exp() * (rows[0] - rows[1])).sum()
    assert exact > 0.01
    weights = judged.rollout.old_logprobs[:, 0].exp()
    close(weights.sum(), torch.tensor(1.0))
    close((weights * judged.rewards.kl).sum(), exact)
    for estimator in (kl.k1, kl.k3):
        close((rows[0].exp() * estimator(rows[0], rows[1])).sum(), exact)


@invariant
def a_reply_without_an_end_gets_the_penalty(world: World) -> None:
    """Where the rule is on, replies that were cut score the penalty, those that ended keep their score."""
    config = world.config(missing_eos_penalty=-7.0)
    parts = world.parts(config)
    judged = world.judged(parts, config)
    kept = file_scores(world, replies(parts)).tolist()
    # the third and the seventh of the eight replies were cut
    expected = [-7.0 if row in (2, 6) else score for row, score in enumerate(kept)]
    assert judged.rewards.scores.tolist() == pytest.approx(expected, abs=1e-4)
