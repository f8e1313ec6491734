"""Every verdict of the released evaluation of GPT-4's replies, where the data are at hand."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from instructgpt.evaluation.ifeval.verdicts import judge
from instructgpt.evaluation.tasks.ifeval import read

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"


def released() -> list[dict[str, Any]]:
    path = FOLDER / "ifeval-gpt4-responses.jsonl.gz"
    if not path.exists():
        pytest.skip("the development data is not at hand: ../shared/data/eval/ifeval-gpt4-responses.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_every_verdict_is_the_references() -> None:
    rows = released()
    items = {item.data["prompt"]: item for item in read([FOLDER / "ifeval.jsonl"])}
    wrong = []
    for row in rows:
        instructions = items[row["prompt"]].data["instructions"]
        found = judge(row["response"], instructions)
        for place, one in enumerate(instructions):
            for form in ("strict", "loose"):
                if getattr(found, form)[place] != row[form][place]:
                    wrong.append((row["key"], one.kind, form, row[form][place]))
    assert len(rows) == 280 and wrong == []
