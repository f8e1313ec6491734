"""HellaSwag (Zellers et al. 2019, arXiv:1905.07830): which of four endings follows?

Official file `hellaswag_val.jsonl` (rowanz/hellaswag); also its text form with `context`, `endings` and
`label`. Prompt and cleaning as in lm-evaluation-harness, task version 1.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from instructgpt.errors import DataError
from instructgpt.evaluation.suite.reading import index_of, rows, text_of, texts_of
from instructgpt.evaluation.suite.task import Answer, Choices, Item, Likelihood, Options, Scored, Task, each
from instructgpt.evaluation.tasks.choice import (
    ACCURACY,
    ACCURACY_CHARS,
    ACCURACY_TOKENS,
    CALIBRATION,
    choose,
)

_ARTEFACT = re.compile(r"\[.*?\]")  # of the WikiHow half, such as [step]


def make(options: Options) -> Task:
    """The task; its headline is the accuracy per character."""
    return Task(
        name="hellaswag",
        version=1,
        files=("hellaswag_val.jsonl", "hellaswag*.jsonl", "hellaswag/*validation*.parquet"),
        read=read,
        ask=ask,
        score=each(_judge),
        metrics=(ACCURACY_CHARS, ACCURACY, ACCURACY_TOKENS, *CALIBRATION),
        shot_files=("hellaswag_train.jsonl", "hellaswag/*train*.parquet"),
        hub=("Rowan/hellaswag:data/validation-00000-of-00001.parquet",),
        source="arXiv:1905.07830; prompt of lm-evaluation-harness 1.0",
    )


def read(paths: list[Path]) -> list[Item]:
    """Questions: `prompt`, `endings`, `label`; the video or article is the group."""
    items = []
    for path in paths:
        for number, (where, row) in enumerate(rows(path)):
            endings = [clean(ending) for ending in texts_of(row, "endings", where)]
            if len(endings) < 2:
                raise DataError("a question has one ending", where, "give the data set's own file")
            prompt = text_of(row, "context", where) if "context" in row else _prompt(row, where)
            data = {
                "prompt": prompt,
                "endings": endings,
                "label": index_of(row, "label", where, len(endings)),
            }
            official = row.get("ind", row.get("id", number))
            items.append(Item(str(official), data, str(row.get("source_id", ""))))
    return items


def _prompt(row: Mapping[str, Any], where: str) -> str:
    activity, first, second = (text_of(row, key, where) for key in ("activity_label", "ctx_a", "ctx_b"))
    return clean(f"{activity}: {first} {second.capitalize()}")


def clean(text: str) -> str:
    """A text without the artefacts of WikiHow's mark-up."""
    text = text.strip().replace(" [title]", ". ")
    return _ARTEFACT.sub("", text).replace("  ", " ")


def ask(item: Item, shots: Sequence[Item]) -> list[Choices]:
    """One question: the prompt, after solved examples, and its endings."""
    solved = [f"{shot.data['prompt']} {shot.data['endings'][shot.data['label']]}" for shot in shots]
    context = "\n\n".join([*solved, item.data["prompt"]])
    return [Choices(context, tuple(f" {ending}" for ending in item.data["endings"]))]


def _judge(item: Item, answers: Sequence[Answer]) -> Scored:
    likelihoods = cast(tuple[Likelihood, ...], answers[0])
    return choose(item.data["prompt"], item.data["endings"], likelihoods, item.data["label"])
