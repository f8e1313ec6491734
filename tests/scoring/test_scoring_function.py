"""Rewards from a function, and what is said when a spec or a function is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from instructgpt.errors import ConfigError
from instructgpt.scoring.reward import FunctionReward, load_reward
from instructgpt.text.chat import Message

PROMPTS = [(Message("user", "hi"),), (Message("system", "s"), Message("user", "ho"))]
REPLIES = ["one", "three"]

MODULE = """
import torch
NOT_CALLABLE = 3
def length(prompts, replies):
    assert prompts[1] == [{"role": "system", "content": "s"}, {"role": "user", "content": "ho"}]
    return [float(len(reply)) for reply in replies]
def tensor(prompts, replies):
    return torch.tensor([1, 2])
def short(prompts, replies):
    return [1.0]
def nan(prompts, replies):
    return [1.0, float("nan")]
def words(prompts, replies):
    return [1.0, "good"]
def nothing(prompts, replies):
    pass
"""


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module in the current folder, of a name that no other test has imported."""
    name = f"my_reward_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_function_of_the_current_folder(name: str) -> None:
    reward = load_reward(f"{name}:length")
    assert reward.score(PROMPTS, REPLIES) == [3.0, 5.0]
    assert reward.name == f"{name}:length"


def test_tensors_are_taken_too(name: str) -> None:
    assert load_reward(f"{name}:tensor").score(PROMPTS, REPLIES) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("short", "1 scores for 2 replies"),
        ("nothing", "NoneType for 2 replies"),
        ("nan", "nan for record 1, whose reply starts 'three'"),
        ("words", "'good' for record 1"),
    ],
)
def test_wrong_scores_name_function_and_record(name: str, function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_reward(f"{name}:{function}").score(PROMPTS, REPLIES)
    assert f"{name}:{function}" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no/such/folder", "no such folder"),
        ("ftp://example.org/score", "asked by ftp://"),
        ("no_such_module_here:f", "can't be imported"),
        ("{name}:missing", "has no function 'missing'"),
        ("{name}:NOT_CALLABLE", "has no function 'NOT_CALLABLE'"),
    ],
)
def test_a_wrong_spec_names_the_flag_and_the_cure(name: str, spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_reward(spec.format(name=name))
    assert "--reward" in str(caught.value) and "To mend it" in str(caught.value)


def test_prompts_and_replies_must_pair_up() -> None:
    reward = FunctionReward(lambda prompts, replies: [0.0] * len(replies), "zero")
    with pytest.raises(ValueError, match="2 prompts but 1 replies"):
        reward.score(PROMPTS, REPLIES[:1])
