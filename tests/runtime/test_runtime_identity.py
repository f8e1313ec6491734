"""What a user is told who goes on with a run by other settings."""

from pathlib import Path

import pytest

from instructgpt.runtime.identity import RunChanged, compare


def refused(before: dict, after: dict, **inputs: tuple[str, str]) -> str:
    old, new = (
        {"verb": "ppo", "config": config, "inputs": {name: pair[place] for name, pair in inputs.items()}}
        for place, config in enumerate((before, after))
    )
    with pytest.raises(RunChanged) as caught:
        compare(old, new, Path("runs/mine"))
    return str(caught.value)


def test_flags_that_go_on_as_the_run_began_are_said() -> None:
    said = refused({"dtype": "float32", "old_logprobs": "update"}, {"dtype": "auto", "old_logprobs": "auto"})
    assert "dtype: float32 -> auto; old_logprobs: update -> auto" in said
    assert "or go on as it began: --dtype float32 --old-logprobs update" in said


@pytest.mark.parametrize(
    ("before", "after", "inputs"),
    [
        ({"lr": 0.1}, {"lr": 0.2}, {"model": ("one", "other")}),  # the old input may be gone
        ({"stop": ["a"]}, {"stop": ["b"]}, {}),  # no plain flag
        ({"judge": ""}, {"judge": "a"}, {}),
        (dict.fromkeys("abcd", 1), dict.fromkeys("abcd", 2), {}),  # too many: another run is meant
    ],
)
def test_no_flags_are_said_where_they_would_not_do(before: dict, after: dict, inputs: dict) -> None:
    said = refused(before, after, **inputs)
    assert "choose another --out" in said and "as it began" not in said
