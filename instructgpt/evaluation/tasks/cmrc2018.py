"""CMRC 2018: questions about Chinese passages (arXiv:1810.07366).

Files: the official `cmrc2018_dev.json` (a list of passages with `context_text` and `qas`), its SQuAD-style
form, or flat records. Metric: the official F1 over the longest common run of characters, and exact match
(`metrics.chinese`). Prompt: ours, in Chinese.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from instructgpt.evaluation.metrics.chinese import cmrc_exact, cmrc_f1
from instructgpt.evaluation.suite.reading import document, text_of
from instructgpt.evaluation.suite.task import Answer, Item, Metric, Options, Scored, Task, each
from instructgpt.evaluation.tasks.squad import answers_of, ask, read, reply_line, shown

_INSTRUCTION = "请根据背景段落回答问题，答案用段落中的原文。"


def make(options: Options) -> Task:
    """CMRC 2018: the official F1 and exact match."""
    return Task(
        name="cmrc2018",
        version=1,
        files=("cmrc2018_dev.json", "cmrc2018*.json", "cmrc2018*.jsonl", "cmrc2018*.parquet"),
        read=_read,
        ask=lambda item, shots: [ask(_INSTRUCTION, item, shots, "zh")],
        score=each(_score),
        metrics=(Metric("f1"), Metric("exact")),
        hub=("hfl/cmrc2018:data/validation-00000-of-00001.parquet",),
        source="Cui et al. 2019, arXiv:1810.07366; cmrc2018_evaluate.py",
    )


def _read(paths: list[Path]) -> list[Item]:
    items: list[Item] = []
    for path in paths:
        whole = document(path) if path.name.removesuffix(".gz").endswith(".json") else None
        official = isinstance(whole, list) and bool(whole) and isinstance(whole[0], dict)
        if official and whole is not None and "context_text" in whole[0]:
            items += _passages(whole, str(path))
        else:
            items += read([path])
    return items


def _passages(passages: Sequence[Any], path: str) -> Iterator[Item]:
    for number, passage in enumerate(passages):
        place = f"{path}, record {number}"
        context = text_of(passage, "context_text", place).strip()
        for question in passage.get("qas", ()):
            data = {
                "title": str(passage.get("title", "")),
                "context": context,
                "question": text_of(question, "query_text", place).strip(),
                "answers": answers_of(question, place),
                "before": (),
            }
            yield Item(text_of(question, "query_id", place).strip(), data, str(number))


def _score(item: Item, answers: Sequence[Answer]) -> Scored:
    prediction, references = reply_line(answers[0]), item.data["answers"]
    scores = {"f1": cmrc_f1(prediction, references), "exact": cmrc_exact(prediction, references)}
    return Scored(scores, shown(item, prediction))
