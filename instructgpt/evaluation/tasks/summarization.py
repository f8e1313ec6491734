"""Summaries: CNN/DailyMail, TL;DR and XSum; ROUGE-1, 2 and L against the reference.

Files: records with the document and its summary under the names of each data set's releases (JSONL, CSV or
Parquet), or one file of several sets with `source`, `document` and `summary`. Prompt: the paper's (App. D.2,
figure 26): the document, then `TL;DR:`. ROUGE is rouge-score's, stemmed, as F.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from instructgpt.errors import DataError
from instructgpt.evaluation.metrics.rouge import rouge
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

_LONGEST = 128
_KEYS = {
    "cnn_dm": (("article", "highlights"),),
    "tldr": (("post", "summary"), ("content", "summary"), ("prompt", "label")),
    "xsum": (("document", "summary"),),
}
"""Keys of document and summary in the releases of each set."""
_NAMES = {"cnn_dm": ("cnn_dailymail", "cnn_dm"), "tldr": ("tldr",), "xsum": ("xsum",)}
"""What `source` says in a file of several sets."""
_METRICS = (Metric("rougeL", unit="F"), Metric("rouge1", unit="F"), Metric("rouge2", unit="F"))


def cnn_dm(options: Options) -> Task:
    """CNN/DailyMail: the highlights of a news article."""
    return _task(
        "cnn_dm",
        ("cnn_dailymail*test*", "cnn_dm*", "summarization*.jsonl"),
        "Hermann et al. 2015; See et al. 2017, arXiv:1704.04368; prompt: arXiv:2203.02155, App. D.2",
        ("abisee/cnn_dailymail:3.0.0/test-00000-of-00001.parquet",),
        ends=("\n\n",),
    )


def tldr(options: Options) -> Task:
    """Reddit TL;DR: the author's own summary of a post."""
    return _task(
        "tldr",
        ("tldr*test*.jsonl", "tldr*.jsonl", "tldr*.parquet"),
        "Völske et al. 2017; Stiennon et al. 2020, arXiv:2009.01325; prompt: arXiv:2203.02155, App. D.2",
    )


def xsum(options: Options) -> Task:
    """XSum: a news article in one sentence."""
    return _task(
        "xsum",
        ("xsum*test*", "xsum*", "summarization*.jsonl"),
        "Narayan et al. 2018, arXiv:1808.08745",
        ("EdinburghNLP/xsum:data/test-00000-of-00001.parquet",),
    )


def _task(
    name: str,
    files: tuple[str, ...],
    source: str,
    hub: tuple[str, ...] = (),
    ends: tuple[str, ...] = ("\n",),
) -> Task:
    return Task(
        name=name,
        version=1,
        files=files,
        read=lambda paths: [item for path in paths for item in _read(path, name)],
        ask=lambda item, shots: [_ask(item, shots, ends)],
        score=each(_score),
        metrics=_METRICS,
        hub=hub,
        source=f"{source}; rouge-score, stemmed",
    )


def _read(path: Path, name: str) -> Iterator[Item]:
    found = 0
    for number, (place, row) in enumerate(rows(path)):
        if isinstance(row.get("source"), str) and {"document", "summary"} <= row.keys():
            if row["source"] not in _NAMES[name]:
                continue
            keys = ("document", "summary")
        else:
            keys = _keys(row, name, place)
        document, summary = text_of(row, keys[0], place).strip(), text_of(row, keys[1], place).strip()
        if not document or not summary:
            raise DataError("a document or its summary is empty", place, "leave the record out")
        found += 1
        yield Item(str(row.get("id", number)), {"document": document, "summary": summary})
    if not found:
        cure = "give the data set's own file"
        raise DataError(f"the file holds no records of {name}", str(path), cure)


def _keys(row: Mapping[str, Any], name: str, place: str) -> tuple[str, str]:
    for keys in _KEYS[name]:
        if set(keys) <= row.keys():
            return keys
    known = " or ".join(" and ".join(keys) for keys in _KEYS[name])
    raise DataError(f"the record has no {known}", place, "give the data set's own file")


def _block(item: Item) -> str:
    document: str = item.data["document"]
    return document if document.endswith("TL;DR:") else f"{document}\n\nTL;DR:"


def _ask(item: Item, shots: Sequence[Item], ends: tuple[str, ...]) -> Generate:
    solved = [f"{_block(shot)} {' '.join(shot.data['summary'].split())}" for shot in shots]
    return Generate("\n\n".join([*solved, _block(item)]), _LONGEST, stop=ends)


def _score(item: Item, answers: Sequence[Answer]) -> Scored:
    found = answers[0]
    assert isinstance(found, Generated)
    summary = found.text.strip()
    shown = {"prompt": item.data["document"], "reply": summary, "references": [item.data["summary"]]}
    return Scored({**rouge(summary, item.data["summary"]), "tokens": float(found.tokens)}, shown)
