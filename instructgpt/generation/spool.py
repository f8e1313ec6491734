"""A JSONL file of results that grows portion by portion: a kill loses no more than the portion in hand."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from instructgpt.runtime.files import storage_errors


class Spool:
    """Rows on disk in portions of a fixed number of lines (the last one may be shorter).

    A file that a kill left behind is cut back to its whole portions; `done` says how many those are.
    """

    def __init__(self, path: Path, portion: int) -> None:
        """Open `path`, new or with what an earlier run wrote; `portion` is in lines."""
        self.path, self.portion = path, portion
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            lines = path.read_bytes().splitlines(keepends=True)
            whole = len(lines) - (not lines[-1].endswith(b"\n") if lines else 0)
            self.done = whole // portion
            """Portions that are on disk already."""
            os.truncate(path, sum(map(len, lines[: self.done * portion])))

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one portion and hand it to the disk.

        Raises:
            StorageError: the disk is full or forbids it; the portions before it stay.
        """
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with storage_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[dict[str, Any]]:
        """All rows on disk."""
        with self.path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]
