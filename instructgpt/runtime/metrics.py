"""What a long job says while it runs: one JSONL line a step on disk, a progress bar with ETA on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from instructgpt.runtime.files import storage_errors, write_text

_SECONDS_BETWEEN_LINES = 15.0


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class MetricsLog:
    """Appends rows to `metrics.jsonl`; each row holds its `step` and whatever was measured."""

    def __init__(self, path: Path, resume_step: int) -> None:
        """Opens the file; rows after `resume_step` are dropped, for those steps are done again."""
        self.path = path
        kept = [row for row in read_metrics(path) if row.get("step", 0) <= resume_step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        with storage_errors(path):
            self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row and hand it to the operating system at once."""
        with storage_errors(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file. A row that the disk refused is tried again here; `write` has said so already."""
        with contextlib.suppress(OSError):
            self._file.close()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """A progress line on stderr: redrawn in place on a terminal, a plain line every 15 s elsewhere."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        """`label` names the job, `total` and `done` count its steps."""
        self.label, self.total, self.first, self.done = label, total, done, done
        self.start = self._last = time.monotonic()
        self.note = ""
        self._silent = os.environ.get("INSTRUCTGPT_PROGRESS") == "0"
        self._terminal = sys.stderr.isatty()

    def advance(self, steps: int = 1) -> None:
        """Count `steps` as done and show it when it is time to."""
        self.done += steps
        now = time.monotonic()
        pause = 0.1 if self._terminal else _SECONDS_BETWEEN_LINES
        if now - self._last >= pause and not self._silent:
            self._last = now
            self._show(now)

    def _show(self, now: float) -> None:
        spent = now - self.start
        rate = (self.done - self.first) / spent if spent > 0 else 0.0
        eta = _clock((self.total - self.done) / rate) if rate > 0 else "?"
        text = f"{self.label} {self.done}/{self.total} {self.note} [{_clock(spent)}, {eta} left]"
        if self._terminal:
            width = 20
            filled = width * self.done // max(1, self.total)
            bar = "#" * filled + "." * (width - filled)
            sys.stderr.write(f"\r\x1b[2K{bar} {text}")
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        if not self._silent:
            self._show(time.monotonic())
            if self._terminal:
                sys.stderr.write("\n")
