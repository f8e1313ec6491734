"""Reading a labeler's form: every fault with its field."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructgpt.labelling.store.form import (
    KINDS,
    REPLY_FLAGS,
    CompareAnswer,
    DemonstrationAnswer,
    Judgement,
    PromptAnswer,
    RankAnswer,
    answer_from_json,
    answer_to_json,
)
from instructgpt.labelling.store.refusals import Invalid
from instructgpt.text.chat import Message


def judged(*ranks: Any) -> dict[str, Any]:
    return {"judgements": [{"reply": f"r{n}", "rank": rank, "rating": 4} for n, rank in enumerate(ranks)]}


@pytest.mark.parametrize(
    ("given_ranks", "kept"),
    [((1, 2), (1, 2)), ((1, 3, 3), (1, 2, 2)), ((9, 9), (1, 1)), ((4, 2, 7, 2), (2, 1, 3, 1))],
)
def test_ranks_are_closed_up_and_ties_stay(given_ranks: tuple[int, ...], kept: tuple[int, ...]) -> None:
    answer = answer_from_json("rank", judged(*given_ranks))
    assert isinstance(answer, RankAnswer)
    assert tuple(one.rank for one in answer.judgements) == kept


@pytest.mark.parametrize(
    ("kind", "value", "fields"),
    [
        ("rank", [], [""]),
        ("rank", {}, ["judgements"]),
        ("rank", judged(1), ["judgements"]),
        ("rank", judged(*range(1, 11)), ["judgements"]),
        ("rank", judged(1, 0), ["judgements[1].rank"]),
        ("rank", judged(1, True), ["judgements[1].rank"]),
        ("rank", judged(1, "2"), ["judgements[1].rank"]),
        ("rank", judged(1, None), ["judgements[1].rank"]),
        ("rank", judged(1, 2) | {"all_bad": "yes"}, ["all_bad"]),
        ("rank", judged(1, 2) | {"prompt_flags": ["nice"]}, ["prompt_flags"]),
        ("rank", judged(1, 2) | {"note": "x" * 5001}, ["note"]),
        (
            "rank",
            {"judgements": [{"rank": 1}, 7]},
            ["judgements[0].reply", "judgements[0].rating", "judgements[1]"],
        ),
        ("rank", {"judgements": [{"reply": "a", "rank": 1, "rating": 3}] * 2}, ["judgements"]),
        ("compare", judged(1, 2, 3), ["judgements"]),
        ("demonstration", {}, ["turns"]),
        ("demonstration", {"turns": [{"content": " "}]}, ["turns[0].content"]),
        ("demonstration", {"turns": [{"content": "a"}, {"content": "b"}]}, ["turns"]),
        ("demonstration", {"turns": [{"role": "user", "content": "a"}]}, ["turns[0].role"]),
        ("demonstration", {"turns": [{"content": "\x00"}]}, ["turns[0].content"]),
        ("demonstration", {"turns": [{"content": "\ud800"}]}, ["turns[0].content"]),
        ("demonstration", {"turns": [{"content": "x" * 100_001}]}, ["turns[0].content"]),
        ("prompt", {"text": "", "examples": [{"query": "a"}]}, ["text", "examples[0].response"]),
        ("prompt", {"text": "a", "examples": "b"}, ["examples"]),
        ("prompt", {"text": "a", "category": 5}, ["category"]),
    ],
)
def test_each_fault_is_told_with_its_field(kind: Any, value: Any, fields: list[str]) -> None:
    with pytest.raises(Invalid) as caught:
        answer_from_json(kind, value)
    assert [problem.field for problem in caught.value.problems] == fields


def test_line_breaks_of_forms_become_plain() -> None:
    answer = answer_from_json("demonstration", {"turns": [{"content": "  a\r\nb\rc \r\n\r\n"}]})
    assert answer == DemonstrationAnswer((Message("assistant", "  a\nb\nc "),))


def test_flags_are_kept_in_the_papers_order_once() -> None:
    row = judged(1, 2)
    row["judgements"][0]["flags"] = ["hallucination", "fails_instruction", "hallucination"]
    answer = answer_from_json("rank", row)
    assert isinstance(answer, RankAnswer)
    assert answer.judgements[0].flags == ("fails_instruction", "hallucination")
    assert len(REPLY_FLAGS) == 11  # Table 3 of the paper, without the rating


def test_a_comparison_needs_no_rating() -> None:
    rows = [{"reply": "a", "rank": 1}, {"reply": "b", "rank": 1, "rating": 7}]
    assert answer_from_json("compare", {"judgements": rows}) == CompareAnswer(
        (Judgement("a", 1, None), Judgement("b", 1, 7))
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "turns",
                    "text",
                    "examples",
                    "judgements",
                    "reply",
                    "rank",
                    "rating",
                    "flags",
                    "note",
                    "role",
                    "content",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=16,
)


@given(kind=st.sampled_from(KINDS), value=json_values)
def test_whatever_comes_is_an_answer_or_refused(kind: Any, value: Any) -> None:
    try:
        answer = answer_from_json(kind, value)
    except Invalid as error:
        assert error.problems
        return
    assert answer_from_json(kind, answer_to_json(answer)) == answer
    assert isinstance(answer, DemonstrationAnswer | PromptAnswer | RankAnswer | CompareAnswer)
