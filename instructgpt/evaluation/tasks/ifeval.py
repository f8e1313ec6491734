"""IFEval (Zhou et al. 2023, arXiv:2311.07911): does a reply follow instructions that a program can verify?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from instructgpt.errors import DataError
from instructgpt.evaluation.ifeval.instructions import KINDS, Instruction
from instructgpt.evaluation.ifeval.verdicts import judge
from instructgpt.evaluation.suite.reading import rows, text_of, texts_of
from instructgpt.evaluation.suite.task import (
    Answer,
    Array,
    Generate,
    Generated,
    Item,
    Metric,
    Options,
    Scored,
    Task,
    each,
)

_MAX_NEW = 1280  # tokens; as in lm-evaluation-harness
CATEGORIES = tuple(dict.fromkeys(kind.partition(":")[0] for kind in KINDS))


def make(options: Options) -> Task:
    """The task `ifeval`: prompts as they are, greedy replies."""
    return Task(
        name="ifeval",
        version=1,
        files=("input_data.jsonl", "ifeval_input_data.jsonl", "ifeval.jsonl"),
        read=read,
        ask=_ask,
        score=each(score),
        metrics=(
            Metric("prompt_strict"),
            Metric("prompt_loose"),
            _ratio("instruction_strict", "followed_strict", "instructions"),
            _ratio("instruction_loose", "followed_loose", "instructions"),
            *(_ratio(f"strict_{name}", f"followed_strict_{name}", f"given_{name}") for name in CATEGORIES),
        ),
        hub=("google/IFEval:ifeval_input_data.jsonl",),
        source="arXiv:2311.07911; verdicts as google-research/instruction_following_eval",
    )


def _ratio(name: str, top: str, bottom: str) -> Metric:
    def combine(columns: Mapping[str, Array]) -> float:
        count = np.nansum(columns[bottom]) if bottom in columns else 0.0
        return float(np.nansum(columns[top]) / count) if count else float("nan")

    return Metric(name, combine)


def read(paths: list[Path]) -> list[Item]:
    """The official `input_data.jsonl`: `key`, `prompt`, `instruction_id_list`, `kwargs`.

    Raises:
        DataError: a field is missing, or an instruction can't be verified.
    """
    items: list[Item] = []
    for path in paths:
        for where, row in rows(path):
            kinds = texts_of(row, "instruction_id_list", where)
            asked = row.get("kwargs")
            if not isinstance(asked, list) or len(asked) != len(kinds):
                raise DataError(
                    f"'kwargs' is not a list of {len(kinds)} objects",
                    where,
                    "give one object for each of 'instruction_id_list', {} where it asks for nothing",
                )
            instructions = tuple(
                Instruction.of(kind, values or {}, where) for kind, values in zip(kinds, asked, strict=True)
            )
            data = {"prompt": text_of(row, "prompt", where), "instructions": instructions}
            items.append(Item(str(row.get("key", len(items))), data))
    return items


def _ask(item: Item, shots: Sequence[Item]) -> list[Generate]:
    return [Generate(item.data["prompt"], max_new=_MAX_NEW)]


def score(item: Item, answers: Sequence[Answer]) -> Scored:
    """Verdicts on the reply, in all and by category of instruction."""
    (reply,) = answers
    assert isinstance(reply, Generated)
    instructions: tuple[Instruction, ...] = item.data["instructions"]
    found = judge(reply.text, instructions)
    scores: dict[str, float] = {
        "prompt_strict": float(all(found.strict)),
        "prompt_loose": float(all(found.loose)),
        "instructions": float(len(instructions)),
        "followed_strict": float(sum(found.strict)),
        "followed_loose": float(sum(found.loose)),
    }
    for one, followed in zip(instructions, found.strict, strict=True):
        category = one.kind.partition(":")[0]
        scores[f"given_{category}"] = scores.get(f"given_{category}", 0.0) + 1
        scores[f"followed_strict_{category}"] = scores.get(f"followed_strict_{category}", 0.0) + followed
    verdicts = [
        {"instruction": one.kind, "asked": dict(one.asked), "strict": strict, "loose": loose}
        for one, strict, loose in zip(instructions, found.strict, found.loose, strict=True)
    ]
    return Scored(scores, {"prompt": item.data["prompt"], "reply": reply.text, "verdicts": verdicts})
