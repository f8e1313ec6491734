"""Run a Python program that nobody has read, and say whether it ended well.

In a process of its own, in an empty folder that is removed, without this one's environment, with limits on
time, memory and files, and on Linux (x86-64, arm64) behind a filter of system calls: no network, no other
processes, no file changed (`system_calls`). What it may still do is read files that the user may read; it has
no way to send them anywhere.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from instructgpt.errors import ConfigError

CPU_SECONDS = 3
"""As the time limit of HumanEval's own script; processor time, so that a busy machine changes no verdict."""
MEMORY_BYTES = 1 << 30
_WALL_FACTOR = 20  # a program that sleeps is ended after so many times its processor time
_MOST_SAID = 4096


@dataclass(frozen=True)
class Outcome:
    """How a program ended: `passed`, or why not."""

    passed: bool
    reason: str


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run_program(
    source: str, cpu_seconds: int = CPU_SECONDS, memory_bytes: int = MEMORY_BYTES, *, filtered: bool = True
) -> Outcome:
    """Run a program to its end. It passes if no exception leaves it; leaving early is a failure.

    Args:
        cpu_seconds: processor time; twenty times as much of the clock's.
        memory_bytes: address space (not limited on macOS).
        filtered: behind the filter of system calls; see `can_filter`.

    Raises:
        ConfigError: the system has no limits of processes, or no filter although one was asked for.
    """
    if os.name != "posix":
        raise ConfigError("programs can't be limited on this system", "run_code", "use Linux or macOS")
    token = secrets.token_hex(16)
    settings = {"token": token, "cpu_seconds": cpu_seconds, "memory_bytes": memory_bytes, "filter": filtered}
    command = [sys.executable, "-I", str(Path(__file__).with_name("child.py"))]
    with (
        tempfile.TemporaryDirectory(prefix="sandbox-") as folder,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
            start_new_session=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            _end(process)

        clock = threading.Timer(_WALL_FACTOR * cpu_seconds, stop)
        clock.start()
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(f"{json.dumps(settings)}\n{source}".encode("utf-8", "surrogatepass"))
                process.stdin.close()
            said = process.stdout.read(_MOST_SAID).decode("utf-8", "replace")
        finally:
            clock.cancel()
            _end(process)
        process.wait()
    return _outcome(said, token, process.returncode, late.is_set())


def _outcome(said: str, token: str, code: int, late: bool) -> Outcome:
    first, _, rest = said.partition("\n")
    mark, _, verdict = first.partition(" ")
    if mark != token or rest:
        if late or code == -signal.SIGXCPU:
            return Outcome(False, "out of time")
        return Outcome(False, "the process ended before the program did")
    if verdict == "no filter":
        cure = "set run_code=limits-only to run with limits alone, in a container that has nothing to lose"
        raise ConfigError("this system does not let a process filter its system calls", "run_code", cure)
    return Outcome(verdict == "passed", verdict)


@cache
def can_filter() -> bool:
    """Whether this system can filter the system calls of a process."""
    try:
        return run_program("").passed
    except ConfigError:
        return False


def run_programs(sources: Sequence[str], *, filtered: bool = True, workers: int = 0) -> list[Outcome]:
    """Outcomes in the order of the programs; `workers` at a time (0 = one a processor).

    Raises:
        ConfigError: see `run_program`.
    """
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda source: run_program(source, filtered=filtered), sources))
