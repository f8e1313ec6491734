"""Two tasks of GLUE (Wang et al. 2018, arXiv:1804.07461) by likelihood: RTE (does a sentence follow?) and
SST-2 (is a review positive?).

Official files: GLUE's `RTE/dev.tsv` and `SST-2/dev.tsv`, SuperGLUE's `RTE/val.jsonl`, or their records as
JSONL. Prompts as in lm-evaluation-harness, task versions 1.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from instructgpt.errors import DataError
from instructgpt.evaluation.suite.reading import rows, text_of
from instructgpt.evaluation.suite.task import Answer, Choices, Item, Likelihood, Options, Scored, Task, each
from instructgpt.evaluation.tasks.choice import (
    ACCURACY,
    ACCURACY_CHARS,
    ACCURACY_TOKENS,
    CALIBRATION,
    choose,
)

_METRICS = (ACCURACY, ACCURACY_CHARS, ACCURACY_TOKENS, *CALIBRATION)
_FOLLOWS = {"entailment": 0, "not_entailment": 1, "0": 0, "1": 1}
_POSITIVE = {"0": 0, "1": 1}


def rte(options: Options) -> Task:
    """Recognising textual entailment."""
    return Task(
        name="rte",
        version=1,
        files=("RTE/dev.tsv", "RTE/val.jsonl", "rte*dev*.tsv", "rte*val*.jsonl", "rte/*validation*.parquet"),
        read=read_rte,
        ask=_ask,
        score=each(_judge),
        metrics=_METRICS,
        shot_files=("RTE/train.tsv", "RTE/train.jsonl", "rte*train*", "rte/*train*.parquet"),
        hub=("nyu-mll/glue:rte/validation-00000-of-00001.parquet",),
        source="arXiv:1804.07461; prompt of lm-evaluation-harness 1.0",
    )


def sst2(options: Options) -> Task:
    """Stanford Sentiment Treebank, two classes."""
    return Task(
        name="sst2",
        version=1,
        files=("SST-2/dev.tsv", "sst2*dev*.tsv", "sst2-test.jsonl", "sst2/*validation*.parquet"),
        read=read_sst2,
        ask=_ask,
        score=each(_judge),
        metrics=_METRICS,
        shot_files=("SST-2/train.tsv", "sst2*train*", "sst2/*train*.parquet"),
        hub=("nyu-mll/glue:sst2/validation-00000-of-00001.parquet",),
        source="arXiv:1804.07461; prompt of lm-evaluation-harness 1.0",
    )


def read_rte(paths: list[Path]) -> list[Item]:
    """Pairs of sentences: `prompt`, `choices`, `label` (0 where the second follows)."""
    items = []
    for number, (where, row) in enumerate(_records(paths)):
        premise = "premise" if "premise" in row else "sentence1"
        hypothesis = "hypothesis" if "hypothesis" in row else "sentence2"
        first, second = text_of(row, premise, where), text_of(row, hypothesis, where)
        data = {
            "prompt": f"{first}\nQuestion: {second} True or False?\nAnswer:",
            "choices": ("True", "False"),
            "label": _label(row, where, _FOLLOWS),
        }
        items.append(Item(str(row.get("index", row.get("idx", number))), data))
    return items


def read_sst2(paths: list[Path]) -> list[Item]:
    """Sentences: `prompt`, `choices`, `label` (1 where it is positive)."""
    items = []
    for number, (where, row) in enumerate(_records(paths)):
        sentence = text_of(row, "sentence", where)
        data = {
            "prompt": f"{sentence}\nQuestion: Is this sentence positive or negative?\nAnswer:",
            "choices": ("negative", "positive"),
            "label": _label(row, where, _POSITIVE),
        }
        items.append(Item(str(row.get("idx", number)), data))
    return items


def _records(paths: list[Path]) -> list[tuple[str, dict[str, Any]]]:
    return [found for path in paths for found in rows(path)]


def _label(row: Mapping[str, Any], where: str, known: Mapping[str, int]) -> int:
    value = str(row.get("label"))
    if value not in known:
        cure = "give a split with labels (those of the test set are hidden)"
        raise DataError(f"the label is {value!r}, not one of {', '.join(known)}", where, cure)
    return known[value]


def _ask(item: Item, shots: Sequence[Item]) -> list[Choices]:
    solved = [f"{shot.data['prompt']} {shot.data['choices'][shot.data['label']]}" for shot in shots]
    context = "\n\n".join([*solved, item.data["prompt"]])
    return [Choices(context, tuple(f" {choice}" for choice in item.data["choices"]))]


def _judge(item: Item, answers: Sequence[Answer]) -> Scored:
    likelihoods = cast(tuple[Likelihood, ...], answers[0])
    return choose(item.data["prompt"], item.data["choices"], likelihoods, item.data["label"])
