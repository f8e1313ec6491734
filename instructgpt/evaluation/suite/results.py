"""Results on disk: one JSONL file of records and one JSON file of numbers for each task of each model.

    OUT/results/MODEL/TASK.jsonl     a record an item: {"id", "group", "scores", "shown"}
    OUT/results/MODEL/TASK.json      what was measured and what it depends on; "finished" when it is whole

Records come portion by portion, so that a task goes on where it was stopped; a finished one is not run again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from instructgpt.errors import ConfigError
from instructgpt.evaluation.statistics import Estimate
from instructgpt.generation.spool import Spool
from instructgpt.runtime.files import write_json

FOLDER = "results"


@dataclass(frozen=True)
class Result:
    """A finished task of a model.

    Attributes:
        path: of TASK.json; the records lie beside it.
        about: its content.
    """

    path: Path
    about: Mapping[str, Any]

    @property
    def model(self) -> str:
        """The model's name as tables show it."""
        return str(self.about["model"]["name"])

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.about["task"])

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Numbers by name; what JSON can't carry (no interval) is NaN again."""
        found: dict[str, Estimate] = {}
        for name, row in self.about["metrics"].items():
            value, low, high = (
                math.nan if row[key] is None else row[key] for key in ("value", "low", "high")
            )
            found[name] = Estimate(value, low, high, row["n"])
        return found

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """One an item, in the data set's order."""
        with self.path.with_suffix(".jsonl").open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]


def place(out: str | Path, model: str, task: str) -> Path:
    """Where TASK.json of a model lies."""
    safe = re.sub(r"[^\w.+=-]+", "_", model).strip(".") or "model"
    return Path(out) / FOLDER / safe / f"{task}.json"


def read_results(out: str | Path) -> list[Result]:
    """All finished results below `out`, by model in the order they were asked for, then by task.

    Raises:
        ConfigError: there are none.
    """
    found = [Result(path, read) for path, read in _files(Path(out)) if read.get("finished")]
    if not found:
        cure = "run `instructgpt eval ... --suite NAME --out` with that folder first"
        raise ConfigError("no results of an evaluation are there", str(out), cure)
    return sorted(found, key=lambda result: (result.about.get("place", 0), result.model, result.task))


def _files(out: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((out / FOLDER).glob("*/*.json")):
        yield path, json.loads(path.read_text(encoding="utf-8"))


class ResultFile:
    """A task of a model while it is worked on."""

    def __init__(self, path: Path, identity: Mapping[str, Any], portion: int) -> None:
        """Open or reopen it.

        Args:
            path: of TASK.json.
            identity: all that the result depends on.
            portion: records written at a time.

        Raises:
            ConfigError: another result lies there.
        """
        self.path, self.identity, self._portion = path, json.loads(json.dumps(identity)), portion
        self.known: dict[str, Any] | None = None
        if path.exists():
            self.known = json.loads(path.read_text(encoding="utf-8"))
            self._compare(self.known["identity"])
        self._spool: Spool | None = None

    @property
    def finished(self) -> Result | None:
        """The result if it is whole."""
        return Result(self.path, self.known) if self.known is not None and self.known["finished"] else None

    def _compare(self, before: Mapping[str, Any]) -> None:
        changed = [
            f"{key}: {before.get(key)} -> {self.identity.get(key)}"
            for key in sorted(before.keys() | self.identity.keys())
            if before.get(key) != self.identity.get(key)
        ]
        if changed:
            raise ConfigError(
                f"a result of {self.path.stem} made with other settings is there: {'; '.join(changed)}",
                str(self.path),
                "choose another --out, or move that file away",
            )

    def begin(self) -> int:
        """Make it ready for records; returns how many are there already."""
        if self.known is None:
            write_json(self.path, {"identity": self.identity, "finished": False})
        self._spool = Spool(self.path.with_suffix(".jsonl"), self._portion)
        return self._spool.done * self._portion

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write one portion of records."""
        assert self._spool is not None, "append() comes after begin()"
        self._spool.append(records)

    def records(self) -> list[dict[str, Any]]:
        """All records so far."""
        assert self._spool is not None, "records() comes after begin()"
        return self._spool.rows()

    def finish(self, about: Mapping[str, Any]) -> Result:
        """Write the numbers, which ends the task."""
        self.known = {**about, "identity": self.identity, "finished": True}
        write_json(self.path, self.known)
        return Result(self.path, self.known)


def number(value: float) -> float | None:
    """As JSON carries it: null for what is no number."""
    return value if math.isfinite(value) else None


def data_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of files (64 hex digits), whatever their folder."""
    digest = sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
