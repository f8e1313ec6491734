"""DROP: questions about a passage that need counting, sorting or sums (arXiv:1903.00161).

Files: the official `drop_dataset_dev.json` (passages with `qa_pairs`). Metric: the official F1 over sets of
spans with numbers that must agree, and exact match; the highest over the reference answers (`metrics.drop`).
Prompt: that of the samples the paper's authors released (Passage, Question, Answer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instructgpt.data.jsonl import json_type
from instructgpt.errors import DataError
from instructgpt.evaluation.metrics import drop
from instructgpt.evaluation.suite.reading import document, text_of
from instructgpt.evaluation.suite.task import Answer, Generate, Item, Metric, Options, Scored, Task, each
from instructgpt.evaluation.tasks.squad import reply_line

_LONGEST = 64


def make(options: Options) -> Task:
    """DROP: the official F1 and exact match."""
    return Task(
        name="drop",
        version=1,
        files=("drop_dataset_dev.json", "drop*dev*.json", "drop*.json"),
        read=_read,
        ask=_ask,
        score=each(_score),
        metrics=(Metric("f1"), Metric("exact")),
        source="Dua et al. 2019, arXiv:1903.00161; drop_eval.py; prompt: samples of arXiv:2203.02155",
    )


def _read(paths: list[Path]) -> list[Item]:
    items = []
    for path in paths:
        passages = document(path)
        if not isinstance(passages, dict):
            what = f"the file holds {json_type(passages)}, not an object of passages"
            raise DataError(what, str(path), "give drop_dataset_dev.json")
        for name, passage in passages.items():
            place = f"{path}, {name}"
            context = text_of(passage, "passage", place)
            for pair in passage.get("qa_pairs", ()):
                references = [_spans(pair.get("answer"), place)]
                references += [_spans(one, place) for one in pair.get("validated_answers") or ()]
                data = {
                    "context": context,
                    "question": text_of(pair, "question", place),
                    "answers": tuple(dict.fromkeys(spans for spans in references if spans)),
                }
                items.append(Item(text_of(pair, "query_id", place), data, name))
    return items


def _spans(answer: Any, place: str) -> tuple[str, ...]:
    """An answer's spans: its number, its spans or its date, whichever is there first; () if none is."""
    if not isinstance(answer, Mapping):
        raise DataError(
            f"an answer is {json_type(answer)}, not an object", place, "give a split with answers"
        )
    if answer.get("number"):
        return (str(answer["number"]),)
    if answer.get("spans"):
        return tuple(map(str, answer["spans"]))
    date = answer.get("date") or {}
    said = " ".join(str(date.get(part, "")) for part in ("day", "month", "year"))
    return (said,) if said.strip() else ()


def _passage(item: Item) -> str:
    return f"Passage: {item.data['context']}\nQuestion: {item.data['question']}\nAnswer:"


def _ask(item: Item, shots: Sequence[Item]) -> list[Generate]:
    solved = [f"{_passage(shot)} {', '.join(shot.data['answers'][0])}" for shot in shots]
    return [Generate("\n\n".join([*solved, _passage(item)]), _LONGEST, stop=("\n",))]


def _score(item: Item, answers: Sequence[Answer]) -> Scored:
    prediction, references = reply_line(answers[0]), item.data["answers"]
    exact, f1 = drop.best([prediction], references)
    shown = {
        "prompt": f"{item.data['context']}\n\n{item.data['question']}",
        "reply": prediction,
        "references": [", ".join(spans) for spans in references],
    }
    return Scored({"f1": f1, "exact": exact}, shown)
