"""Verb `tokenizer`: byte-level BPE from the user's text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from instructgpt.data.jsonl import JSONL_ENDINGS, TEXT_ENDINGS, expand
from instructgpt.data.records import read_texts
from instructgpt.errors import ConfigError
from instructgpt.runtime.checkpoint import open_run
from instructgpt.runtime.files import storage_errors
from instructgpt.text.tokenizer import train_tokenizer

_MEASURED_TEXTS = 1000


@dataclass(frozen=True)
class TokenizerConfig:
    """Train a byte-level BPE tokenizer."""

    data: str = ""
    """Texts: .jsonl or .txt files (or .gz), a glob, or several with commas."""
    out: str = ""
    """Folder to write: tokenizer.json, tokenizer_config.json, summary.json."""
    vocab_size: int = 1024
    """Number of ids, 7 special ones and 256 bytes included."""


def train(config: TokenizerConfig) -> dict[str, Any]:
    """Train and write a tokenizer; returns the summary.

    Summary: `vocab_size` (reached), `texts`, `characters`, `bytes_per_token` (on the first 1,000 texts).

    Raises:
        ConfigError: a flag is missing, or vocab_size is too small.
        DataError: the texts are missing, empty or malformed.
    """
    if not config.data:
        raise ConfigError("no texts were named", "--data", "give a .jsonl or .txt file")
    files = expand(config.data, (*JSONL_ENDINGS, *TEXT_ENDINGS))
    with open_run(config.out, "tokenizer", config, {"data": ",".join(map(str, files))}) as run:
        if run.finished is not None:
            return run.finished
        texts = [text.text for text in read_texts(config.data)]
        tokenizer = train_tokenizer(texts, config.vocab_size)
        with storage_errors(run.folder):
            tokenizer.save(run.folder)
        measured = texts[:_MEASURED_TEXTS]
        tokens = sum(len(ids) for ids in tokenizer.encode_batch(measured))
        return run.finish(
            {
                "vocab_size": tokenizer.vocab_size,
                "texts": len(texts),
                "characters": sum(map(len, texts)),
                "bytes_per_token": sum(len(text.encode()) for text in measured) / max(1, tokens),
            }
        )
