"""Votes and judges' choices: read, matched, judged in both orders; win rates and ratings of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from scipy import stats

from instructgpt.data.records import Prompt
from instructgpt.errors import ConfigError, DataError
from instructgpt.evaluation.preference.comparisons import (
    Comparison,
    Replies,
    names,
    read_comparisons,
    read_replies,
)
from instructgpt.evaluation.preference.judging import Pair, by_choices, by_scores
from instructgpt.evaluation.preference.rates import Votes, at_any_time, clusterings, win_rate
from instructgpt.evaluation.preference.ratings import ratings

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "preference"


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ranked(prompt: str, labeler: str, **ranks: int) -> dict[str, object]:
    replies = [{"text": f"{name} says", "rank": rank, "model": name} for name, rank in ranks.items()]
    return {"prompt": prompt, "responses": replies, "labeler": labeler}


# -- reading


def test_an_export_gives_every_pair_of_different_models(tmp_path: Path) -> None:
    path = write(tmp_path / "rankings.jsonl", ranked("p", "ann", sft=2, ppo=1, base=2))
    found = read_comparisons(path)
    assert [(one.first, one.second, one.outcome, one.judge) for one in found] == [
        ("sft", "ppo", 0.0, "ann"),
        ("sft", "base", 0.5, "ann"),
        ("ppo", "base", 1.0, "ann"),
    ]
    assert found[0].lengths == (8, 8) and found[0].of("ppo") == 1.0 and names(found) == ["sft", "ppo", "base"]
    twice = ranked("p", "ann", sft=1)
    twice["responses"] = [{"text": t, "rank": r, "model": "sft"} for r, t in enumerate("ab", start=1)]
    with pytest.raises(DataError, match="no two replies of different models"):
        read_comparisons(write(tmp_path / "same.jsonl", twice))


def test_a_reply_without_its_model_is_named(tmp_path: Path) -> None:
    row = ranked("p", "ann", sft=1, ppo=2)
    del row["responses"][1]["model"]  # type: ignore[index]
    path = write(tmp_path / "rankings.jsonl", ranked("q", "ann", sft=1, ppo=2), row)
    with pytest.raises(DataError, match=r"starts 'ppo says' doesn't say which model.*record 2"):
        read_comparisons(path)


def test_rows_of_the_arena(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "model_a": "a", "model_b": "b", "winner": "model_b", "judge": "j"},
        {"question_id": 4, "model_a": "a", "model_b": "b", "winner": "tie (bothbad)"},
        {
            **{"prompt": "q", "model_a": "b", "model_b": "a", "preference": "a-is-slightly-better"},
            **{"completion_a": "four", "completion_b": "to", "annotator": "k"},
        },
    ]
    found = read_comparisons(write(tmp_path / "votes.jsonl", *rows))
    assert [(one.outcome, one.judge, one.lengths) for one in found] == [
        (0.0, "j", None),
        (0.5, "", None),
        (1.0, "k", (4, 2)),
    ]
    for change, message in (
        ({"winner": "c"}, "'winner' is 'c'"),
        ({"model_b": "a"}, "compared with itself"),
        ({"model_b": None}, "no 'model_b'"),
        ({"prompt": None}, "no 'prompt'"),
    ):
        with pytest.raises(DataError, match=rf"{message}.*wrong.jsonl:1"):
            read_comparisons(write(tmp_path / "wrong.jsonl", rows[0] | change))


def test_rows_that_are_not_matched_are_named(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", *({"prompt": f"p{i}", "response": "x"} for i in range(6)))
    second = write(tmp_path / "b.jsonl", *({"prompt": f"p{i}", "response": "y"} for i in range(1)))
    with pytest.raises(DataError, match=r"b has no reply to 5 of 6 prompts: \w+ \('p1'\).* and 2 more"):
        read_replies(f"a={first},b={second}")
    with pytest.raises(DataError, match="a has no reply to 5 of 6"):
        read_replies(f"b={first},a={second}")
    double = write(tmp_path / "c.jsonl", *({"prompt": "p", "response": r} for r in "xy"))
    with pytest.raises(DataError, match=r"c answers the prompt .* twice"):
        read_replies(f"a={first},c={double}")
    for spec, message in (
        (f"a={first},a={first}", "'a' is there twice"),
        (f"a={first},b", "'b' does not name"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_replies(spec)
    with pytest.raises(ConfigError, match="only one model"):
        read_replies(f"a={first}")


def test_samples_of_eval_hold_all_models(tmp_path: Path) -> None:
    rows = [
        {"id": f"i{i}", "prompt": f"p{i}", "replies": {"a": {"text": f"a{i}"}, "b": {"text": f"b{i}"}}}
        for i in range(2)
    ]
    found = read_replies(str(write(tmp_path / "samples.jsonl", *rows)))
    assert [prompt.id for prompt in found.prompts] == ["i0", "i1"] and found.texts["b"] == ("b0", "b1")
    del rows[1]["replies"]["b"]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"b has no reply to 1 of 2 prompts: i1 \('p1'\)"):
        read_replies(str(write(tmp_path / "samples.jsonl", *rows)))


# -- judging

REPLIES = Replies(
    tuple(Prompt.of(f"p{i}", id=f"i{i}") for i in range(3)),
    {"old": ("aa", "b", "c"), "new": ("x", "yy", "z")},
)


class Longer:
    """Scores by length."""

    name = "length"

    def score(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        return [float(len(reply)) for reply in replies]


class Chooser:
    """Says what a table says: (row, model shown first) -> choice."""

    name = "table"

    def __init__(self, said: dict[tuple[int, str], float | None]) -> None:
        self.said = said

    def choose(self, replies: Replies, pairs: Sequence[Pair]) -> list[float | None]:
        return [self.said[pair.prompt, pair.first] for pair in pairs]


def test_scores_are_compared_row_by_row() -> None:
    found = by_scores(Longer(), REPLIES, "old")
    assert [(one.first, one.prompt, one.outcome) for one in found.comparisons] == [
        ("new", "i0", 0.0),
        ("new", "i1", 1.0),
        ("new", "i2", 0.5),
    ]
    assert found.first_rate is None and found.comparisons[1].lengths == (2, 1)


def test_both_orders_and_what_a_taste_for_a_place_does() -> None:
    said: dict[tuple[int, str], float | None] = {
        (0, "new"): 1.0, (0, "old"): 0.0,  # new both times
        (1, "new"): 1.0, (1, "old"): 1.0,  # whichever is first
        (2, "new"): 0.5, (2, "old"): 1.0,  # a tie, then old
    }  # fmt: skip
    found = by_choices(Chooser(said), REPLIES, "old")
    assert [one.outcome for one in found.comparisons] == [1.0, 0.5, 0.25]
    # first: 1 + 0 + 1 + 1 + 0.5 + 1 of 6; both orders agree on the first pair alone
    assert found.first_rate == pytest.approx(4.5 / 6) and found.consistent == pytest.approx(1 / 3)
    said[1, "old"] = None
    left = by_choices(Chooser(said), REPLIES, "old")
    assert left.unreadable == 1 and [one.prompt for one in left.comparisons] == ["i0", "i2"]
    assert left.first_rate == pytest.approx(3.5 / 5)


# -- win rates


def votes(*outcomes: float, prompts: str = "", judges: str = "") -> list[Comparison]:
    """One comparison an outcome; letters name prompts and judges."""
    return [
        Comparison(
            prompts[i] if prompts else str(i), "new", "old", outcome, judges[i] if judges else "j", (9, 9)
        )
        for i, outcome in enumerate(outcomes)
    ]


def test_a_prompt_counts_once_and_sides_are_turned() -> None:
    rows = votes(1.0, 0.0, 0.0, 0.5, prompts="aabc")
    rows[2] = Comparison("b", "old", "new", 1.0, "j", (9, 5))
    found = Votes.of([*rows, Comparison("a", "new", "third", 1.0)], "new", "old")
    assert found.outcomes.tolist() == [1.0, 0.0, 0.0, 0.5] and found.prompt_means.tolist() == [0.5, 0.0, 0.5]
    assert found.differences is not None and found.differences.tolist() == [0, 0, -4, 0]
    with pytest.raises(DataError, match="no row compares old with third"):
        Votes.of(rows, "old", "third")


def test_win_rate_by_hand() -> None:
    rate = win_rate(votes(1.0, 1.0, 0.5, 0.0, 1.0, 1.0), "new", "old", draws=100)
    assert (rate["mean"], rate["n"], rate["ties"], rate["labelers"]) == (4.5 / 6, 6, 1 / 6, 1)
    # Wilson with n = mean (1 - mean) / (standard error)^2 and 5 degrees of freedom
    t, n = stats.t.ppf(0.975, 5), 0.1875 / stats.sem([1, 1, 0.5, 0, 1, 1]) ** 2
    for end in (rate["low"], rate["high"]):
        assert abs(0.75 - end) == pytest.approx(t * (end * (1 - end) / n) ** 0.5, abs=1e-12)
    other = win_rate(votes(1.0, 1.0, 0.5, 0.0, 1.0, 1.0), "old", "new", draws=100)
    assert other["low"] == pytest.approx(1 - rate["high"], abs=1e-12)
    assert rate["at_equal_length"]["mean"] == 0.75  # all of one length: nothing to control for
    assert set(rate["bootstrap"]) == {"prompts"} and rate["at_any_time"]["decided_after"] is None


def test_what_the_interval_is_over() -> None:
    few = Votes.of(votes(*[1.0, 0.0] * 5, judges="aabbccddee"), "new", "old")
    many = Votes.of(votes(*[1.0, 0.0] * 6, judges="aabbccddeeff"), "new", "old")
    assert len(clusterings(few, "auto")) == 1 and len(clusterings(many, "auto")) == 2
    assert torch.equal(clusterings(few, "labelers")[0], few.judges)
    with pytest.raises(ConfigError, match="two labelers"):
        clusterings(Votes.of(votes(1.0, 0.0), "new", "old"), "both")
    rate = win_rate(votes(*[1.0, 0.0, 1.0] * 4, judges="aabbccddeeff"), "new", "old", draws=100)
    assert rate["over"] == "prompts and labelers" and set(rate["bootstrap"]) == {
        "prompts",
        "labelers",
        "both",
    }


def test_labelers_who_differ_widen_the_interval() -> None:
    # six labelers, three for and three against, each sure of themselves
    rows = votes(*[1.0] * 30, *[0.0] * 30, judges="".join(letter * 10 for letter in "abcdef"))
    alone, both = (win_rate(rows, "new", "old", over=over, draws=400) for over in ("prompts", "both"))
    assert both["high"] - both["low"] > 2 * (alone["high"] - alone["low"])
    low, high = both["bootstrap"]["both"]
    assert high - low > 2 * (alone["bootstrap"]["prompts"][1] - alone["bootstrap"]["prompts"][0])


def test_equal_length_takes_the_length_away() -> None:
    """The longer reply wins, whoever wrote it; the new model is longer two times in three."""
    rows = [
        Comparison(str(i), "new", "old", float(longer), "j", (20 + i % 5, 10) if longer else (10, 20 + i % 5))
        for i, longer in enumerate([1, 1, 0] * 40)
    ]
    rate = win_rate(rows, "new", "old", draws=200)
    even = rate["at_equal_length"]
    # the prior leaves some of it, or the slope would be infinite
    assert rate["mean"] == pytest.approx(2 / 3) and 0.5 < even["mean"] < 0.6
    assert even["low"] < even["mean"] < even["high"]
    unknown = [Comparison(one.prompt, one.first, one.second, one.outcome) for one in rows]
    assert win_rate(unknown, "new", "old", draws=100)["at_equal_length"] is None


def test_one_may_look_after_every_prompt() -> None:
    found = at_any_time(torch.ones(40, dtype=torch.float64))
    assert found["decided_after"] == 10 and found["low"] > 0.8 and found["high"] == 1.0


# -- ratings


def test_ratings_of_three_models() -> None:
    # over the baseline c: a wins 15 of 20, b 10 of 20; a over b 15 of 20: odds of 3 are 190.85 points
    rows = []
    for first, second, won in (("a", "c", 15), ("b", "c", 10), ("a", "b", 15)):
        rows += [Comparison(f"{i}", first, second, float(i < won), "j") for i in range(20)]
    found = ratings(rows, "c", draws=200)
    assert next(iter(found)) == "a" and found["c"] == {
        **{"elo": 1000.0, "low": 1000.0, "high": 1000.0, "votes": 40, "bounded": True}
    }
    assert found["a"]["elo"] - 1000 == pytest.approx(190.85, abs=0.01)
    assert found["b"]["elo"] == pytest.approx(1000, abs=1e-6)
    assert found["a"]["low"] < found["a"]["elo"] < found["a"]["high"]
    again = ratings(rows, "c", over_labelers=True, draws=200)
    assert again["a"]["elo"] == found["a"]["elo"]


def test_who_won_everything_is_marked_and_strangers_are_an_error() -> None:
    rows = [Comparison(str(i), "a", "b", 1.0) for i in range(9)] + [Comparison("x", "b", "c", 0.5)]
    found = ratings(rows, "b", draws=100)
    assert not found["a"]["bounded"] and found["c"]["bounded"] and 1200 < found["a"]["elo"] < 4000
    with pytest.raises(DataError, match=r"no comparison between the models \(a, b, c\) and \(d, e\)"):
        ratings([*rows, Comparison("y", "d", "e", 1.0)], "b", draws=100)


def test_peoples_votes_on_four_models() -> None:
    """Wang et al. (2023, arXiv:2306.04751): labelers preferred Tulu 65B to its 7B and to human data alone,
    and ChatGPT to Tulu 65B."""
    path = SHARED / "tulu1-human-eval.jsonl.gz"
    if not path.exists():
        pytest.skip(
            "the development data is not at hand: ../shared/data/preference/tulu1-human-eval.jsonl.gz"
        )
    rows = read_comparisons(path)
    assert len(rows) == 912 and len({one.judge for one in rows}) == 16
    for model, better in (("tulu_7B", False), ("tulu_human_only_65B", False), ("chatgpt", True)):
        rate = win_rate(rows, model, "tulu_65B", draws=100)
        assert (rate["mean"] > 0.5) == better and rate["over"] == "prompts and labelers"
    assert next(iter(ratings(rows, "tulu_65B", draws=100))) == "chatgpt"
