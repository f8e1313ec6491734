"""The order of demonstrations and the choice among checkpoints."""

import pytest

from instructgpt.sft.examples import Stream
from instructgpt.sft.selection import rank
from instructgpt.sft.settings import SFTConfig
from instructgpt.text.chat import Rendered


def test_every_epoch_sees_each_demonstration_once() -> None:
    """7 demonstrations, 2 epochs, 4 a step: 4 steps of 4, 4, 4 and 2."""
    examples = [Rendered([n], [True]) for n in range(7)]
    stream = Stream(examples, batch=4, seed=0, epochs=2.0)
    assert stream.steps == 4
    steps = [[example.ids[0] for example in stream.batch(step)] for step in range(4)]
    assert [len(step) for step in steps] == [4, 4, 4, 2]
    seen = [number for step in steps for number in step]
    assert sorted(seen[:7]) == sorted(seen[7:]) == list(range(7))
    assert seen[:7] != seen[7:]
    # Any step can be had first: nothing depends on what was drawn before.
    assert [example.ids[0] for example in Stream(examples, 4, 0, 2.0).batch(2)] == steps[2]


def test_a_part_of_an_epoch() -> None:
    """Half an epoch of 8 demonstrations is 4 of them, two steps of 2."""
    assert Stream([Rendered([n], [True]) for n in range(8)], batch=2, seed=0, epochs=0.5).steps == 2


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (
            {"9": {"reward": 2.0, "validation_loss": 1.0}, "10": {"reward": 1.0, "validation_loss": 0.5}},
            ([9, 10], "reward"),
        ),
        ({"9": {"validation_loss": 1.0}, "10": {"validation_loss": 0.5}}, ([10, 9], "validation_loss")),
        ({"10": {"validation_loss": 1.0}, "9": {"validation_loss": 1.0}}, ([9, 10], "validation_loss")),
        ({"9": {"eos_rate": 1.0}, "10": {"eos_rate": 0.5}}, ([10, 9], "last")),
        (
            {"9": {"validation_loss": 1.0, "reward": 2.0}, "10": {"validation_loss": 0.5}},
            ([10, 9], "validation_loss"),
        ),
        ({"10": {"reward": 1.0}, "9": {"reward": 1.0}, "20": {"reward": 2.0}}, ([20, 9, 10], "reward")),
    ],
)
def test_the_choice(candidates: dict[str, dict[str, float]], expected: tuple[list[int], str]) -> None:
    """Of two equal checkpoints the earlier is the better."""
    assert rank(candidates) == expected


def test_the_mix_is_a_share_of_the_step() -> None:
    """10 % of 40 sequences are 4 beside 36 demonstrations; at least one; none without text."""
    assert SFTConfig(batch=36, pretrain_data="x", pretrain_fraction=0.1).pretrain_windows == 4
    assert SFTConfig(batch=2, pretrain_data="x", pretrain_fraction=0.1).pretrain_windows == 1
    assert SFTConfig(batch=36, pretrain_fraction=0.1).pretrain_windows == 0
