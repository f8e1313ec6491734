"""Bradley-Terry against the algorithm of 1929, by hand, and on a known world."""

import math

import pytest
import torch

from instructgpt.maths.bradley_terry import ELO_PER_NAT, groups, islands, strengths


def zermelo(wins: torch.Tensor) -> torch.Tensor:
    """The slow way (Zermelo 1929, Hunter 2004): p_i <- wins of i / sum over j of n_ij / (p_i + p_j)."""
    won = wins.tolist()
    count = len(won)
    others = [[j for j in range(count) if j != i] for i in range(count)]
    p = [1.0] * count
    for _ in range(3000):
        met = [sum((won[i][j] + won[j][i]) / (p[i] + p[j]) for j in others[i]) for i in range(count)]
        new = [sum(won[i][j] for j in others[i]) / met[i] for i in range(count)]
        middle = math.exp(sum(math.log(each) for each in new) / count)
        p = [each / middle for each in new]
    return torch.tensor([math.log(each) for each in p], dtype=torch.float64)


def test_two_models_by_hand() -> None:
    # won 30.5 of 40: odds 30.5 / 9.5; the diagonal does not count
    wins = torch.tensor([[7.0, 30.5], [9.5, 4.0]])
    found = strengths(wins)
    assert float(found[0] - found[1]) == pytest.approx(math.log(30.5 / 9.5), abs=1e-12)
    assert float(found.sum()) == pytest.approx(0, abs=1e-12)
    # ten to one is 400 points
    assert ELO_PER_NAT * math.log(10) == pytest.approx(400, abs=1e-12)


def test_four_models_against_zermelo() -> None:
    wins = torch.tensor(
        [[0.0, 5.0, 7.5, 0.0], [3.0, 0.0, 4.0, 6.0], [2.5, 1.0, 0.0, 3.0], [0.0, 2.0, 4.0, 0.0]]
    )
    assert strengths(wins).tolist() == pytest.approx(zermelo(wins).tolist(), abs=1e-8)


def test_a_batch_is_each_alone_and_a_prior_shrinks() -> None:
    wins = torch.tensor([[[0.0, 3.0, 1.0], [1.0, 0.0, 2.0], [1.0, 4.0, 0.0]]]).repeat(2, 1, 1)
    wins[1, 0, 1] = 9.0
    both = strengths(wins)
    assert both[1].tolist() == pytest.approx(strengths(wins[1]).tolist(), abs=1e-9)
    assert torch.equal(strengths(wins[None]), both[None])  # in as many dimensions as one likes
    held = strengths(wins, precision=1.0)
    assert bool((held.abs().sum(1) < both.abs().sum(1)).all())
    # a prior so weak that it says nothing
    assert strengths(wins, precision=1e-7).flatten().tolist() == pytest.approx(
        both.flatten().tolist(), abs=1e-5
    )


def test_who_won_everything_stands_alone() -> None:
    # 0 beat everyone and never lost; 1 and 2 beat each other; 3 lost all
    wins = torch.zeros(4, 4)
    wins[0, 1] = wins[0, 2] = wins[1, 2] = wins[2, 1] = wins[1, 3] = wins[2, 3] = 1.0
    assert groups(wins) == [[0], [1, 2], [3]]
    assert islands(wins) == [[0, 1, 2, 3]]
    held = strengths(wins, precision=0.04)
    assert held[0] > held[1] and held[1] == pytest.approx(held[2]) and held[2] > held[3]


def test_who_never_met() -> None:
    wins = torch.zeros(5, 5)
    wins[0, 3] = wins[4, 1] = 1.0
    assert islands(wins) == [[0, 3], [1, 4], [2]]


def test_ties_alone_make_everyone_equal() -> None:
    wins = torch.full((3, 3), 2.5)
    assert strengths(wins).tolist() == pytest.approx([0, 0, 0], abs=1e-12) and groups(wins) == [[0, 1, 2]]
