"""tables.py: the real engine, scoring and log-prob code see the table, the whole table and nothing else."""

from __future__ import annotations

import pytest
import torch

from instructgpt.data.collate import pack_ids
from instructgpt.data.records import Prompt
from instructgpt.doctor.tables import policy_logits, tabular_policy, tabular_scalar, world_tokenizer
from instructgpt.doctor.world import END, enumerate_world, reference_logits
from instructgpt.rlhf.rollout import episode_logprobs, episode_values, micro_batches, sample_episodes
from instructgpt.runtime.optim import adamw
from instructgpt.scoring.batches import score_ids


@pytest.fixture
def world():
    return enumerate_world(4, 3, [(1, 2), (3,)])


@pytest.fixture
def logits(world):
    return reference_logits(world, 1.0, seed=3)


def walked(world, ids) -> list[int]:
    """Nodes along a sequence, by following the tree."""
    nodes = [0]
    for index in ids:
        nodes.append(int(world.child[nodes[-1], index]))
    return nodes


def draw(world, policy, copies: int, max_active: int):
    prompts = [Prompt.of(f"p{row}") for row in range(len(world.prompts))] * copies
    return sample_episodes(
        policy,
        prompts,
        world.prompts * copies,
        stop_ids=frozenset({END}),
        max_new=world.max_new,
        temperature=1.0,
        seed=5,
        iteration=0,
        max_active=max_active,
    )


def test_logits_are_rows_of_the_table_packed(world, logits) -> None:
    policy = tabular_policy(world, logits)
    sequences = [(1, 2, 3, 1), (3,), (3, 0), (1, 2)]
    ids, positions, lengths = pack_ids(sequences)
    rows = [node for sequence in sequences for node in walked(world, sequence)[1:]]
    torch.testing.assert_close(policy.logits(policy(ids, positions, lengths)), logits[rows])


@pytest.mark.parametrize("max_active", [1, 3, 100])
def test_logprobs_of_sampler_and_update_are_the_tables(world, logits, max_active) -> None:
    policy = tabular_policy(world, logits)
    episodes = draw(world, policy, 12, max_active)
    micros = micro_batches(episodes, range(24), 40)
    found = episode_logprobs(policy, episodes, micros, 1.0)
    table = torch.log_softmax(logits, dim=1)
    for row, ids in enumerate(episodes.sequences()):
        start = len(episodes.prompt_ids[row])
        nodes = walked(world, ids)
        for t, index in enumerate(ids[start:]):
            expected = float(table[nodes[start + t], index])
            assert float(found[row, t]) == pytest.approx(expected, abs=1e-6)
            assert float(episodes.rollout_logprobs[row, t]) == pytest.approx(expected, abs=1e-6)
    assert len(set(episodes.response_length.tolist())) == 3  # of one, two and three ids: rows come and go


def test_the_engine_draws_from_the_exact_distribution(world, logits) -> None:
    """Chi-square of 40 replies to each of two prompts, 4,000 draws each: 78 degrees of freedom."""
    episodes = draw(world, tabular_policy(world, logits), 4000, max_active=512)
    expected = 4000 * world.reply_logprobs(logits).exp()
    place = {tuple(i for i in row if i >= 0): n for n, row in enumerate(world.replies.tolist())}
    counts = torch.zeros_like(expected)
    replies, lengths = episodes.response_ids.tolist(), episodes.response_length.tolist()
    for row, (reply, length) in enumerate(zip(replies, lengths, strict=True)):
        counts[row % 2, place[tuple(reply[:length])]] += 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    # mean 78, standard deviation sqrt(2 * 78) = 12.5: four of them either way
    assert 28 < statistic < 128


def test_a_scalar_table_is_read_at_the_last_id_and_before_each_reply_id(world) -> None:
    values = torch.arange(world.nodes, dtype=torch.float32)
    model = tabular_scalar(world, values)
    sequences = [(1, 2, 3, 0), (3, 1, 1, 1), (3, 0)]
    assert score_ids(model, sequences).tolist() == [float(walked(world, s)[-1]) for s in sequences]
    episodes = draw(world, tabular_policy(world, reference_logits(world, 1.0, 3)), 3, 64)
    found = episode_values(model, episodes, micro_batches(episodes, range(6), 1000))
    for row, ids in enumerate(episodes.sequences()):
        start, nodes = len(episodes.prompt_ids[row]), walked(world, ids)
        expected = [float(node) for node in nodes[start:-1]]
        assert found[row, : len(expected)].tolist() == expected


def test_only_the_rows_that_were_met_learn(world, logits) -> None:
    policy = tabular_policy(world, logits)
    optimizer = adamw(policy, lr=0.1)
    assert [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]] == [logits.shape]
    ids, positions, lengths = pack_ids([(1, 2, 3)])
    policy.logits(policy(ids, positions, lengths)).pow(2).sum().backward()
    optimizer.step()
    moved = (policy_logits(policy) != logits).any(1).nonzero().flatten().tolist()
    assert moved == sorted(walked(world, (1, 2, 3))[1:])


def test_the_tokenizer_has_a_word_for_each_id(world) -> None:
    tokenizer = world_tokenizer(world)
    assert tokenizer.vocab_size == 4
    assert tokenizer.stop_ids == {END}
    assert [tokenizer.token(index) for index in range(4)] == ["<end>", "w1", "w2", "w3"]
