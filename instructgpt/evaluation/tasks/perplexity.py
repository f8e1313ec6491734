"""Perplexity and bits per byte of any text: plain files, JSONL with `text`, or WikiText.

A plain file is one document; a file with WikiText's headings (` = Title = `) is cut into its articles. Each
document is predicted whole, from the token that begins a document on, in windows of the model's context
(lm-evaluation-harness, `loglikelihood_rolling`). Bits per byte compare models with different tokenizers;
perplexity per token does not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from instructgpt.data.jsonl import read_text
from instructgpt.evaluation.suite.reading import rows, text_of
from instructgpt.evaluation.suite.task import (
    Answer,
    Array,
    Document,
    Item,
    Likelihood,
    Metric,
    Options,
    Scored,
    Task,
    each,
)

_TITLE = re.compile(r"^ = [^=\n]+ = $", re.MULTILINE)
_SHOWN = 400  # characters of a document that people see


def make(options: Options) -> Task:
    """The task; its file is best named: --data perplexity=FILE."""
    return Task(
        name="perplexity",
        version=1,
        files=("wiki.test.raw", "wiki.test.tokens", "wikitext*test*.txt", "*.txt"),
        read=read,
        ask=lambda item, shots: [Document(item.data["text"])],
        score=each(_judge),
        metrics=(
            Metric("bits_per_byte", combine=bits_per_byte, better="lower", unit="bits/byte"),
            Metric("perplexity", combine=perplexity, better="lower", unit="per token"),
            Metric("word_perplexity", combine=word_perplexity, better="lower", unit="per word"),
        ),
        source="every token after the one that begins a document is predicted once",
    )


def read(paths: list[Path]) -> list[Item]:
    """Documents: `text`."""
    items = []
    for path in paths:
        for number, text in enumerate(_documents(path)):
            if text.strip():
                items.append(Item(f"{path.name}:{number}", {"text": text}))
    return items


def _documents(path: Path) -> list[str]:
    if path.name.removesuffix(".gz").endswith((".jsonl", ".parquet", ".csv", ".tsv")):
        return [text_of(row, "text", where) for where, row in rows(path)]
    text = read_text(path)
    starts = [match.start() for match in _TITLE.finditer(text)]
    if not starts:
        return [text]
    return [text[begin:end] for begin, end in zip([0, *starts], [*starts, len(text)], strict=True)]


def _judge(item: Item, answers: Sequence[Answer]) -> Scored:
    found = cast(Likelihood, answers[0])
    text = item.data["text"]
    scores = {
        "nats": -found.nats,
        "tokens": float(found.tokens),
        "bytes": float(len(text.encode())),
        "words": float(max(1, len(text.split()))),
    }
    return Scored(scores, {"prompt": text[:_SHOWN]})


def bits_per_byte(columns: Mapping[str, Array]) -> float:
    """Bits that the model needs for a byte of UTF-8."""
    return float(columns["nats"].sum() / math.log(2) / columns["bytes"].sum())


def perplexity(columns: Mapping[str, Array]) -> float:
    """exp of the mean nats per token."""
    return math.exp(columns["nats"].sum() / columns["tokens"].sum())


def word_perplexity(columns: Mapping[str, Array]) -> float:
    """exp of the mean nats per word between blanks."""
    return math.exp(columns["nats"].sum() / columns["words"].sum())
