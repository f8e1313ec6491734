"""SQuAD v2 and XQuAD: a question about a passage, answered in its words, or found to have no answer.

Files: SQuAD's JSON (`data`, `paragraphs`, `qas`), which XQuAD shares; or flat records with `context`,
`question` and `answers`, as on the Hub. Prompt: the paper's (App. D.2: instruction, title, background, then
the questions of the passage that were asked before, with their answers); the reply ends at a line's end and
is compared by `metrics.squad`. XQuAD's Chinese half is compared by MLQA's units; SQuAD's would take a
sentence without spaces for one word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from instructgpt.data.jsonl import json_type
from instructgpt.errors import DataError
from instructgpt.evaluation.metrics import chinese, squad
from instructgpt.evaluation.suite.reading import document, rows, text_of
from instructgpt.evaluation.suite.task import (
    Answer,
    Generate,
    Generated,
    Item,
    Metric,
    Options,
    Scored,
    Task,
    each,
)

NOT_THERE = "Not in background."
"""What a model is asked to say where there is no answer."""
INSTRUCTION = (
    "Answer each question using information in the preceding background paragraph. "
    f'If there is not enough information provided, answer with "{NOT_THERE}"'
)
_ENGLISH = "Answer each question using information in the preceding background paragraph."
_CHINESE = "请根据背景段落回答问题，答案用段落中的原文。"
_MOST_BEFORE = 8
_LONGEST = 64  # tokens of an answer


def v2(options: Options) -> Task:
    """SQuAD v2: F1 and exact match over all questions, and apart for those with and without an answer."""
    names = ("f1", "exact", "f1_answerable", "no_answer_right")
    return Task(
        name="squad_v2",
        version=1,
        files=("dev-v2.0.json", "squad_v2*.json*", "squad_v2*.parquet"),
        read=read,
        ask=lambda item, shots: [ask(INSTRUCTION, item, shots)],
        score=each(score_v2),
        metrics=tuple(Metric(name) for name in names),
        hub=("rajpurkar/squad_v2:squad_v2/validation-00000-of-00001.parquet",),
        source="Rajpurkar et al. 2018, arXiv:1806.03822; prompt: Ouyang et al. 2022, App. D.2",
    )


def xquad_en(options: Options) -> Task:
    """XQuAD's English half: SQuAD's own F1 and exact match."""
    return _xquad("en", _ENGLISH, "")


def xquad_zh(options: Options) -> Task:
    """XQuAD's Chinese half: F1 and exact match over MLQA's units."""
    return _xquad("zh", _CHINESE, "_zh")


def _xquad(language: str, instruction: str, suffix: str) -> Task:
    measure = {"en": (squad.f1, squad.exact), "zh": (chinese.mlqa_f1, chinese.mlqa_exact)}[language]

    def score(item: Item, answers: Sequence[Answer]) -> Scored:
        prediction = reply_line(answers[0])
        f1, exact = (one(prediction, item.data["answers"]) for one in measure)
        return Scored({"f1": f1, "exact": exact}, shown(item, prediction))

    return Task(
        name=f"xquad_{language}",
        version=1,
        files=(f"xquad.{language}.json", "xquad-en-zh*.jsonl", f"xquad*{language}*.json*"),
        read=lambda paths: read(paths, suffix),
        ask=lambda item, shots: [ask(instruction, item, shots, language)],
        score=each(score),
        metrics=(Metric("f1"), Metric("exact")),
        hub=(f"google/xquad:xquad.{language}/validation-00000-of-00001.parquet",),
        source="Artetxe et al. 2019, arXiv:1910.11856" + ("; units: arXiv:1910.07475" if suffix else ""),
    )


# -- reading


def read(paths: Sequence[Path], suffix: str = "") -> list[Item]:
    """Questions of SQuAD's JSON or of flat records, those of one passage in a group.

    Args:
        suffix: of the keys of flat records, where one file holds two languages.

    Raises:
        DataError: a file can't be read as either.
    """
    items: list[Item] = []
    for path in paths:
        name = path.name.removesuffix(".gz")
        whole = document(path) if name.endswith(".json") else None
        if isinstance(whole, dict) and isinstance(whole.get("data"), list) and _nested(whole["data"]):
            items += _paragraphs(whole["data"], str(path))
        else:
            items += _flat(rows(path), suffix)
    return items


def _nested(articles: Sequence[Any]) -> bool:
    return bool(articles) and isinstance(articles[0], dict) and "paragraphs" in articles[0]


def _paragraphs(articles: Sequence[Mapping[str, Any]], path: str) -> Iterator[Item]:
    for a, article in enumerate(articles):
        for p, paragraph in enumerate(article.get("paragraphs", ())):
            place = f"{path}, data[{a}].paragraphs[{p}]"
            context = text_of(paragraph, "context", place)
            before: list[tuple[str, str]] = []
            for question in paragraph.get("qas", ()):
                asked = text_of(question, "question", place)
                answers = answers_of(question, place)
                data = {
                    "title": str(article.get("title", "")),
                    "context": context,
                    "question": asked,
                    "answers": answers,
                    "before": tuple(before[-_MOST_BEFORE:]),
                }
                yield Item(text_of(question, "id", place), data, f"{a}.{p}")
                before.append((asked, answers[0] if answers else NOT_THERE))


def _flat(records: Iterator[tuple[str, dict[str, Any]]], suffix: str) -> Iterator[Item]:
    groups: dict[str, int] = {}
    before: list[tuple[str, str]] = []
    last = ""
    for place, row in records:
        context = text_of(row, "context" + suffix, place)
        before = before if context == last else []
        last = context
        asked, answers = text_of(row, "question" + suffix, place), answers_of(row, place, suffix)
        data = {
            "title": str(row.get("title", "")),
            "context": context,
            "question": asked,
            "answers": answers,
            "before": tuple(before[-_MOST_BEFORE:]),
        }
        yield Item(text_of(row, "id", place), data, str(groups.setdefault(context, len(groups))))
        before.append((asked, answers[0] if answers else NOT_THERE))


def answers_of(question: Mapping[str, Any], place: str, suffix: str = "") -> list[str]:
    """The reference answers, each once, in their order: a list of texts, of objects with `text`, or the Hub's
    `{"text": [...]}`.

    Raises:
        DataError: it is none of these.
    """
    found = question.get("answers" + suffix)
    if isinstance(found, dict):
        found = found.get("text")
    if isinstance(found, list):
        said = [one.get("text") if isinstance(one, dict) else one for one in found]
        texts = [text for text in said if isinstance(text, str)]
        if len(texts) == len(said):
            return list(dict.fromkeys(texts))
    what = f"'answers' is {json_type(question.get('answers' + suffix))}, not a list of answers"
    raise DataError(what, place, "give a split with answers (those of a test set are hidden)")


# -- asking and scoring


def ask(instruction: str, item: Item, shots: Sequence[Item], language: str = "en") -> Generate:
    """The instruction, solved passages, then the item's passage with what was asked of it before."""
    solved = [f"{_passage(shot, language)} {_first(shot)}" for shot in shots]
    return Generate("\n\n".join([instruction, *solved, _passage(item, language)]), _LONGEST, stop=("\n",))


def _first(item: Item) -> str:
    return item.data["answers"][0] if item.data["answers"] else NOT_THERE


def _passage(item: Item, language: str) -> str:
    words = (
        ("标题：", "背景：", "问：", "答：")
        if language == "zh"
        else ("Title: ", "Background: ", "Q: ", "A: ")
    )
    title, background, question, answer = words
    data = item.data
    parts = [title + data["title"]] if data["title"] else []
    parts.append(background + data["context"])
    for asked, said in data["before"]:
        parts += [question + asked, answer + said]
    return "\n\n".join([*parts, question + data["question"], answer.rstrip()])


def reply_line(answer: Answer) -> str:
    """The first line of a reply, without blanks around."""
    assert isinstance(answer, Generated)
    return answer.text.strip().partition("\n")[0].strip()


def shown(item: Item, prediction: str) -> dict[str, Any]:
    """What people see of a question."""
    question = f"{item.data['context']}\n\n{item.data['question']}"
    return {"prompt": question, "reply": prediction, "references": item.data["answers"] or [NOT_THERE]}


def score_v2(item: Item, answers: Sequence[Answer]) -> Scored:
    """F1 and exact match; saying that it is not there is the empty answer of the official script."""
    said = reply_line(answers[0])
    prediction = "" if squad.normal(said) == squad.normal(NOT_THERE) else said
    references = item.data["answers"]
    f1, exact = squad.f1(prediction, references), squad.exact(prediction, references)
    apart = {"f1_answerable": f1} if references else {"no_answer_right": exact}
    return Scored({"f1": f1, "exact": exact, **apart}, shown(item, said))
