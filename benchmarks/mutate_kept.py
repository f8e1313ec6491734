"""What became of every change, kept in docs/results/mutation/: `make mutate` goes on there, on any machine.

PART.json: {"instructgpt/maths/kl.py": {FUNCTION: [HASH OF ITS SOURCE, EXIT CODES]}}, with mutmut's names and
hashes, and the exit code of the tests for each of its changes; null = not tried. The changes of a function
that was itself changed since are tried again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from instructgpt.runtime.files import write_text

Kept = dict[str, dict[str, list[Any]]]


def restore(kept: Path, work: Path) -> None:
    """Give a work folder without results those of the file, if there is one: mutmut goes on from them.

    Raises:
        SystemExit: the file is damaged.
    """
    mutants = work / "mutants"
    if mutants.exists() or not kept.exists():
        return
    try:
        found: Kept = json.loads(kept.read_text(encoding="utf-8"))
    except ValueError:
        raise SystemExit(f"{kept} can't be read: get it back from git, or remove it to begin anew") from None
    for file, functions in found.items():
        module = file.removesuffix(".py").replace("/", ".")
        codes = {
            f"{module}.{function}__mutmut_{number}": code
            for function, (_, tried) in functions.items()
            for number, code in enumerate(tried, start=1)
        }
        meta = {
            "exit_code_by_key": codes,
            "hash_by_function_name": {function: row[0] for function, row in functions.items()},
            "type_check_error_by_key": {},
            "durations_by_key": {},
            "estimated_durations_by_key": {},
        }
        path = mutants / f"{file}.meta"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(meta), encoding="utf-8")


def save(work: Path, kept: Path) -> None:
    """Write what became of the changes in a work folder so far, a function a line; without any the
    file stays as it is."""
    mutants = work / "mutants"
    files = []
    for path in sorted(mutants.rglob("*.meta")):
        meta = json.loads(path.read_text(encoding="utf-8"))
        functions = {function: [digest, []] for function, digest in meta["hash_by_function_name"].items()}
        numbered = []
        for key, code in meta["exit_code_by_key"].items():
            function, _, number = key.rpartition(".")[2].rpartition("__mutmut_")
            numbered.append((function, int(number), code))
        for function, _, code in sorted(numbered, key=lambda row: row[:2]):
            functions[function][1].append(code)
        rows = [
            f"    {json.dumps(name, ensure_ascii=False)}: {json.dumps(row)}"
            for name, row in functions.items()
            if row[1]
        ]
        if rows:
            name = json.dumps(path.relative_to(mutants).as_posix().removesuffix(".meta"))
            files.append(f"  {name}: {{\n" + ",\n".join(rows) + "\n  }")
    if files:
        write_text(kept, "{\n" + ",\n".join(files) + "\n}\n")
