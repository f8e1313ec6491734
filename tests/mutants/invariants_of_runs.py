"""What holds of the models before and of the run around the rounds; see invariants_of_a_round.py."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from invariant import close, invariant
from mutant_world import (
    World,
    file_scores,
    replies,
    slow_logprobs,
    slow_values,
    watched_update,
)
from safetensors.torch import load_file

from instructgpt.data.records import Ranking, read_rankings
from instructgpt.errors import CheckpointError
from instructgpt.maths import kl, ranking
from instructgpt.model.heads import new_scalar_model
from instructgpt.reward_model import comparisons
from instructgpt.reward_model import train as reward_training
from instructgpt.reward_model.settings import RewardConfig
from instructgpt.rlhf import prepare, round, train
from instructgpt.scoring import reward as scoring
from instructgpt.sft import examples
from instructgpt.sft.settings import SFTConfig


@invariant
def value_starts_as_the_reward_model(world: World) -> None:
    """Before the first update V of the last token is the score that the reward model's file gives."""
    config = world.config()
    parts = world.parts(config)
    judged = world.judged(parts, config)
    pairs = replies(parts)
    expected = file_scores(world, pairs)
    close(judged.rollout.scores, expected)
    with torch.no_grad():
        last = torch.stack([slow_values(parts.learner.value, *pair, 0.25)[-1] for pair in pairs])
    close(last, expected)
    sampled = round.sample(parts, parts.prompts, config, 0)
    round.check(parts, round.judge(parts, sampled, config, 0.3), config, fresh=True)


@invariant
def the_reward_model_says_what_it_said(world: World) -> None:
    """A loaded reward model gives known texts the scores that its file gives, each at its end-of-turn."""
    try:
        loaded = scoring.load_reward(str(world.tiny.folder / "reward"))
    except CheckpointError as error:
        raise AssertionError(f"refused by its own self-test: {error}") from error
    parts = world.parts(world.config(), drift=0.0)
    texts = ["the cat", "sat on a mat", "rain"]
    end = world.tiny.tokenizer.end_of_turn_id
    prompts = [prompt.messages for prompt in parts.prompts.prompts[:3]]
    pairs = [
        (list(ids), [*world.tiny.tokenizer.encode(text), end])
        for ids, text in zip(parts.prompts.ids, texts, strict=False)
    ]
    assert loaded.score(prompts, texts) == pytest.approx(file_scores(world, pairs).tolist(), abs=1e-4)


@invariant
def demonstrations_have_mean_reward_0(world: World) -> None:
    """After the shift of section 3.5, by a slow mean over single demonstrations."""
    model = new_scalar_model(world.tiny.model_config, 9)
    demonstrations = [[1, 20, 30, 3], [1, 44, 3], [1, 9, 9, 200, 41, 3]]
    reward_training.normalise(model, demonstrations)
    with torch.no_grad():
        total = 0.0
        for ids in demonstrations:
            hidden = model(torch.tensor(ids), torch.arange(len(ids)), [len(ids)])
            total += float(model.score(hidden)[-1])
    assert total / 3 == pytest.approx(0.0, abs=1e-6)


RANKED = [[0.3, -1.2, 2.0, 0.5], [1.0, -0.4], [0.1, 0.9, 3.0]]
RANKS = [[2, 3, 1, 2], [1, 1], [2, 1, 3]]


def _naive(rewards: list[float], ranks: list[int]) -> list[float]:
    """-log sigmoid(r_better - r_worse) of each untied pair."""
    return [
        math.log1p(math.exp(rewards[j] - rewards[i]))
        for i, j in itertools.permutations(range(len(ranks)), 2)
        if ranks[i] < ranks[j]
    ]


@invariant
def k_way_loss_is_the_naive_mean(world: World) -> None:
    """Eq. 1: mean over prompts of the mean over a prompt's untied pairs; in training as in the formula."""
    flat, ranks = (torch.tensor(list(itertools.chain(*rows))) for rows in (RANKED, RANKS))
    loss, pairs = ranking.ranking_loss(flat, ranks, [4, 2, 3])
    naive = [_naive(r, k) for r, k in zip(RANKED, RANKS, strict=True)]
    assert pairs == 5 + 0 + 3
    means = [sum(losses) / len(losses) for losses in naive if losses]
    assert loss.item() == pytest.approx(sum(means) / 2, abs=1e-6)
    model = new_scalar_model(world.tiny.model_config, 9)
    batch = [
        comparisons.Comparison([[1, 20, 30, 3], [1, 44, 3], [1, 9, 8, 3], [1, 7, 3]], [2, 3, 1, 2]),
        comparisons.Comparison([[1, 50, 60, 70, 3], [1, 51, 3]], [1, 2]),
    ]
    found, _ = reward_training.accumulate(model, batch, 12, torch.float32)
    expected = []
    for comparison in batch:
        with torch.no_grad():
            scores = [slow_values(model, ids[:-1], ids[-1:], 0.0)[-1].item() for ids in comparison.sequences]
        losses = _naive(scores, comparison.ranks)
        expected.append(sum(losses) / len(losses))
    assert found == pytest.approx(sum(expected) / 2, abs=1e-5)


@invariant
def moving_average_is_the_closed_form(world: World) -> None:
    """After n steps: d^n w_0 + (1 - d) sum over k of d^(n - k) w_k."""
    config = world.config(minibatches=4, ema=0.9, lr=1e-2)
    parts = world.parts(config)
    judged = world.judged(parts, config)
    start = {n: v.clone() for n, v in parts.learner.ema.values.items()}
    path = watched_update(parts, judged, config)["path"]
    assert len(path) == 4
    for name, average in parts.learner.ema.values.items():
        expected = 0.9**4 * start[name] + sum(0.1 * 0.9 ** (3 - k) * path[k][name] for k in range(4))
        close(average, expected, atol=1e-6, rtol=1e-5)


@invariant
def learning_rate_warms_up(world: World) -> None:
    """A tenth of the peak in round 0, 0.55 of it in round 5, the peak from round 10 on; both networks."""
    config = world.config(warmup=10, lr=1e-3, value_lr=2e-3, ptx_coef=0.0)
    parts = world.parts(config)
    judged = world.judged(parts, config)
    for iteration, factor in ((0, 0.1), (5, 0.55), (9, 0.91), (10, 1.0), (300, 1.0)):
        seen = watched_update(parts, judged, config, iteration)
        assert seen["policy_lr"][-1] == pytest.approx(factor * 1e-3, rel=1e-6)
        assert seen["value_lr"][-1] == pytest.approx(factor * 2e-3, rel=1e-6)


@invariant
def two_rounds_are_one_and_a_resume_and_one(world: World) -> None:
    """2N == N + kill + resume + N, bit by bit: policy, average, value network and optimizer state."""
    changes = {"save_every": 1, "lr": 1e-2, "value_lr": 1e-2, "kl_target": 1e-4, "kl_horizon": 20.0}
    whole, cut = world.config(**changes, beta=0.5), world.config(**changes, beta=0.5)
    train.train(whole)
    real = train.learn

    def killed(parts, judged, config, iteration):
        if iteration == 1:
            raise KeyboardInterrupt
        return real(parts, judged, config, iteration)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "learn", killed)
        with pytest.raises(KeyboardInterrupt):
            train.train(cut)
    train.train(cut)
    for file in ("model", "ema/model", "value/model", "train_state/tensors"):
        states = []
        for config in (whole, cut):
            folder = Path(config.out) / "checkpoints" / "step-000002"
            states.append(load_file(folder / f"{file}.safetensors"))
        close(states[1], states[0], atol=0.0, rtol=0.0)


@invariant
def all_stages_see_the_same_ids(world: World) -> None:
    """One BOS, and the same ids for the same words in SFT, reward model, scoring and RL."""
    folder, tokenizer = world.scratch(), world.tiny.tokenizer
    folder.mkdir()
    asked, said = "the red house", ["the cat sat", "a dog"]
    rows = {
        "demonstrations": {"prompt": asked, "response": said[0]},
        "prompts": {"prompt": asked},
        "rankings": {"prompt": asked, "responses": [{"text": t, "rank": i + 1} for i, t in enumerate(said)]},
    }
    for name, row in rows.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    rl = prepare.load_prompts(str(folder / "prompts.jsonl"), tokenizer, 160, world.config()).ids[0]
    data = str(folder / "demonstrations.jsonl")
    sft = examples.read_examples(SFTConfig(data=data, validation=data), tokenizer, 160).train[0].ids
    data = str(folder / "rankings.jsonl")
    ranked = comparisons.read_comparisons(RewardConfig(data=data, validation=data), tokenizer, 160)
    assert rl[0] == tokenizer.bos_id and rl.count(tokenizer.bos_id) == 1
    expected = [[*rl, *tokenizer.encode(text), tokenizer.end_of_turn_id] for text in said]
    assert sft == expected[0]
    assert ranked.train[0].sequences == expected
    scored: list[list[int]] = []
    model = scoring.load_reward(str(world.tiny.folder / "reward"))
    model.score_ids = lambda sequences: scored.extend(sequences) or torch.zeros(len(sequences))
    records: list[Ranking] = read_rankings(data)
    model.score([records[0].prompt.messages] * 2, said)
    assert [list(ids) for ids in scored] == expected


@invariant
def samples_come_from_the_policy_whole(world: World) -> None:
    """Lengths, ends and log-probs of sampled replies are those of the tempered policy, end included."""
    config = world.config(temperature=0.7, batch=48)
    parts = world.parts(config)
    stops = world.tiny.tokenizer.stop_ids
    with torch.no_grad():  # likelier ends, so that there are some to look at
        parts.learner.policy.unembedding[list(stops)] *= 4
    made = round.sample(parts, parts.prompts, config, 0)
    pairs = zip(made.prompt_ids, made.sequences(), strict=True)
    ended = 0
    for row, (prompt, ids) in enumerate(pairs):
        reply = ids[len(prompt) :]
        assert len(reply) == int(made.response_mask[row].sum())
        assert not set(reply[:-1]) & stops
        assert (reply[-1] in stops) == bool(made.stopped[row])
        assert bool(made.stopped[row]) or len(reply) == config.max_new
        with torch.no_grad():
            expected = slow_logprobs(parts.learner.policy, list(prompt), reply, 0.7)
        close(made.rollout_logprobs[row, : len(reply)], expected, atol=1e-3, rtol=1e-3)
        ended += bool(made.stopped[row])
    assert 0 < ended < 48
    again = round.sample(parts, parts.prompts, config, 1)
    assert again.prompt_ids != made.prompt_ids and again.sequences() != made.sequences()


@invariant
def the_price_follows_the_kl(world: World) -> None:
    """The adaptive coefficient, by hand: 1 + 0.1 * 0.05 above the target, 1 - 0.2 * 0.05 far below it."""
    assert kl.adapt_coefficient(0.15, 6.6, 6.0, 500) == pytest.approx(0.15 * 1.005)
    assert kl.adapt_coefficient(0.15, 0.0, 6.0, 500) == pytest.approx(0.15 * 0.99)
    config = world.config(iterations=2, kl_target=1e-6, kl_horizon=100.0, lr=1e-2, beta=0.1)
    train.train(config)
    rows = [json.loads(line) for line in world.rows(config)]
    # round 0 draws from the reference itself, its KL is 0 up to rounding, and 8 of 100 episodes pass
    assert rows[0]["beta"] == 0.1
    error = min(max(rows[0]["kl"] / 1e-6 - 1, -0.2), 0.2)
    assert rows[1]["beta"] == pytest.approx(0.1 * (1 + 0.08 * error), rel=1e-6)
