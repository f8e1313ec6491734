"""Peers and ours in turn on the same inputs: A B A B ..., every turn a process of its own.

A benchmark is a module with a list of races, run by `main`: it starts `python -m benchmarks.NAME --turn
CASE/CONTENDER` for every turn, each in its peer's environment, gathers what they print, and writes table,
JSON and page.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks import turns_page
from benchmarks.peers import FOLDER, OURS, ROOT, interpreter
from benchmarks.turn import Turn, line_of, read

PAGES, RUNS = ROOT / "docs" / "results", ROOT / "runs" / "benchmarks"
Found = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """One who takes turns."""

    name: str
    """As the tables show it, without a slash."""
    measure: Callable[[], Turn]
    """Called in the turn's process, in the peer's environment: import what it needs inside."""
    peer: str = OURS
    """Whose interpreter: `ours`, or one of `peers.PEERS`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the process, beside the usual."""


@dataclass(frozen=True)
class Floor:
    """A bound on one contender.

    `of` "rate": at least `bound` times the rate of `against`. "memory": at most `bound` times its peak.
    "float32", "bfloat16", "read": at least this share of what the machine reached in the same process.
    """

    contender: str
    bound: float
    against: str = ""
    of: Literal["rate", "memory", "float32", "bfloat16", "read"] = "rate"


@dataclass(frozen=True)
class Race:
    """The same work for several; the first contender is the one that the others are compared with."""

    case: str
    """Short name, as in `M` or `M-early`; a race is chosen by it."""
    title: str
    """What is done: model, data, settings."""
    unit: str
    """What a rate counts, as in `tokens/s`."""
    contenders: Sequence[Contender]
    floors: Sequence[Floor] = ()
    sizes: Sequence[str] = ()
    """Models that have to lie in their folders (`inputs.make_models`)."""
    prepare: Callable[[], None] | None = None
    """Called once before the first turn, in the project's environment."""
    seconds: bool = False
    """Show the seconds that one unit takes in place of the rate."""


def main(name: str, title: str, races: Sequence[Race], argv: Sequence[str] | None = None) -> int:
    """The command line of `python -m benchmarks.NAME`; exit code 1 if a floor was missed or a turn failed.

    Args:
        title: heading of the page.
    """
    arguments = _arguments(name, races, argv)
    if arguments.turn:
        case, contender = arguments.turn.split("/", 1)
        race = next(race for race in races if race.case == case)
        print(line_of(next(c for c in race.contenders if c.name == contender).measure()), flush=True)
        return 0
    chosen = [race for race in races if not arguments.cases or race.case in arguments.cases.split(",")]
    result: Found = {"benchmark": name, "title": title, "rounds": arguments.rounds, "races": []}
    result |= turns_page.where(sys.argv[1:] if argv is None else argv)
    for race in chosen:
        result["races"].append(run(name, race, arguments.rounds, arguments.only))
        print(turns_page.table(result["races"][-1]), flush=True)
    out = Path(arguments.out) if arguments.out else RUNS / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result) if arguments.json else f"JSON: {out}")
    if arguments.page:
        PAGES.mkdir(parents=True, exist_ok=True)
        (PAGES / f"speed-{name}.md").write_text(turns_page.page(result), encoding="utf-8")
    return int(any(race["missed"] or race["failures"] for race in result["races"]))


def _arguments(name: str, races: Sequence[Race], argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=__doc__)
    parser.add_argument("--cases", default="", help="which, commas between; empty = all: " + _cases(races))
    parser.add_argument("--only", default="", help="contenders with one of these words in their name")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    parser.add_argument("--out", default="", help=f"JSON file (runs/benchmarks/{name}.json)")
    parser.add_argument("--json", action="store_true", help="print the JSON too")
    parser.add_argument("--page", action="store_true", help=f"write docs/results/speed-{name}.md")
    parser.add_argument("--turn", default="", help="CASE/CONTENDER: take one turn in this process")
    return parser.parse_args(argv)


def _cases(races: Sequence[Race]) -> str:
    return ", ".join(race.case for race in races)


def run(name: str, race: Race, rounds: int, only: str = "") -> Found:
    """All turns of a race, in turn; what came out, as JSON: see `summarise`."""
    words = [word for word in only.split(",") if word]
    contenders = [c for c in race.contenders if not words or any(word in c.name for word in words)]
    if not contenders:
        raise SystemExit(f"no contender of {race.case} has one of these words in its name: {only}")
    found: dict[str, list[Found]] = {contender.name: [] for contender in contenders}
    failures: dict[str, str] = {}
    ready = {contender.peer: interpreter(contender.peer) for contender in contenders}
    if race.sizes:
        from benchmarks.inputs import make_models

        make_models(race.sizes)
    if race.prepare is not None:
        race.prepare()
    for number in range(rounds):
        for contender in contenders:
            if contender.name in failures:
                continue
            start = time.perf_counter()
            at = ready[contender.peer]
            command = [at.python, "-m", f"benchmarks.{name}", "--turn", f"{race.case}/{contender.name}"]
            environment = _environment() | at.environment | contender.environment
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            turn = read(done.stdout)
            if turn is None:
                failures[contender.name] = f"exit code {done.returncode}: {done.stderr[-2000:].strip()}"
            else:
                found[contender.name].append(turn | {"seconds": round(time.perf_counter() - start, 1)})
            _say(name, race, contender, number, rounds, turn)
    return summarise(race, found, failures)


def _environment() -> dict[str, str]:
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "HF_DATASETS_CACHE": str(FOLDER / "datasets"),
        "INSTRUCTGPT_PROGRESS": "0",
        "INSTRUCTGPT_PEERS": str(FOLDER),
    }
    return {**os.environ, **quiet}


def _say(name: str, race: Race, contender: Contender, number: int, rounds: int, turn: Found | None) -> None:
    shown = "failed" if turn is None else f"{median(turn['rates']):.4g} {race.unit}"
    print(f"{name} {race.case}, {contender.name}, {number + 1}/{rounds}: {shown}", file=sys.stderr)


def summarise(race: Race, found: Mapping[str, Sequence[Found]], failures: Mapping[str, str]) -> Found:
    """A race's results as JSON.

    `contenders`: of each the `rate` (median of its turns' medians, least, largest, number of turns), `ratio`
    to the first contender (the same of the ratios round by round), `memory` in MiB (largest) and its ratio,
    `achieved` FLOP/s and bytes/s with the `share` of what the machine reached in the same process, `turns` as
    they came. `machine`: best of all turns. `floors` with what was measured; `missed` of them; `failures`.
    """
    first = race.contenders[0].name
    base = found.get(first, ())
    contenders = [_contender(name, turns, base) for name, turns in found.items() if turns]
    floors = [_floor(floor, found) for floor in race.floors]
    known = [floor for floor in floors if floor["measured"] is not None]
    machines = [turn["machine"] for turns in found.values() for turn in turns]
    return {
        "case": race.case,
        "title": race.title,
        "unit": race.unit,
        "seconds": race.seconds,
        "contenders": contenders,
        "machine": {name: max(m[name] for m in machines) for name in (machines[0] if machines else ())},
        "floors": known,
        "missed": sum(not floor["holds"] for floor in known),
        "failures": dict(failures),
    }


def _contender(name: str, turns: Sequence[Found], base: Sequence[Found]) -> Found:
    rates = [median(turn["rates"]) for turn in turns]
    row: Found = {
        "name": name,
        "rate": spread(rates),
        "ratio": spread([ours / median(t["rates"]) for ours, t in zip(rates, base, strict=False)]),
        "memory": max(turn["peak_memory_mib"] for turn in turns),
        "memory_ratio": spread(
            [a["peak_memory_mib"] / b["peak_memory_mib"] for a, b in zip(turns, base, strict=False)]
        ),
        "achieved": {},
        "share": {},
        "versions": turns[0]["versions"],
        "facts": turns[-1]["facts"],
        "turns": list(turns),
    }
    for unit, limits in (("unit_flops", ("float32", "bfloat16")), ("unit_bytes", ("read",))):
        if turns[0][unit]:
            row["achieved"][unit[5:]] = spread([rate * t[unit] for rate, t in zip(rates, turns, strict=True)])
            row["share"] |= {limit: spread(_shares(turns, unit, limit)) for limit in limits}
    return row


def _shares(turns: Sequence[Found], unit: str, limit: str) -> list[float]:
    return [median(turn["rates"]) * turn[unit] / turn["machine"][limit] for turn in turns]


def _floor(floor: Floor, found: Mapping[str, Sequence[Found]]) -> Found:
    """A bound beside what was measured; None where one of the two did not run."""
    ours, theirs = found.get(floor.contender, ()), found.get(floor.against, ())
    values: list[float] = []
    if floor.of == "rate":
        pairs = zip(ours, theirs, strict=False)
        values = [median(a["rates"]) / median(b["rates"]) for a, b in pairs]
    elif floor.of == "memory":
        values = [a["peak_memory_mib"] / b["peak_memory_mib"] for a, b in zip(ours, theirs, strict=False)]
    else:
        values = _shares(ours, "unit_bytes" if floor.of == "read" else "unit_flops", floor.of)
    measured = spread(values)
    holds = measured is not None and (
        measured["median"] <= floor.bound if floor.of == "memory" else measured["median"] >= floor.bound
    )
    return {**vars(floor), "measured": measured, "holds": holds}


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the middle two."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(values: Sequence[float]) -> Found | None:
    """Median, least, largest and how many; None of nothing."""
    if not values:
        return None
    return {"median": median(values), "least": min(values), "largest": max(values), "count": len(values)}
