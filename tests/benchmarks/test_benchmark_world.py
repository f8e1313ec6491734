"""`make verify` holds its bounds: a summary made by hand passes, and each figure made worse fails."""

import copy
from typing import Any

import pytest

from benchmarks.world import check, page


def good() -> dict[str, Any]:
    return {
        "models": {"sft": {"utility": 0.5}},
        "reward_model": {
            "agreement": 0.73,
            "accuracy": 0.73,
            "baselines": {"longer": 0.52, "shorter": 0.48, "bag_of_words": 0.62},
            "labels": {"accuracy": 0.65, "true_utility": 0.78},
        },
        "win_rate": {"ppo_ptx_over_sft": {"mean": 0.6, "low": 0.57}},
        "tax": {"ppo_drift": 0.2, "ppo_ptx_drift": 0.05},
        "gain": {"over_sft": {"ppo_ptx": {"mean": 0.06}, "best_of_4": {"mean": 0.1}}},
        "curves": {
            "ppo_drift": [
                {"reward": 0.0, "utility": 0.5},
                {"reward": 0.5, "utility": 0.6},
                {"reward": 1.5, "utility": 0.4},
            ]
        },
        "seconds": 500.0,
        "peak_memory_mib": 2000.0,
        "table": "a table",
    }


def test_a_good_world_misses_nothing() -> None:
    rows, missed = check({0: good(), 1: good()})
    assert missed == 0
    # 0.65 / 0.78, and 0.05 / 0.2
    assert any("0.833 | 0.833" in row for row in rows) and any("0.250 | 0.250" in row for row in rows)
    assert "0 of" in page({0: good(), 1: good()}, rows, missed)


@pytest.mark.parametrize(
    ("path", "worse"),
    [
        (("models", "sft", "utility"), 0.75),
        (("reward_model", "agreement"), 0.8),
        (("reward_model", "accuracy"), 0.66),
        (("reward_model", "labels", "accuracy"), 0.55),
        (("win_rate", "ppo_ptx_over_sft", "low"), 0.52),
        (("win_rate", "ppo_ptx_over_sft", "mean"), 0.5),
        (("tax", "ppo_drift"), 0.01),
        (("tax", "ppo_ptx_drift"), 0.11),
        (("gain", "over_sft", "ppo_ptx", "mean"), 0.0),
        (("seconds",), 700.0),
        (("peak_memory_mib",), 4000.0),
    ],
)
def test_one_bad_seed_is_seen(path: tuple[str, ...], worse: float) -> None:
    bad = copy.deepcopy(good())
    place = bad
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = worse
    rows, missed = check({0: good(), 1: bad})
    assert missed >= 1 and any("**no**" in row for row in rows)
