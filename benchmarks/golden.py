"""`make golden WHY="..."`: record the golden runs anew where their numbers have changed.

A golden run is 50 steps of one stage on a CPU in float32 by one thread: two random layers, a few dozen
records, all of it made by plain arithmetic. What each step measured is kept in tests/golden/STAGE.jsonl: a
header, then one row a step. The tests hold every later version to these rows, and with it every other way of
cutting the same work.

A file is written only where a stage has left its rows. Its header then gets the next number N, and
CHANGELOG.md the line `Golden runs N (STAGE DIGEST, ...): WHY`. The tests ask for that line, digest included:
rows can't change without a reason on record.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.golden_world import STAGES, write_world
from instructgpt.runtime.metrics import read_metrics

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "golden"
CHANGELOG = ROOT / "CHANGELOG.md"

Row = dict[str, Any]

FIRST_ROWS = 10
FIRST_TOLERANCE, TOLERANCE, MEAN_TOLERANCE = 1e-5, 5e-5, 1e-5
"""Largest relative difference of a number in the first rows and in the others, and of a metric's mean signed
difference over the run. Kernels for SSE4.1, AVX2 and AVX-512 differ by 2e-6 at most in the first ten rows and
by 5e-6 in the others: the learning rates are such that rounding does not grow."""


@dataclass(frozen=True)
class Golden:
    """A recorded run."""

    number: int
    """N of the renewal that wrote it."""
    digest: str
    """What its header says that `digest_of` gave for its rows."""
    rows: list[Row]


@dataclass(frozen=True)
class Explanation:
    """A line of the changelog: renewal `number` wrote these stages' rows, and why."""

    number: int
    digests: dict[str, str]
    why: str


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with this many threads inside, with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(stage: str, world: Path, workers: int = 1, **changes: Any) -> list[Row]:
    """Run a stage on the little world with `changes` to its configuration; returns its rows."""
    spec = STAGES[stage]
    with tempfile.TemporaryDirectory() as folder, threads(workers):
        spec.train(spec.make_config(world, Path(folder), **changes))
        rows = read_metrics(Path(folder) / "metrics.jsonl")
    names = ("step", *spec.metrics)
    return [{name: row[name] for name in names if name in row} for row in rows]


def differences(stage: str, golden: Sequence[Row], found: Sequence[Row]) -> list[str]:
    """What differs by more than the tolerances, a line each; empty = the same run."""
    if [row.keys() for row in golden] != [row.keys() for row in found]:
        return [f"{stage}: {len(golden)} rows recorded, {len(found)} found, or they hold other metrics"]
    lines = []
    signed: dict[str, list[float]] = {}
    for old, new in zip(golden, found, strict=True):
        allowed = FIRST_TOLERANCE if old["step"] <= FIRST_ROWS else TOLERANCE
        for name, recorded in old.items():
            size = max(abs(recorded), STAGES[stage].scale.get(name, 1e-8))
            off = (new[name] - recorded) / size
            signed.setdefault(name, []).append(off)
            if not abs(off) <= allowed:  # so that a NaN is a difference
                what = f"{recorded!r} recorded, {new[name]!r} found"
                lines.append(f"{stage}, step {old['step']}, {name}: {what}, off by {off:.1e}")
    for name, offs in signed.items():
        mean = sum(offs) / len(offs)
        if not abs(mean) <= MEAN_TOLERANCE:
            lines.append(f"{stage}, {name}: off by {mean:.1e} on average, so not by rounding")
    return lines


def digest_of(rows: Sequence[Row]) -> str:
    """Twelve hexadecimal digits that stand for all digits of the rows."""
    return hashlib.sha256(_lines(rows).encode()).hexdigest()[:12]


def read(stage: str, folder: Path = FOLDER) -> Golden | None:
    """The recorded run of a stage; None where there is none."""
    path = folder / f"{stage}.jsonl"
    if not path.exists():
        return None
    header, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return Golden(header["golden"], header["digest"], rows)


def write(stage: str, number: int, rows: Sequence[Row], folder: Path = FOLDER) -> str:
    """Record a run as of renewal `number`; returns its digest."""
    digest = digest_of(rows)
    header = {"golden": number, "stage": stage, "digest": digest, "torch": torch.__version__}
    (folder / f"{stage}.jsonl").write_text(_lines([header, *rows]), encoding="utf-8")
    return digest


def explanations(changelog: str) -> list[Explanation]:
    """The changelog's lines `Golden runs N (STAGE DIGEST, ...): WHY`."""
    text = re.sub(r"\n +", " ", changelog)  # a long line is wrapped
    found = re.findall(r"Golden runs (\d+) \(([^)]*)\): *(.*)", text)
    return [
        Explanation(int(number), dict(part.split() for part in digests.split(", ")), why)
        for number, digests, why in found
    ]


def explain(changelog: str, explanation: Explanation) -> str:
    """The changelog with one more line at the end of its part "Unreleased"."""
    digests = ", ".join(f"{stage} {digest}" for stage, digest in explanation.digests.items())
    line = f"- **numbers** Golden runs {explanation.number} ({digests}): {explanation.why}"
    wrapped = textwrap.fill(line, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    before, title, rest = changelog.partition("## Unreleased\n")
    unreleased, break_, released = rest.partition("\n## ")
    return f"{before}{title}{unreleased.rstrip()}\n{wrapped}\n{break_}{released}"


def renew(world: Path, why: str) -> int:
    """Record anew what has changed; without a reason only say what. Returns the exit code."""
    changed: dict[str, list[Row]] = {}
    numbers = [0]
    for stage in STAGES:
        golden, rows = read(stage, FOLDER), run(stage, world)
        lines = [f"{stage}: nothing is recorded"] if golden is None else differences(stage, golden.rows, rows)
        if golden is not None:
            numbers.append(golden.number)
            if golden.digest != digest_of(golden.rows):
                lines.append(f"{stage}: the recorded rows are not those of their digest")
        print("\n".join(lines[:5] or [f"{stage}: as recorded"]))
        if lines:
            changed[stage] = rows
    if not changed:
        return 0
    if not why.strip():
        print('Say why the numbers changed: make golden WHY="..."; nothing was written.')
        return 1
    number = max(numbers) + 1
    digests = {stage: write(stage, number, rows, FOLDER) for stage, rows in changed.items()}
    changelog = CHANGELOG.read_text(encoding="utf-8")
    CHANGELOG.write_text(explain(changelog, Explanation(number, digests, why.strip())), encoding="utf-8")
    print(f"Golden runs {number} recorded; CHANGELOG.md says why.")
    return 0


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def main() -> int:
    """Run all stages and renew what has changed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--why", default="", help="why the numbers changed, for CHANGELOG.md")
    arguments = parser.parse_args()
    os.environ.setdefault("INSTRUCTGPT_PROGRESS", "0")
    with tempfile.TemporaryDirectory() as folder:
        return renew(write_world(Path(folder)), arguments.why)


if __name__ == "__main__":
    raise SystemExit(main())
