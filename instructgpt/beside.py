"""Stages that need nothing of one another run at the same time, each in a process of its own.

A small model can't use many cores: two processes with a thread each do 1.6 times the work of one with two.
"""

from __future__ import annotations

import ctypes
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, TextIO

_PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent dies


def waves(stages: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[int]]:
    """Cut stages, each a name with its settings, into runs of neighbours of which none names another.

    A stage is named by `{name}` or by a path that begins with `{folder}/name`. A `{folder}` that nothing
    follows stands for all stages before.

    Returns:
        indices in order, each exactly once.
    """
    found: list[list[int]] = []
    for index, (_, values) in enumerate(stages):
        texts = _texts(list(values.values()))
        if found and not any(_names(texts, stages[other][0]) for other in found[-1]):
            found[-1].append(index)
        else:
            found.append([index])
    return found


def _texts(value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _names(texts: Sequence[str], name: str) -> bool:
    for text in texts:
        if f"{{{name}}}" in text or any(part == "{folder}" for part in text.split(",")):
            return True
        for piece in text.split("{folder}/")[1:]:
            if piece == name or piece.startswith((f"{name}/", f"{name},")):
                return True
    return False


def run_beside(
    work: Callable[..., Any], calls: Sequence[tuple[str, tuple[Any, ...]]], jobs: int, threads: int
) -> list[Any]:
    """`work(*arguments)` for each (name, arguments), at most `jobs` at a time with `threads` threads each.

    What they print to stderr comes line by line behind their names. When one fails, or at Ctrl-C, the others
    are interrupted once, so that they save what they have, and waited for; then the first error is raised.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks of torch's threads
    with ProcessPoolExecutor(min(jobs, len(calls)), context, _prepare, (threads,)) as pool:
        futures = [pool.submit(_named, name, work, arguments) for name, arguments in calls]
        try:
            pending: set[Future[Any]] = set(futures)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            for process in multiprocessing.active_children():
                if process.pid is not None:
                    os.kill(process.pid, signal.SIGINT)
            raise
    return [future.result() for future in futures]


def _prepare(threads: int) -> None:
    """First thing in a process: Ctrl-C reaches it through its parent only, and only while it works."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    import torch

    torch.set_num_threads(threads)


def _named(name: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    plain, sys.stderr = sys.stderr, _Named(name, sys.stderr)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return work(*arguments)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.flush()
        sys.stderr = plain


class _Named(io.TextIOBase):
    """Whole lines with a name before each; never a terminal, so that progress comes as plain lines."""

    def __init__(self, name: str, target: TextIO) -> None:
        self._name, self._target, self._line = name, target, ""

    def write(self, text: str, /) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._target.write(f"{self._name}: {line}\n")
        return len(text)

    def flush(self) -> None:
        self._target.flush()

    def isatty(self) -> bool:
        return False


def resident_mib() -> float:
    """Memory that this process holds now, in MiB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    lines = status.read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)
