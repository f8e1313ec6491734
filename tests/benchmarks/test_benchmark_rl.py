"""The races of reward models and PPO: their floors, and our side on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import inputs, ppo, reward
from benchmarks.inputs import SIZES, Size, make_models


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size S is one layer of width 16 with 200 words, in a folder of its own; little work."""
    monkeypatch.setattr(inputs, "FOLDER", tmp_path)
    monkeypatch.setitem(SIZES, "S", Size(200, 1, 16, 2, 12 * 16**2 + 200 * 16))
    monkeypatch.setattr(ppo, "EPISODES", {"S": 8, "M": 8})
    monkeypatch.setattr(ppo, "ROUNDS", 2)
    monkeypatch.setattr(reward, "PAIRS", {"S": 16})
    make_models(["S"])


def test_the_floors_are_the_projects_own() -> None:
    races = [reward.race("S"), reward.race("M"), ppo.race("S"), ppo.race("M"), ppo.race("M", early=True)]
    found = [[(f.contender, f.of, f.bound) for f in race.floors] for race in races]
    assert found == [
        [("ours", "rate", 2.5)],
        [("ours", "rate", 2.5)],
        [("ours", "rate", 2.2)],
        [("ours", "rate", 2.2), ("ours", "memory", 0.75), ("ours, LoRA", "memory", 0.45)],
        [("ours", "rate", 4.0)],
    ]
    for race in races:
        names = {contender.name for contender in race.contenders}
        assert {floor.contender for floor in race.floors} <= names and "TRL" in names


def test_a_pair_fits_and_is_counted_whole() -> None:
    """6 x 3,145,728 weights of the body of S, times the mean tokens of both sides."""
    both = [2 * len(p) + len(a) + len(b) for p, a, b in reward.pairs("S")]
    assert max(max(len(p) + len(a), len(p) + len(b)) for p, a, b in reward.pairs("S")) <= 512
    assert reward.flops("S") == pytest.approx(6 * 3_145_728 * sum(both) / 64)


def test_reward_steps(tiny: None) -> None:
    found = reward.ours("S")
    assert len(found.rates) == reward.EPOCHS - 1 and min(found.rates) > 0
    assert found.facts["dtype"] == "float32" and len(found.facts["losses"]) == reward.EPOCHS
    assert found.facts["losses"][-1] < found.facts["losses"][0]


@pytest.mark.parametrize("rank", [0, 2])
def test_ppo_rounds(tiny: None, rank: int) -> None:
    ppo.prepare("S", False)
    found = ppo.ours("S", rank=rank)
    facts: Any = found.facts
    assert len(found.rates) == 1 and found.rates[0] > 0
    assert facts["dtype"] == "float32" and facts["old_logprobs"] == "rollout"
    assert facts["reply_tokens"] == ppo.REPLY
