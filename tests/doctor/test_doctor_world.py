"""world.py: closed forms by hand on a world of two replies, enumeration against itertools."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from instructgpt.doctor.world import (
    END,
    enumerate_world,
    independent_rewards,
    optimal_logprobs,
    optimum,
    reference_logits,
    structured_rewards,
)
from instructgpt.errors import ConfigError


def two_replies():
    """Replies [END] and [1] with probabilities 1/4 and 3/4 under the reference, rewards 1 and 0."""
    world = enumerate_world(2, 1, [(1,)])
    logits = torch.tensor([0.0, math.log(3.0)]).expand(world.nodes, 2)
    return world, world.reply_logprobs(logits), torch.tensor([[1.0, 0.0]])


def test_two_replies_by_hand() -> None:
    world, reference, rewards = two_replies()
    assert world.replies.tolist() == [[END], [1]]
    assert reference.exp().tolist()[0] == pytest.approx([0.25, 0.75], abs=1e-7)
    # J(pi_ref) = 1/4 * 1 + 3/4 * 0, without any KL
    assert world.objective(reference, reference, rewards, 0.5) == pytest.approx(0.25, abs=1e-7)
    # weights 1/4 e^(1/0.5) = 1.8472640 and 3/4: pi*([END]) = 1.8472640 / 2.5972640, J* = 0.5 ln 2.5972640
    best = optimal_logprobs(reference, rewards, 0.5)
    assert best.exp().tolist()[0] == pytest.approx([0.7112346, 0.2887654], abs=1e-6)
    assert optimum(reference, rewards, 0.5) == pytest.approx(0.4772293, abs=1e-6)
    assert world.objective(best, reference, rewards, 0.5) == pytest.approx(0.4772293, abs=1e-6)
    # KL = 0.7112346 ln(0.7112346 / 0.25) + 0.2887654 ln(0.2887654 / 0.75) = 0.4680106
    assert world.divergence(best, reference) == pytest.approx(0.4680106, abs=1e-6)
    # always [END]: reward 1, KL ln 4 = 1.3862944, J = 1 - 0.5 * 1.3862944
    sure = torch.tensor([[0.0, -1e9]], dtype=torch.float64)
    assert world.objective(sure, reference, rewards, 0.5) == pytest.approx(0.3068528, abs=1e-6)


def every_reply(vocab_size: int, max_new: int) -> set[tuple[int, ...]]:
    """Ended replies of 1 to max_new ids, and those of max_new ids that go on."""
    found = set()
    for length in range(1, max_new + 1):
        for ids in itertools.product(range(1, vocab_size), repeat=length - 1):
            found.add((*ids, END))
    return found | set(itertools.product(range(1, vocab_size), repeat=max_new))


def test_every_reply_is_there_once() -> None:
    world = enumerate_world(4, 3, [(2,), (1, 3)])
    found = [tuple(i for i in row if i >= 0) for row in world.replies.tolist()]
    assert len(found) == len(set(found)) == 1 + 3 + 9 + 27 == world.leaves.shape[1]
    assert set(found) == every_reply(4, 3)
    assert world.lengths.tolist() == [len(reply) for reply in found]


def test_leaves_are_where_the_ids_lead() -> None:
    world = enumerate_world(4, 3, [(2,), (1, 3)])
    for row, prompt in enumerate(world.prompts):
        for column, reply in enumerate(world.replies.tolist()):
            node = 0
            for index in [*prompt, *(i for i in reply if i >= 0)]:
                assert node == 0 or node < world.nodes
                node = int(world.child[node, index])
            assert node == world.leaves[row, column]
    assert len(set(world.leaves.flatten().tolist())) == world.leaves.numel()


def test_probabilities_sum_to_one_and_are_products() -> None:
    world = enumerate_world(4, 3, [(2,), (1, 3)])
    logits = reference_logits(world, 1.0, seed=3)
    logprobs = world.reply_logprobs(logits)
    torch.testing.assert_close(logprobs.exp().sum(1), torch.ones(2, dtype=torch.float64))
    table = torch.softmax(logits.double(), dim=1)
    column = world.replies.tolist().index([3, 1, END])
    node, probability = int(world.child[int(world.child[0, 1]), 3]), 1.0  # the second prompt, 1 then 3
    for index in (3, 1, END):
        probability *= float(table[node, index])
        node = int(world.child[node, index])
    assert float(logprobs[1, column].exp()) == pytest.approx(probability, rel=1e-12)


def test_no_policy_is_above_the_optimum() -> None:
    world = enumerate_world(4, 3, [(2,), (1, 3)])
    reference = world.reply_logprobs(reference_logits(world, 1.0, seed=3))
    rewards = independent_rewards(world, seed=4)
    best = optimum(reference, rewards, 0.3)
    optimal = optimal_logprobs(reference, rewards, 0.3)
    assert world.objective(optimal, reference, rewards, 0.3) == pytest.approx(best, abs=1e-12)
    for seed in range(20):
        noise = torch.randn(optimal.shape, generator=torch.Generator().manual_seed(seed)).double()
        other = torch.log_softmax(optimal + 0.3 * noise, dim=1)
        assert world.objective(other, reference, rewards, 0.3) < best


def test_a_shift_of_rewards_shifts_the_optimum_and_moves_no_policy() -> None:
    _, reference, rewards = two_replies()
    assert optimum(reference, rewards + 10, 0.5) == pytest.approx(10.4772293, abs=1e-6)
    torch.testing.assert_close(
        optimal_logprobs(reference, rewards + 10, 0.5), optimal_logprobs(reference, rewards, 0.5)
    )


def test_structured_rewards_are_standardised_and_shared() -> None:
    world = enumerate_world(5, 3, [(2,), (1, 3)])
    reference = world.reply_logprobs(reference_logits(world, 1.0, seed=3))
    rewards = structured_rewards(world, reference, seed=5).double()
    weight = reference.exp() / 2
    assert float((weight * rewards).sum()) == pytest.approx(0.0, abs=1e-6)
    assert float((weight * rewards**2).sum()) == pytest.approx(1.0, abs=1e-6)
    at = {tuple(reply): rewards[0, column].item() for column, reply in enumerate(world.replies.tolist())}
    # what the first id brings does not depend on the third: a sum over places and neighbours
    gains = {at[1, 2, last] - at[4, 2, last] for last in range(5)}
    assert max(gains) - min(gains) < 1e-5
    assert abs(at[1, 2, 3] - at[4, 2, 3]) > 1e-3


def test_worlds_that_are_refused() -> None:
    # 8 ids and 4 places: 1 + 7 + 49 + 343 + 7^4 = 2,801 replies; two prompts are past 4,096
    assert enumerate_world(8, 4, [(1, 2)]).leaves.shape == (1, 2801)
    with pytest.raises(ConfigError, match="5602 replies"):
        enumerate_world(8, 4, [(1,), (2,)])
    with pytest.raises(ConfigError, match="same id"):
        enumerate_world(3, 2, [(1,), (1, 2)])
