"""`make mutate`: change maths/ and rlhf/ in small ways, one at a time, and see whether a test notices.

The changes are made by mutmut, which forks a process a change from one that has torch imported already, and
runs only the tests that reach the changed function. It works on a copy under build/mutation/, one for each
room; what became of each change is kept in docs/results/mutation/, so an interrupted run goes on where it
stopped. Nothing else is written into the tree but docs/results/mutation.md. A survivor is a missing test, or
stands in survivors.toml with the reason why no test can or should notice it. Exit code 1: fewer than 90 %
were killed, or a survivor has no reason.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import tomli_w

from benchmarks import mutate_kept

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "mutation"
RESULTS, KEPT = ROOT / "docs" / "results" / "mutation.md", ROOT / "docs" / "results" / "mutation"
REASONS = Path(__file__).with_name("survivors.toml")
BOUND = 0.9
"""Share of the changes that a test must notice."""
ORDER = Path(__file__).with_name("mutate_order.py")


@dataclass(frozen=True)
class Part:
    """What is changed, and the tests that are held against it: a formula's own, before a whole run's."""

    only: tuple[str, ...]
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()


# A planted fault is noticed with or without another change, and learning takes long: they tell little here.
_RUNS = ("not slow", "-k", "not test_it_is_caught and not test_it_learns")
PARTS = {
    "maths": Part(("instructgpt/maths/*",), ("not slow", "tests/maths")),
    "alarms": Part(
        ("instructgpt/rlhf/alarms.py",),
        (
            "not slow",
            "tests/rlhf/test_rlhf_alarms.py",
            "tests/rlhf/test_rlhf_alarm_limits.py",
            "tests/rlhf/test_rlhf_run_alarms.py",
        ),
    ),
    "rlhf": Part(
        ("instructgpt/rlhf/*",), (*_RUNS, "tests/rlhf", "tests/mutants"), ("instructgpt/rlhf/alarms.py",)
    ),
}
COPIED = ("instructgpt", "tests/conftest.py", "tests/maths", "tests/rlhf", "tests/mutants")
KILLED = ("killed", "timeout", "segfault")
MESSAGES = [r"\braise \w", r"\breturn _invalid\(", r"\bassert "]
"""Lines whose expressions are left alone: what an error says, and our own assertions."""
LIMITS = {"timeout_constant": 6.0, "timeout_multiplier": 4.0}
"""A change is stopped after (seconds of its tests + constant) x multiplier: it loops for ever."""


@dataclass(frozen=True)
class Mutant:
    """One change: `line` of `file` read `before` and reads `after`."""

    name: str
    status: str
    file: str
    line: int
    before: str
    after: str

    @property
    def place(self) -> str:
        """file:line."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Reason:
    """Why changes of a line survive; `line` is its text, so that it may move, `change` what it may become."""

    file: str
    line: str
    reason: str
    changes: tuple[str, ...] = ()
    """The changed lines that are meant; empty = every change of the line."""

    def covers(self, mutant: Mutant) -> bool:
        """Whether this is about that mutant."""
        here = self.file == mutant.file and self.line == mutant.before
        return here and (not self.changes or mutant.after in self.changes)


def copy_tree(name: str) -> Path:
    """The work folder of a part, brought up to date; what is unchanged keeps its time and its results."""
    part, work = PARTS[name], WORK / name
    for place in COPIED:
        source, target = ROOT / place, work / place
        files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
        wanted = {p.relative_to(ROOT) for p in files if "__pycache__" not in p.parts}
        for path in wanted:
            new = work / path
            if not new.exists() or new.read_bytes() != (ROOT / path).read_bytes():
                new.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, new)  # with the time of now: newer than the mutants made from it
        stale = [p for p in target.rglob("*") if p.is_file() and p.relative_to(work) not in wanted]
        for path in stale if target.is_dir() else []:
            path.unlink()
            (work / "mutants" / path.relative_to(work)).unlink(missing_ok=True)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pytest_settings = settings["tool"]["pytest"]
    mutmut = {
        "source_paths": ["instructgpt"],
        "only_mutate": list(part.only),
        "do_not_mutate": list(part.without),
        "also_copy": [ORDER.name],
        "do_not_mutate_patterns": MESSAGES,
        "pytest_add_cli_args_test_selection": ["-m", *part.tests],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-p", ORDER.stem],
        "process_isolation": "forkserver",
        "use_git_change_detection": False,
        **LIMITS,
    }
    text = tomli_w.dumps({"tool": {"pytest": pytest_settings, "mutmut": mutmut}})
    (work / "pyproject.toml").write_text(text, encoding="utf-8")
    shutil.copy(ORDER, work)
    return work


def mutmut(work: Path, *arguments: str, capture: bool = False) -> str:
    """Run mutmut in a work folder, with one thread a process; its standard output if `capture`."""
    command = [str(Path(sys.executable).parent / "mutmut"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "INSTRUCTGPT_PROGRESS": "0"}
    done = subprocess.run(
        command, cwd=work, env=environment, check=True, text=True, stdout=subprocess.PIPE if capture else None
    )
    return done.stdout or ""


def statuses(work: Path) -> dict[str, str]:
    """Mutant -> what became of it."""
    lines = mutmut(work, "results", "--all", "true", capture=True).splitlines()
    found = (line.strip().rsplit(": ", 1) for line in lines if line.startswith("    "))
    return dict(pair for pair in found if len(pair) == 2)


def run(name: str, workers: int) -> tuple[Path, dict[str, str]]:
    """Try every change of a part that has no result yet; what survived an earlier run is tried again, since
    there may be a new test, and so is what ran out of time: a paused machine makes a test look endless.
    """
    work, kept = copy_tree(name), KEPT / f"{name}.json"
    mutate_kept.restore(kept, work)
    before = statuses(work) if (work / "mutants").exists() else {}
    try:
        mutmut(work, "run", "--max-children", str(workers))
        doubtful = [
            mutant
            for mutant, status in statuses(work).items()
            if status == "timeout" or (status not in KILLED and before.get(mutant) == status)
        ]
        if doubtful:
            mutmut(work, "run", "--max-children", "1", *doubtful)
    finally:
        mutate_kept.save(work, kept)
    return work, statuses(work)


def survivors(work: Path, found: dict[str, str]) -> list[Mutant]:
    """The changes that no test noticed, or that no test reached, with their places."""
    names = [name for name, status in found.items() if status not in KILLED]
    return sorted(
        (locate(work, name, found[name]) for name in names), key=lambda m: (m.file, m.line, m.after)
    )


def locate(work: Path, name: str, status: str) -> Mutant:
    """Read a mutant's diff: it counts lines from the function's first one, we count from the file's."""
    diff = mutmut(work, "show", name, capture=True).splitlines()
    (file,) = {line[4:].strip() for line in diff if line.startswith("--- ")}
    start = next(int(m[1]) for line in diff if (m := re.match(r"@@ -(\d+)", line)))
    body = diff[next(i for i, line in enumerate(diff) if line.startswith("@@")) + 1 :]
    first = next(i for i, line in enumerate(body) if line[:1] in ("+", "-"))
    removed = [line[1:].strip() for line in body if line.startswith("-")]
    added = [line[1:].strip() for line in body if line.startswith("+")]
    offset = start + first - 1
    line = first_line(work / file, name) + offset
    return Mutant(name, status, file, line, " ".join(removed), " ".join(added))


def first_line(path: Path, name: str) -> int:
    """Line on which a mutant's function starts: module.x_f__mutmut_1 or module.xǁClassǁf__mutmut_1."""
    mangled = name.rpartition(".")[2].rpartition("__mutmut_")[0]
    parts = mangled.split("ǁ")[1:] if "ǁ" in mangled else [mangled.removeprefix("x_")]
    node: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    for part in parts:
        node = next(n for n in ast.iter_child_nodes(node) if getattr(n, "name", None) == part)
    assert isinstance(node, ast.FunctionDef)
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def reasons(path: Path = REASONS) -> list[Reason]:
    """The kept reasons; each is for a file and the text of one of its lines."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["survivor"]
    return [Reason(row["file"], row["line"], row["reason"], tuple(row.get("changes", ()))) for row in rows]


def report(
    totals: dict[str, Counter[str]], left: Sequence[Mutant], known: Iterable[Reason], tool: str
) -> tuple[str, bool]:
    """(docs/results/mutation.md, whether enough were killed and every survivor has a reason)."""
    known = list(known)
    rows, all_killed, all_made = [], 0, 0
    for name, counts in totals.items():
        killed, made = sum(counts[status] for status in KILLED), sum(counts.values())
        all_killed, all_made = all_killed + killed, all_made + made
        rows.append(f"| {name} | {made} | {killed} | {made - killed} | {killed / max(1, made):.1%} |")
    rate = all_killed / max(1, all_made)
    survived = all_made - all_killed
    rows.append(f"| together | {all_made} | {all_killed} | {survived} | **{rate:.1%}** |")
    explained = {m.name: next((r.reason for r in known if r.covers(m)), None) for m in left}
    unexplained = [m for m in left if explained[m.name] is None]
    lines = [
        "# Mutations",
        "",
        f"`make mutate` on {date.today().isoformat()}: {os.cpu_count()} cores, {platform.machine()}, Python "
        f"{platform.python_version()}, {tool}. Each change is made alone to `maths/` or "
        "`rlhf/`, and the tests of that room that reach the changed function are run (for `rlhf/` those of "
        "`tests/mutants` too). "
        f"At least {BOUND:.0%} must be noticed, and each change that is not has a reason below "
        "(`benchmarks/survivors.toml`). This page is written by `benchmarks/mutate.py`.",
        "",
        "| part | changes | noticed | survived | share |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "Not changed: what errors say, annotations, defaults of settings (tests hold them against their "
        "sources), properties and functions under a decorator (the planted faults of `tests/mutants` cover "
        "those).",
        "",
        "## Survivors",
        "",
    ]
    for reason in [*dict.fromkeys(r.reason for r in known), None]:
        group = [m for m in left if explained[m.name] == reason]
        if not group:
            continue
        lines += [f"**{reason or 'No reason given: a missing test'}**", ""]
        for mutant in group:
            unreached = "" if mutant.status == "survived" else f" ({mutant.status})"
            lines += [
                f"`{mutant.place}`{unreached}",
                "```diff",
                f"- {mutant.before}",
                f"+ {mutant.after}",
                "```",
            ]
        lines.append("")
    return "\n".join(lines), rate >= BOUND and not unexplained


def main() -> int:
    """Run, print what survived, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="parts with commas between")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="changes tried at a time")
    parser.add_argument("--report-only", action="store_true", help="run nothing, report what is known")
    arguments = parser.parse_args()
    totals: dict[str, Counter[str]] = {}
    left: list[Mutant] = []
    names = arguments.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no part is called {', '.join(unknown)}: choose of {', '.join(PARTS)}")
    for name in names:
        if arguments.report_only:
            work = WORK / name
            found = statuses(work)
        else:
            work, found = run(name, arguments.workers)
        totals[name] = Counter(found.values())
        left += survivors(work, found)
    text, good = report(totals, left, reasons(), f"mutmut {version('mutmut')}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    if set(totals) == set(PARTS):
        RESULTS.write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps({name: dict(counts) for name, counts in totals.items()}))
    return 0 if good else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        print("Interrupted: what was tried is kept, and the same command goes on.", file=sys.stderr)
        raise SystemExit(130) from None
