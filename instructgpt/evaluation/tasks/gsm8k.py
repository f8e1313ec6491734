"""GSM8K: problems of school mathematics whose answer is a number (arXiv:2110.14168).

Files: the official `test.jsonl` (`question`, `answer` ending with `#### 42`). The headline is the official
exact match of what stands behind `####`; `last_number` takes the last number of the reply instead, which is
fair to models that were never shown the mark. Prompt: five solved problems of the training file, as in
lm-evaluation-harness.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from instructgpt.errors import DataError
from instructgpt.evaluation.metrics.math_answers import flexible, solves, strict
from instructgpt.evaluation.suite.reading import rows, text_of
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

_LONGEST = 256
_SHOTS = 5


def make(options: Options) -> Task:
    """GSM8K: exact match of the marked number, and of the last number."""
    return Task(
        name="gsm8k",
        version=1,
        files=("gsm8k*test*.jsonl", "gsm8k/test.jsonl", "test.jsonl"),
        read=_read,
        ask=_ask,
        score=each(_score),
        metrics=(Metric("exact"), Metric("last_number")),
        shots=_SHOTS,
        shot_files=("gsm8k*train*.jsonl", "gsm8k/train.jsonl", "train.jsonl"),
        hub=("openai/gsm8k:main/test-00000-of-00001.parquet",),
        source="Cobbe et al. 2021, arXiv:2110.14168",
    )


def _read(paths: list[Path]) -> list[Item]:
    items = []
    for path in paths:
        for number, (place, row) in enumerate(rows(path)):
            question, solution = text_of(row, "question", place), text_of(row, "answer", place)
            if not solves(solution):
                raise DataError("the answer has no '#### number'", place, "give the data set's own file")
            items.append(Item(str(number), {"question": question.strip(), "answer": solution.strip()}))
    return items


def _block(item: Item) -> str:
    return f"Question: {item.data['question']}\nAnswer:"


def _ask(item: Item, shots: Sequence[Item]) -> list[Generate]:
    solved = [f"{_block(shot)} {shot.data['answer']}" for shot in shots]
    return [Generate("\n\n".join([*solved, _block(item)]), _LONGEST, stop=("Question:", "\n\n\n"))]


def _score(item: Item, answers: Sequence[Answer]) -> Scored:
    found = answers[0]
    assert isinstance(found, Generated)
    reply, solution = found.text.strip(), item.data["answer"]
    scores = {"exact": strict(reply, solution), "last_number": flexible(reply, solution)}
    return Scored(scores, {"prompt": item.data["question"], "reply": reply, "references": [solution]})
