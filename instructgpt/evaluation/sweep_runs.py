"""Train the runs of a sweep: here one after the other, or several at a time in processes of their own.

A process of its own is the command `instructgpt ppo` with its flags in `flags.toml` and its output in
`train.log` of the run's folder. It starts a session of its own, so that the Ctrl-C of a terminal reaches only
the sweep, which passes it on once: every run then saves what it has.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import tomli_w

from instructgpt.errors import InstructGPTError, Interrupted
from instructgpt.evaluation.sweep_settings import Point, SweepConfig, cores
from instructgpt.rlhf.train import train
from instructgpt.runtime.device import release_memory
from instructgpt.runtime.files import storage_errors, write_text
from instructgpt.runtime.metrics import Progress

_POLL_SECONDS = 0.1
FLAGS, LOG = "flags.toml", "train.log"


def train_all(config: SweepConfig, points: Sequence[Point]) -> dict[str, str]:
    """Train what is not finished; returns the runs that failed, by name, with the reason.

    Raises:
        Interrupted: Ctrl-C; every run has saved what it had.
    """
    failed: dict[str, str] = {}
    todo = list(points)
    if config.processes > 1:
        todo = [point for point in points if not _finished(config, point)]
        _train_apart(config, todo, failed)
        # The rest only says again what is finished, and refuses a folder that holds something else.
        todo = [point for point in points if point.name not in failed]
    for number, point in enumerate(todo, start=1):
        if not _finished(config, point):
            print(f"[{number}/{len(todo)}] {point.name}", file=sys.stderr, flush=True)
        try:
            train(config.ppo_of(point))
        except Interrupted as stop:
            raise _stopped(config) from stop
        except InstructGPTError as error:
            failed[point.name] = str(error)
            print(f"instructgpt: {point.name} failed: {error}", file=sys.stderr, flush=True)
        release_memory()
    return failed


def _finished(config: SweepConfig, point: Point) -> bool:
    return (Path(config.out) / point.name / "summary.json").exists()


def _stopped(config: SweepConfig) -> Interrupted:
    return Interrupted(
        "the sweep stopped, and what its runs had is saved",
        config.out,
        "run the same command again to go on from there",
    )


def _train_apart(config: SweepConfig, points: Sequence[Point], failed: dict[str, str]) -> None:
    """At most `processes` at a time."""
    waiting, running = list(points), dict[Point, subprocess.Popen[bytes]]()
    progress = Progress("sweep", len(points))
    asked = 0  # how often a stop was asked for
    passed_on = 0

    def ask_to_stop() -> None:
        nonlocal asked
        asked += 1

    with _stop_signals(ask_to_stop):
        try:
            while running or (waiting and not asked):
                while waiting and not asked and len(running) < config.processes:
                    point = waiting.pop(0)
                    running[point] = _start(config, point)
                if asked > passed_on:  # a second Ctrl-C makes a run stop at once
                    passed_on = asked
                    for process in running.values():
                        process.send_signal(signal.SIGINT)
                for point, process in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[point]
                    progress.advance()
                    if process.returncode != 0 and not asked:
                        failed[point.name] = _reason(config, point, process.returncode)
                        print(f"instructgpt: {point.name} failed: {failed[point.name]}", file=sys.stderr)
                time.sleep(_POLL_SECONDS)
        finally:
            for process in running.values():
                process.kill()
    progress.close()
    if asked:
        raise _stopped(config)


def _start(config: SweepConfig, point: Point) -> subprocess.Popen[bytes]:
    """One run as a command."""
    ppo = config.ppo_of(point)
    folder = Path(ppo.out)
    flags = {key: value for key, value in asdict(ppo).items() if value is not None}  # TOML has no None
    write_text(folder / FLAGS, tomli_w.dumps(flags))
    threads = str(max(1, cores() // config.processes))
    with storage_errors(folder / LOG), (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "instructgpt", "ppo", "--config", str(folder / FLAGS)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": threads},
            start_new_session=True,
        )


def _reason(config: SweepConfig, point: Point, code: int) -> str:
    """The paragraph with which a run ended, or how it ended."""
    path = Path(config.out) / point.name / LOG
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in lines if line.startswith("instructgpt: ")]
    if code == 2 and said:
        return said[-1].removeprefix("instructgpt: ")
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}; its last words are in {path}"


@contextmanager
def _stop_signals(ask_to_stop: Callable[[], None]) -> Iterator[None]:
    """Call `ask_to_stop` for each Ctrl-C, SIGTERM and closed terminal inside the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        ask_to_stop()

    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
