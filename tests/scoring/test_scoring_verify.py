"""Verifiable rewards: cases decided by hand, and what is said when a record or a spec is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from instructgpt.data.checks import Check, check_rows, parse_answers, parse_checks
from instructgpt.data.records import Prompt, read_prompts, to_row, write_jsonl
from instructgpt.errors import ConfigError, DataError
from instructgpt.evaluation.judge import load_judge
from instructgpt.generation.reply import Reply
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.scoring.ask import check_prompts
from instructgpt.scoring.checks import CHECKS
from instructgpt.scoring.reward import load_reward
from instructgpt.scoring.verify import Verify
from instructgpt.sft import selection
from instructgpt.text.chat import Message
from instructgpt.text.tokenizer import train_tokenizer


def verify(spec: str, reply: str, **record: object) -> float:
    prompt = Prompt.of(
        "q", answers=parse_answers(record.get("answer")), checks=parse_checks(record.get("checks"))
    )
    return Verify(f"verify:{spec}").score_records([prompt], [reply])[0]


@pytest.mark.parametrize(
    ("kind", "answer", "right", "wrong"),
    [
        ("exact", "The Nile", ["the nile", " The  Nile. ", '"THE NILE!"', "Ｔｈｅ Nile"], ["", "niles"]),
        ("exact", ["Nile", "The Nile"], ["nile", "the nile"], ["a nile"]),
        ("exact", "黄河", ["黄河。", "“黄河”"], ["黄河水"]),
        ("exact", 7, ["7", "7."], ["seven", "7.5", "17"]),
        ("contains", "Nile", ["It is the Nile, of course.", "NILE"], ["the Niles", "senile", ""]),
        ("contains", "黄河", ["是黄河吗？", "黄河"], ["黄山"]),
        ("contains", "C++", ["I like C++."], ["C", "+"]),
        ("number", "7", ["3 + 4 = 7", "first 5, then 7.0", "007"], ["7, no: 8", "seven", "", "-7", ".7"]),
        ("number", "18 - 6 = 12\n#### 1,200", ["It costs $1200.", "1,200.00"], ["12", "1,200 and 1"]),
        ("number", "-3.5", ["it is -3.50", "−3.5"], ["3.5"]),
        ("regex", r"^\d{4}-\d\d$", ["2024-07"], ["2024-7", "on 2024-07"]),
    ],
)  # fmt: skip
def test_answers(kind: str, answer: object, right: list[str], wrong: list[str]) -> None:
    for reply in right:
        assert verify(kind, reply, answer=answer) == 1.0, reply
    for reply in wrong:
        assert verify(kind, reply, answer=answer) == 0.0, reply


CASES: dict[str, tuple[list[str], list[str]]] = {
    "words(exactly=4)": (["don't stop me now", "one, two; three - 4!", "我爱 Python 吗"], ["a b c", "我"]),
    "words(at_least=2, at_most=3)": (["a b", "a b c"], ["a", "a b c d"]),
    "characters(at_most=5)": ([" hello ", ""], ["hello!"]),
    "sentences(exactly=2)": (
        ["One. Two!", "It costs 3.5 dollars. Yes?", "一。二！", 'He said "go." Then'], ["One", "a. b. c."]
    ),
    "paragraphs(exactly=2)": (["a\nb\n\nc", "a\n \n\n\nb\n"], ["a\nb", "", "a\n\nb\n\nc"]),
    "bullets(exactly=2)": (["- a\n- b", "x\n * a\n• b"], ["- a", "-a\n-b", "**a**\n- b", "1. a\n2. b"]),
    "headings(at_least=1)": (["# A\ntext", "text\n### B"], ["#tag", "A", "####### seven"]),
    "highlights(at_least=2)": (["*a* and **b c**"], ["*a*", "2 * 3 * 4 * 5", "* a\n* b\n* c"]),
    "placeholders(at_least=1)": (["Dear [name],"], ["Dear (name)", "[]"]),
    "capitals(at_most=1)": (["A small NOTE".replace("A ", "a "), "none"], ["TWO WORDS"]),
    'mentions(text=["cat", "dog"], exactly=3)': (["Cat, dog and cat."], ["cats dog cat", "cat dog"]),
    'includes(text=["red", "blue sky"])': (["A Red boat, a blue sky."], ["red", "reddish blue sky"]),
    'forbids(text=["red", "龍"])': (["reddish", ""], ["Red.", "一條龍飛"]),
    'without(text=",")': (["no comma"], ["a, b"]),
    "starts_with(text=Dear)": (["  dear you", "Dearest"], ["My dear"]),
    'ends_with(text=["bye.", "再见"])': (["Good bye.\n", "那么再见"], ["bye. x", "bye"]),
    'one_of(text=["yes", "no"])': (["Yes.", " NO "], ["yes and no", ""]),
    r'regex(text=["a+b", "\\d"])': (["xaab7"], ["aab", "7"]),
    "uppercase": (["HI THERE 1"], ["Hi", "123", "", "你好"]),
    "lowercase": (["hi there 1"], ["Hi", "123", ""]),
    "quoted": ([' "hi" ', "“hi”"], ['"hi', '"', "hi", ""]),
    "title": (["<<A title>>\ntext"], ["<A>", "<< >>", "<<a\nb>>"]),
    "json": (['{"a": [1, null]}', "```json\n[1]\n```", " 3 "], ["{'a': 1}", "NaN", '{"a": 1} x', "[" * 9**6]),
    "json(keys=a)": (['{"a": 1}'], ['{"b": 1}', '["a"]', '"a"']),
    "script(name=latin)": (["Hello, über!", "a 1 b 2"], ["你好", "", "123", "hi 你"]),
    "script(name=han)": (["你好，世界", "我们用计算机学习语言呀 A"], ["hello", "こんにちは"]),
    "script(name=japanese)": (["こんにちは世界", "カメラー"], ["안녕"]),
    "script(name=cyrillic)": (["Привет"], ["Privet"]),
}  # fmt: skip


@pytest.mark.parametrize("spec", CASES)
def test_checks_of_the_reply_alone(spec: str) -> None:
    """By the spec, by the plain call with messages, and (through its row) as a record's check."""
    right, wrong = CASES[spec]
    reward = load_reward(f"verify:{spec}")
    assert isinstance(reward, Verify)
    for replies, expected in ((right, 1.0), (wrong, 0.0)):
        prompts = [(Message("user", "q"),)] * len(replies)
        assert reward.score(prompts, replies) == [expected] * len(replies)
        rows = check_rows([reward.check])
        assert [verify("all_checks", reply, checks=rows) for reply in replies] == [expected] * len(replies)


def test_every_check_is_tested() -> None:
    assert {spec.split("(")[0] for spec in CASES} == set(CHECKS)


def test_a_share_of_the_checks() -> None:
    checks = ["lowercase", {"check": "words", "at_most": 3}, {"check": "forbids", "text": ["x"]}, "json"]
    # "a b c d": lowercase and without x pass, too many words and no JSON do not: 2 of 4
    assert verify("checks", "a b c d", checks=checks) == 0.5
    assert verify("all_checks", "a b c d", checks=checks) == 0.0
    assert verify("checks", "A x", checks=checks) == 0.25
    assert verify("all_checks", '"a"', checks=checks) == verify("checks", '"a"', checks=checks) == 1.0


def test_records_keep_answers_and_checks(tmp_path: Path) -> None:
    checks = (Check("json"), Check("words", (("at_most", 5),)), Check("includes", (("text", ("a", "b")),)))
    prompts = [
        Prompt.of("one", answers=("7",)),
        Prompt.of("two", answers=("a", "b"), checks=checks),
        Prompt.of("three"),
    ]
    path = tmp_path / "p.jsonl"
    rows = [to_row(prompt) for prompt in prompts]
    assert rows[0]["answer"] == "7" and rows[1]["answer"] == ["a", "b"]
    assert rows[1]["checks"][:2] == ["json", {"check": "words", "at_most": 5}]
    assert not {"answer", "answers", "checks"} & set(rows[2])
    write_jsonl(path, rows)
    assert read_prompts(path) == prompts
    path.write_text('{"instruction": "What is 3 + 4?", "output": "7", "answer": 7, "checks": ["json"]}\n')
    assert read_prompts(path)[0].answers == ("7",) and read_prompts(path)[0].checks == (Check("json"),)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('"answer": {"a": 1}', "'answer' holds an object"),
        ('"answer": true', "'answer' holds"),
        ('"answer": ["a", ""]', "'answer' holds an empty string"),
        ('"checks": "json"', "'checks' is a string, not a list"),
        ('"checks": [{"words": 5}]', "check 1 of 'checks' has no name"),
        ('"checks": ["json", {"check": "words", "at_most": 1.5}]', "'at_most' of check 2 is a number"),
        ('"checks": [{"check": "words", "at_most": null}]', "'at_most' of check 1"),
    ],
)
def test_a_wrong_record_is_named(tmp_path: Path, field: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "fine"}\n{"prompt": "q", ' + field + "}\n")
    with pytest.raises(DataError, match=message) as caught:
        read_prompts(path)
    assert "p.jsonl:2" in str(caught.value) and "To mend it" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "record", "message"),
    [
        ("exact", {}, "needs the record's 'answer'"),
        ("checks", {"answer": "7"}, "needs the record's 'checks'"),
        ("number", {"answer": "seven"}, "needs a number, and the answer is 'seven'"),
        ("regex", {"answer": "("}, "not a regular expression"),
        ("checks", {"checks": ["wrods"]}, "no check 'wrods'.*did you mean 'words'"),
        ("checks", {"checks": ["words"]}, "'words' needs at_least or at_most or exactly"),
        ("checks", {"checks": [{"check": "json", "at_most": 2}]}, "'json' does not know 'at_most'"),
        ("checks", {"checks": [{"check": "forbids", "text": []}]}, "'text' of the check 'forbids' is"),
        ("checks", {"checks": [{"check": "script", "name": "elvish"}]}, "no script 'elvish'"),
    ],
)
def test_a_record_that_cannot_be_judged_is_found_before_the_start(spec, record, message) -> None:
    answers, checks = parse_answers(record.get("answer")), parse_checks(record.get("checks"))
    fine = {"answers": ("7",), "checks": (Check("json"),)}
    prompts = [Prompt.of("q", id="good", **fine), Prompt.of("q", id="bad-7", answers=answers, checks=checks)]
    with pytest.raises(DataError, match=message) as caught:
        check_prompts(load_reward(f"verify:{spec}"), prompts, "p.jsonl")
    assert "p.jsonl, prompt bad-7" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("verify:exactly", "no verifier 'exactly'.*did you mean verify:exact"),
        ("verify:words", "needs at_least or at_most or exactly"),
        ("verify:words(at_most=many)", "'at_most' of the check 'words' is 'many'"),
        ("verify:words(3)", "can't be read from '3' on"),
        ("verify:words(at_most=3", "not a verifier"),
        ("verify:exact(text=a)", "takes no arguments"),
        ('verify:regex(text="(")', "not a regular expression"),
        ('verify:includes(text="")', "'text' of the check 'includes' is ''"),
        ("verify:includes(text=[1])", "can't be read from"),
        ("verify:", "not a verifier"),
    ],
)
def test_a_wrong_spec_is_told(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_reward(spec)
    assert "--reward" in str(caught.value) and "To mend it" in str(caught.value)


def test_messages_alone_have_no_answer() -> None:
    with pytest.raises(ConfigError, match="only their messages came"):
        load_reward("verify:exact").score([(Message("user", "q"),)], ["a"])


def test_judges_hand_the_records_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of `eval`, and that of `sft`, by which checkpoints are chosen."""
    prompts = [Prompt.of("q", answers=("red",)), Prompt.of("r", answers=("blue",))]
    assert load_judge("verify:exact").score(prompts, ["Red", "red"]) == [1.0, 0.0]
    replies = [[Reply([1], "Red", True, [0.0])], [Reply([1], "red", True, [0.0])]]
    monkeypatch.setattr(selection, "sample_replies", lambda *arguments: replies)
    tokenizer = train_tokenizer(["red blue"] * 3, 270)
    model = new_language_model(ModelConfig.llama(vocab_size=270, width=8, layers=1, heads=2, context=64), 0)
    judge = selection.Judge(prompts, load_reward("verify:exact"), tokenizer, 4, 0)
    assert judge.measure(model) == {"eos_rate": 1.0, "reward": 0.5}
