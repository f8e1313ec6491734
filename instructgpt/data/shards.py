"""A token memmap: documents one after the other in one file, read in windows that depend on the step alone.

Folder: `tokens.bin` (uint16 or uint32, little-endian), `index.json` (type, document offsets, tokenizer).
"""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from hashlib import blake2b
from itertools import islice, pairwise
from pathlib import Path
from typing import BinaryIO

from instructgpt.data.records import Text
from instructgpt.errors import CheckpointError, ConfigError, DataError, StorageError
from instructgpt.text.tokenizer import Tokenizer

_CHUNK = 512  # texts encoded at once


def write_shards(texts: Iterable[Text | str], tokenizer: Tokenizer, folder: str | Path) -> TokenShards:
    """Encode documents, each as bos (if the tokenizer has one), text, eos, and write them as a folder,
    atomically.

    Args:
        texts: read once, in order; never all in memory.

    Raises:
        DataError: there are no texts.
        StorageError: the disk is full or the place can't be written; what was there before stays.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        kind = "H" if tokenizer.vocab_size <= 1 << 16 else "I"
        with (temporary / "tokens.bin").open("wb") as file:
            offsets = _write_tokens(file, texts, tokenizer, kind)
            file.flush()
            os.fsync(file.fileno())
        index = {
            "dtype": "uint16" if kind == "H" else "uint32",
            "tokens": offsets[-1],
            "tokenizer": tokenizer.fingerprint,
            "offsets": offsets,
        }
        (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as error:
        raise StorageError(
            f"can't write: {(error.strerror or str(error)).lower()}",
            where=str(folder),
            cure="free some space or choose another place, then run the same command again",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return TokenShards.open(folder, tokenizer)


def _write_tokens(file: BinaryIO, texts: Iterable[Text | str], tokenizer: Tokenizer, kind: str) -> list[int]:
    head = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    offsets = [0]
    stream = iter(texts)
    while chunk := [text if isinstance(text, str) else text.text for text in islice(stream, _CHUNK)]:
        for ids in tokenizer.encode_batch(chunk):
            document = array(kind, [*head, *ids, tokenizer.eos_id])
            if sys.byteorder == "big":
                document.byteswap()
            document.tofile(file)
            offsets.append(offsets[-1] + len(document))
    if len(offsets) == 1:
        raise DataError("there are no texts to encode", cure="give files with text in them")
    return offsets


class TokenShards:
    """Documents of token ids on disk, mapped into memory.

    Attributes:
        tokens: ids in all.
        offsets: where each document starts, and the end of the last one (documents + 1).
    """

    def __init__(self, tokens: memoryview, offsets: list[int]) -> None:
        self._tokens = tokens
        self.offsets = offsets
        self.tokens = len(tokens)
        self._order: tuple[tuple[int, int, int], list[int]] | None = None

    @classmethod
    def open(cls, folder: str | Path, tokenizer: Tokenizer | None = None) -> TokenShards:
        """Map a folder that `write_shards` wrote.

        Raises:
            CheckpointError: it is missing, damaged, or was made with another tokenizer than the one given.
        """
        folder = Path(folder)
        cure = "make it again from the texts"
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            size = {"uint16": 2, "uint32": 4}[index["dtype"]]
            with (folder / "tokens.bin").open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            offsets = [int(offset) for offset in index["offsets"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"not a folder of tokens: {error}", where=str(folder), cure=cure) from error
        if len(mapped) != size * index["tokens"] or offsets[-1] != index["tokens"]:
            what = f"tokens.bin has {len(mapped)} bytes, index.json says {size * index['tokens']}"
            raise CheckpointError(what, where=str(folder), cure=cure)
        if tokenizer is not None and tokenizer.fingerprint != index["tokenizer"]:
            raise CheckpointError("the tokens were made with another tokenizer", where=str(folder), cure=cure)
        if sys.byteorder == "big":
            swapped = array("H" if size == 2 else "I", bytes(mapped))
            swapped.byteswap()
            return cls(memoryview(swapped), offsets)
        return cls(memoryview(mapped).cast("H" if size == 2 else "I"), offsets)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    def document(self, index: int) -> list[int]:
        """Ids of one document."""
        return self._tokens[self.offsets[index] : self.offsets[index + 1]].tolist()

    def windows(self, step: int, batch: int, length: int, seed: int) -> list[list[int]]:
        """Windows of `length` consecutive ids each, `batch` of them; they may start and end inside documents.

        An epoch visits consecutive windows, cut from a random start, each once in random order; then the next
        epoch cuts and orders them anew. All follows from (seed, step, batch, length), so resuming needs no
        cursor.

        Raises:
            DataError: there are fewer than `length` ids.
        """
        return [
            self._tokens[start : start + length].tolist() for start in self._starts(step, batch, length, seed)
        ]

    def batch(self, step: int, batch: int, length: int, seed: int) -> list[list[int]]:
        """The same windows, cut where documents meet, so that none attends to another.

        Returns:
            between `batch` and batch * length sequences; parts of a single id, which predict nothing, are
            left out.
        """
        sequences = []
        for start in self._starts(step, batch, length, seed):
            end = start + length
            inside = self.offsets[bisect_right(self.offsets, start) : bisect_left(self.offsets, end)]
            for first, last in pairwise([start, *inside, end]):
                if last - first > 1:
                    sequences.append(self._tokens[first:last].tolist())
        return sequences

    def _starts(self, step: int, batch: int, length: int, seed: int) -> list[int]:
        if length < 2 or batch < 1:
            raise ConfigError(
                f"windows of {length} tokens, {batch} at a time", cure="use at least 2 tokens and 1 row"
            )
        if self.tokens < length:
            raise DataError(
                f"there are only {self.tokens} tokens, a window needs {length}",
                cure="give more text or a smaller context",
            )
        per_epoch = max(
            1, (self.tokens + 1) // length - 1
        )  # with any start below `length`, so many always fit
        starts = []
        for place in range(step * batch, (step + 1) * batch):
            epoch, rank = divmod(place, per_epoch)
            starts.append(self._epoch(seed, epoch, length, per_epoch)[rank])
        return starts

    def _epoch(self, seed: int, epoch: int, length: int, per_epoch: int) -> list[int]:
        key = (seed, epoch, length)
        if self._order is None or self._order[0] != key:
            draw = random.Random(blake2b(f"{seed}:{epoch}:{length}".encode(), digest_size=8).digest())
            first = draw.randint(0, min(length - 1, self.tokens - per_epoch * length))
            starts = list(range(first, first + per_epoch * length, length))
            draw.shuffle(starts)
            self._order = (key, starts)
        return self._order[1]
