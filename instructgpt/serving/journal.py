"""A JSONL file that rows are appended to while others read it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from instructgpt.errors import DataError
from instructgpt.runtime.files import storage_errors


class Journal:
    """Appends rows, each in one write: a kill leaves a torn last line at most, which the next row is kept
    apart from."""

    def __init__(self, path: str | Path) -> None:
        """
        Raises:
            StorageError: the file can't be written.
        """
        self.path = Path(path)
        self._lock = threading.Lock()
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                end = file.tell()
                file.seek(max(0, end - 1))
                torn = end > 0 and file.read(1) != b"\n"
                if torn:
                    file.write(b"\n")

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is on the disk when this returns.

        Raises:
            StorageError: the disk is full or forbids it.
        """
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._lock, storage_errors(self.path):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class Entries(NamedTuple):
    """What a journal holds."""

    rows: list[dict[str, Any]]
    places: list[str]
    """FILE:LINE of each row."""
    torn: list[str]
    """FILE:LINE of the lines that a kill has torn."""


def read_journal(path: str | Path) -> Entries:
    """All rows of a journal, and where a line can't be read.

    Raises:
        DataError: a line is valid JSON and no object.
    """
    entries = Entries([], [], [])
    # Not `splitlines`: a text in a row may hold other characters that end lines, such as U+2028.
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            entries.torn.append(f"{path}:{number}")
            continue
        if not isinstance(row, dict):
            raise DataError("a line is no JSON object", f"{path}:{number}", "remove the line")
        entries.rows.append(row)
        entries.places.append(f"{path}:{number}")
    return entries
