"""IFEval: each kind of instruction by hand, the forms of a loose verdict, and the task on a small file."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from instructgpt.errors import DataError
from instructgpt.evaluation.ifeval.instructions import KINDS, Instruction
from instructgpt.evaluation.ifeval.language import capital_words, language_of, sentences
from instructgpt.evaluation.ifeval.verdicts import forms, judge
from instructgpt.evaluation.suite.task import Generated, Options
from instructgpt.evaluation.tasks.ifeval import make

FRENCH = "Le chat dort sur le canapé pendant que la pluie tombe doucement dehors."
ENGLISH = "The cat sleeps on the sofa while the rain falls softly outside the window."
# kind, what is asked, a reply that follows it, one that does not
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["river", "LAKE"]}, "Rivers and a lake.", "A river."),
    (
        "keywords:frequency",
        {"keyword": " cat ", "frequency": 2, "relation": "at least"},
        "Cat, category.",  # within words too
        "A cat.",
    ),
    ("keywords:frequency", {"keyword": "a+(", "frequency": 2, "relation": "less than"}, "a+( b", "a+(a+("),
    ("keywords:forbidden_words", {"forbidden_words": ["sea"]}, "Seaside, overseas.", "The Sea."),
    (
        "keywords:letter_frequency",
        {"letter": "A", "let_frequency": 3, "let_relation": "at least"},
        "A banana",
        "A can",
    ),
    ("language:response_language", {"language": "fr"}, FRENCH, ENGLISH),
    ("language:response_language", {"language": "fr"}, "123 456", ENGLISH),  # nothing to tell it by
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        "Dr. Smith paid 3.50 at 5 p.m. on Monday. He left.",  # two
        "One. Two! Three?",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a *** b ***", "a *** *** b"),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "at least"},
        "Well-known it's",  # Well, known, it, s
        "well known words",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "So"},
        "One.\n\n'so, two.\n\n",
        "One.\n\nAnd so.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b c]", "[a and b]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye. p. s. more", "Bye. PS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "P.P.S. more", "P.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n - b", "* a\n**b**\n"),
    ("detectable_format:constrained_response", {}, "Well. My answer is maybe.", "My answer is: no."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and * *"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\na\nPart 2\nb",
        "Part one\na\nPart 2",
    ),
    ("detectable_format:json_format", {}, '```JSON\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<Song of joy>>\ntext", "<< >> <a>"),
    ("combination:two_responses", {}, "one ****** two", "one ****** one"),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Name a river. "},
        "name a River. The Nile.",
        "The Nile.",
    ),
    ("startend:end_checker", {"end_phrase": "The END"}, '"It was so. the end" ', "The end."),
    ("startend:quotation", {}, ' "yes" ', '"yes'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 3, "capital_relation": "at least"},
        "I say STOP-NOW, OK?",  # I, STOP-NOW, OK
        "I say stop, OK?",
    ),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH),
    ("change_case:english_lowercase", {}, ENGLISH.lower(), FRENCH.lower()),
    ("punctuation:no_comma", {}, "a; b", "a, b"),
]


@pytest.mark.parametrize(("kind", "asked", "right", "wrong"), CASES, ids=[case[0] for case in CASES])
def test_each_kind(kind: str, asked: dict[str, Any], right: str, wrong: str) -> None:
    instruction = Instruction.of(kind, asked)
    assert instruction.followed(right)
    assert not instruction.followed(wrong)
    assert not instruction.followed(" \n")


def test_every_kind_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(KINDS) and len(KINDS) == 25


def test_a_double_highlight_counts_once() -> None:
    # by the single star ** and ** are empty; by the double one **b** holds b
    two = Instruction.of("detectable_format:number_highlighted_sections", {"num_highlights": 2})
    assert two.followed("**a** **b**") and two.followed("*a* **b**") and not two.followed("**b**")


def test_sentences_and_tokens() -> None:
    assert sentences("Mr. Brown met J. R. Smith in the U.S. on Monday. It rained.") == [
        "Mr. Brown met J. R. Smith in the U.S. on Monday.",
        "It rained.",
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("I said STOP-NOW, OK?", 3),
        ("DON'T go: I'M HERE.", 5),  # DO N'T I 'M HERE
        ("It ISN'T. WE CANNOT!", 5),  # IS N'T WE CAN NOT
        ('He said "NO"(NOT twice)--EVER...NEVER', 4),
        ("A/b *C* [D]: E,F 3,5 U.S.", 5),  # C D E F U.S.; A/b is one word
        ("the 'OLD' o'clock O'BRIEN", 2),
    ],
)
def test_words_in_capitals(text: str, count: int) -> None:
    assert capital_words(text) == count


@pytest.mark.slow
def test_words_in_capitals_are_nltks() -> None:
    """Against NLTK itself, on texts that hold what its rules part."""
    from nltk.tokenize.destructive import NLTKWordTokenizer

    draw = random.Random(0)
    pieces = [
        "A",
        "b",
        "DO",
        "N'T",
        "N'T.",
        "I",
        "'M",
        "'s",
        "CAN",
        "NOT",
        "GON",
        "NA",
        "'",
        '"',
        ",",
        ".",
        "..",
        "-",
    ]
    pieces += [
        "--",
        ":",
        "3",
        "(",
        ")",
        "*",
        "’",
        "“",
        "'T",
        "IS",
        "\n",
        "/",
        "?",
        "D",
        "'YE",
        "LEM",
        "ME",
        "`",
        "...",
    ]
    for _ in range(3000):
        text = "".join(draw.choice(pieces) + draw.choice(["", " "]) for _ in range(12))
        words = [word for sentence in sentences(text) for word in NLTKWordTokenizer().tokenize(sentence)]
        assert capital_words(text) == sum(word.isupper() for word in words), text


def test_languages_are_told_alike_every_time_and_draw_no_numbers_of_ours() -> None:
    random.seed(5)
    state = random.getstate()
    assert {language_of(FRENCH) for _ in range(5)} == {"fr"} and language_of("?!") is None
    assert language_of("今天天气很好，我们去公园散步吧。") == "zh-cn"
    assert random.getstate() == state


def test_eight_forms_of_a_reply() -> None:
    assert forms("Sure:\n*a*\nBye") == [
        *("Sure:\n*a*\nBye", "Sure:\na\nBye", "*a*\nBye", "a\nBye", "Sure:\n*a*", "Sure:\na", "*a*", "a")
    ]


def test_loose_passes_over_an_introduction() -> None:
    asked = [Instruction.of("startend:quotation", {}), Instruction.of("punctuation:no_comma", {})]
    found = judge('Sure, here it is:\n"a river, or a lake"', asked)
    assert found.strict == (False, False) and found.loose == (True, False)


@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        ("startend:middle", {}, "no instruction 'startend:middle'"),
        ("startend:end_checker", {"end_phrase": None}, "has no 'end_phrase'"),
        ("startend:quotation", {"num_words": 3}, "knows no 'num_words'"),
        ("keywords:existence", {"keywords": "river"}, r"can't be \"river\""),
        (
            "length_constraints:number_words",
            {"num_words": 3, "relation": "about"},
            r"'relation'.*\{\"num_words\": 3, \"relation\": \"at least\"\}",
        ),
        ("length_constraints:number_words", {"num_words": True, "relation": "at least"}, "'num_words'"),
    ],
)
def test_what_can_not_be_verified_is_told(kind: str, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Instruction.of(kind, asked, "input_data.jsonl:7")


def test_the_task(tmp_path: Path) -> None:
    rows = [
        {
            "key": 7,
            "prompt": "Name a river, in quotes, without commas.",
            "instruction_id_list": ["startend:quotation", "punctuation:no_comma"],
            "kwargs": [{}, {"num_words": None}],
        },
        {"key": 8, "prompt": "b", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    ]
    path = tmp_path / "input_data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = make(Options())
    items = task.read([path])
    assert [item.id for item in items] == ["7", "8"]
    (ask,) = task.ask(items[0], ())
    assert ask.prompt == rows[0]["prompt"] and ask.temperature == 0  # type: ignore[union-attr]
    found = task.score(items, [[Generated("The Nile", 3, True)], [Generated("a, b", 3, True)]])
    scores = [one.scores for one in found]
    assert [one["prompt_strict"] for one in scores] == [0.0, 0.0]
    assert (scores[0]["followed_strict"], scores[0]["instructions"]) == (1.0, 2.0)
    assert found[0].shown["verdicts"][0] == {
        "instruction": "startend:quotation",
        "asked": {},
        "strict": False,
        "loose": False,
    }
    rows[0]["kwargs"] = [{}]
    path.write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"list of 2 objects.*input_data.jsonl:1"):
        task.read([path])
