"""QuAC: the next question of a dialogue about a passage (arXiv:1808.07036).

Files: the official `val_v0.2.json`. Metric: the official F1 against several people, left one out; HEQ, the
share of questions (and of dialogues) on which the model is as good as people (`metrics.quac`). Prompt: the
paper's (App. D.2): the questions before stand with their reference answers, as the data set prescribes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instructgpt.errors import DataError
from instructgpt.evaluation.metrics import quac
from instructgpt.evaluation.metrics.squad import normal
from instructgpt.evaluation.suite.reading import document, text_of
from instructgpt.evaluation.suite.task import (
    Answer,
    Array,
    Generate,
    Item,
    Metric,
    Options,
    Scored,
    Task,
    each,
)
from instructgpt.evaluation.tasks.squad import answers_of, reply_line

UNKNOWN = "I don't know."
_INSTRUCTION = (
    "Answer each question using information in the preceding background paragraph. "
    f'If there is not enough information provided, answer with "{UNKNOWN}"'
)
_LONGEST = 96


def make(options: Options) -> Task:
    """QuAC: F1, HEQ-Q, HEQ-D and accuracy on questions without an answer."""
    return Task(
        name="quac",
        version=1,
        files=("val_v0.2.json", "quac*val*.json", "quac*.json"),
        read=_read,
        ask=_ask,
        score=each(_score),
        metrics=(Metric("f1"), Metric("heq_q"), Metric("heq_d", _whole_dialogues), Metric("unanswerable")),
        source="Choi et al. 2018, arXiv:1808.07036; scorer.py; prompt: Ouyang et al. 2022, App. D.2",
    )


def _read(paths: list[Path]) -> list[Item]:
    items: list[Item] = []
    count = 0  # of dialogues
    for path in paths:
        whole = document(path)
        if not isinstance(whole, Mapping) or not isinstance(whole.get("data"), list):
            raise DataError("the file has no list 'data'", str(path), "give val_v0.2.json")
        for article in whole["data"]:
            for dialogue in article.get("paragraphs", ()):
                place = f"{path}, dialogue {dialogue.get('id')}"
                items += _dialogue(article, dialogue, count, place)
                count += 1
    return items


def _dialogue(article: Mapping[str, Any], dialogue: Mapping[str, Any], number: int, place: str) -> list[Item]:
    name = text_of(dialogue, "id", place)
    context = text_of(dialogue, "context", place).removesuffix(quac.CANNOT_ANSWER).strip()
    before: list[tuple[str, str]] = []
    items: list[Item] = []
    for question in dialogue.get("qas", ()):
        asked = text_of(question, "question", place)
        # One text may be several people's: leaving one out counts people, not texts.
        people = [text_of(one, "text", place) for one in question.get("answers") or ()]
        if not people:
            answers_of({}, place)
        data = {
            "title": " - ".join(str(article[k]) for k in ("title", "section_title") if article.get(k)),
            "context": context,
            "question": asked,
            "answers": tuple(people),
            "before": tuple(before),
            "number": number,
            "turns": len(dialogue["qas"]),
        }
        items.append(Item(text_of(question, "id", place), data, name))
        own = question.get("orig_answer") or {"text": people[0]}
        before.append((asked, _said(text_of(own, "text", place))))
    return items


def _said(answer: str) -> str:
    return UNKNOWN if answer == quac.CANNOT_ANSWER else answer


def _passage(item: Item) -> str:
    data = item.data
    parts = [f"TITLE: {data['title']}", f"PARAGRAPH: {data['context']}"]
    parts += [f"Q: {asked}\n\nA: {said}" for asked, said in data["before"]]
    return "\n\n".join([*parts, f"Q: {data['question']}\n\nA:"])


def _ask(item: Item, shots: Sequence[Item]) -> list[Generate]:
    solved = [f"{_passage(shot)} {_said(shot.data['answers'][0])}" for shot in shots]
    return [Generate("\n\n".join([_INSTRUCTION, *solved, _passage(item)]), _LONGEST, stop=("\n",))]


def _score(item: Item, answers: Sequence[Answer]) -> Scored:
    said = reply_line(answers[0])
    prediction = quac.CANNOT_ANSWER if normal(said) == normal(UNKNOWN) else said
    found = quac.score(prediction, item.data["answers"])
    shown = {
        "prompt": _passage(item),
        "reply": said,
        "references": [_said(answer) for answer in dict.fromkeys(item.data["answers"])],
    }
    # A question that people do not agree on is in no figure, but its dialogue stands all the same.
    scores: dict[str, float] = {"dialogue": item.data["number"], "turns": item.data["turns"], "missed": 0.0}
    if found.counts:
        scores |= {"f1": found.f1, "heq_q": float(found.as_good), "missed": float(not found.as_good)}
        scores |= {} if found.answerable else {"unanswerable": found.f1}
    return Scored(scores, shown)


def _whole_dialogues(columns: Mapping[str, Array]) -> float:
    """Share of dialogues none of whose questions was missed, in whatever order the questions stand; one that
    a resample draws twice counts twice."""
    _, of, sizes = np.unique(columns["dialogue"], return_inverse=True, return_counts=True)
    if not sizes.size:
        return math.nan
    turns = np.bincount(of, weights=columns["turns"]) / sizes
    whole = np.bincount(of, weights=columns["missed"]) == 0
    return float(np.average(whole, weights=sizes / turns))
