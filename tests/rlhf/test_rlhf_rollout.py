"""rollout.py: what is read off for a token is what a slow loop over one reply at a time reads off."""

from __future__ import annotations

import torch

from instructgpt.generation.engine import Completion
from instructgpt.rlhf.rollout import (
    build_episodes,
    episode_logprobs,
    episode_scores,
    episode_values,
    micro_batches,
    sample_episodes,
    score_rollout,
)
from instructgpt.scoring.reward import FunctionReward, load_reward
from instructgpt.text.chat import render_prompt


def test_lengths_and_masks_come_from_the_data(episodes) -> None:
    """Field faults 4 and 6: where a reply ends is carried, even where ids equal the padding."""
    assert episodes.response_length.tolist() == [1, 3, 6, 2, 6, 4, 1, 5]
    assert episodes.last_index.tolist() == [0, 2, 5, 1, 5, 3, 0, 4]
    assert episodes.response_mask.sum(1).tolist() == [1, 3, 6, 2, 6, 4, 1, 5]
    assert episodes.prompt_length.tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    zeros = build_episodes(episodes.prompts[:1], [[5]], [Completion([0, 0], [-1.0, -2.0], False)])
    assert zeros.sequences() == [[5, 0, 0]]
    assert zeros.response_mask.tolist() == [[True, True]]


def test_texts_leave_the_end_out(tiny, episodes) -> None:
    ids = [*tiny.tokenizer.encode("the cat"), tiny.tokenizer.end_of_turn_id]
    made = build_episodes(
        episodes.prompts[:2],
        [[5], [6]],
        [Completion(ids, [-1.0] * len(ids), True), Completion(ids[:-1], [-1.0] * (len(ids) - 1), False)],
    )
    assert made.texts(tiny.tokenizer) == ["the cat", "the cat"]


def test_logprobs_and_values_equal_a_loop_over_single_replies(episodes, models) -> None:
    """Invariant 4, field fault 8: packed in any cut == one row alone with the whole softmax."""
    policy, _, value = models
    for max_tokens in (1, 20, 10_000):
        micros = micro_batches(episodes, range(8), max_tokens)
        logprobs = episode_logprobs(policy, episodes, micros, 0.7)
        values = episode_values(value, episodes, micros)
        for row in range(8):
            n, p = int(episodes.response_length[row]), len(episodes.prompt_ids[row])
            ids = torch.tensor([*episodes.prompt_ids[row], *episodes.response_ids[row, :n].tolist()])
            with torch.no_grad():
                hidden = policy(ids, torch.arange(n + p), [n + p])
                full = torch.log_softmax(policy.logits(hidden).double() / 0.7, dim=1)
                v = value.score(value(ids, torch.arange(n + p), [n + p]))
            for t in range(n):
                # the state before token t ends at place p + t - 1
                torch.testing.assert_close(
                    logprobs[row, t].double(), full[p + t - 1, ids[p + t]], atol=1e-5, rtol=1e-5
                )
                torch.testing.assert_close(values[row, t], v[p + t - 1], atol=1e-5, rtol=1e-5)
            assert logprobs[row, n:].abs().sum() == 0 and values[row, n:].abs().sum() == 0


def test_rows_can_be_chosen_in_any_order(episodes, models) -> None:
    whole = episode_logprobs(models[0], episodes, micro_batches(episodes, range(8), 10_000), 1.0)
    some = episode_logprobs(models[0], episodes, micro_batches(episodes, [6, 2], 10_000), 1.0)
    torch.testing.assert_close(some[[2, 6]], whole[[2, 6]], atol=1e-5, rtol=1e-5)
    assert some[[0, 1, 3, 4, 5, 7]].abs().sum() == 0


def _sample(tiny, policy, prompts, **changes):
    ids = [render_prompt(tiny.tokenizer, prompt.messages) for prompt in prompts]
    values = {
        "stop_ids": tiny.tokenizer.stop_ids,
        "max_new": 6,
        "temperature": 1.0,
        "seed": 0,
        "iteration": 3,
    }
    return sample_episodes(policy, prompts, ids, **(values | changes))


def test_a_reply_does_not_depend_on_its_batch(tiny, models, prompts) -> None:
    together = _sample(tiny, models[0], prompts)
    narrow = _sample(tiny, models[0], prompts, max_active=2)
    alone = _sample(tiny, models[0], prompts[5:6])
    assert together.sequences() == narrow.sequences()
    assert alone.sequences()[0] == together.sequences()[5]


def test_replies_differ_by_round_seed_and_repetition(tiny, models, prompts) -> None:
    base = _sample(tiny, models[0], prompts[:1] * 2)
    assert base.sequences()[0] != base.sequences()[1]
    for changes in ({"iteration": 4}, {"seed": 1}):
        assert _sample(tiny, models[0], prompts[:1] * 2, **changes).sequences() != base.sequences()


def test_sampler_and_update_agree(tiny, models, prompts) -> None:
    """Field fault 11: the log-probs of the sampler are those of the update, at a temperature other than 1."""
    for temperature in (1.0, 0.6):
        made = _sample(tiny, models[0], prompts, temperature=temperature)
        micros = micro_batches(made, range(len(prompts)), 64)
        recomputed = episode_logprobs(models[0], made, micros, temperature)
        torch.testing.assert_close(made.rollout_logprobs, recomputed, atol=1e-4, rtol=1e-4)


def test_scores_are_read_at_the_last_real_token(tiny, episodes) -> None:
    """Field faults 4-7: a loop over single replies, each cut to its own length."""
    reward = load_reward(str(tiny.folder / "reward"))
    scores = episode_scores(reward, episodes, tiny.tokenizer)
    for row in range(8):
        n = int(episodes.response_length[row])
        ids = torch.tensor([*episodes.prompt_ids[row], *episodes.response_ids[row, :n].tolist()])
        with torch.no_grad():
            hidden = reward.model(ids, torch.arange(len(ids)), [len(ids)])
            expected = hidden[-1] @ reward.model.head.weight[0] - 0.25
        torch.testing.assert_close(scores[row], expected, atol=1e-5, rtol=1e-5)


def test_a_function_sees_messages_and_texts(tiny, episodes) -> None:
    seen = {}

    def judge(prompts, replies):
        seen["prompts"], seen["replies"] = prompts, replies
        return [float(i) for i in range(len(replies))]

    scores = episode_scores(FunctionReward(judge, "judge"), episodes, tiny.tokenizer)
    assert scores.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert seen["prompts"][3] == [{"role": "user", "content": "number 3"}]
    assert seen["replies"] == episodes.texts(tiny.tokenizer)


def test_the_samplers_logprobs_can_stand_in_for_a_pass(tiny, episodes, models) -> None:
    policy, reference, value = models
    reward = load_reward(str(tiny.folder / "reward"))
    made = {
        choice: score_rollout(
            episodes, policy, reference, value, reward, tiny.tokenizer, tiny.config(old_logprobs=choice)
        )
        for choice in ("update", "rollout")
    }
    torch.testing.assert_close(made["rollout"].old_logprobs, episodes.rollout_logprobs)
    assert not torch.allclose(made["update"].old_logprobs, episodes.rollout_logprobs)
