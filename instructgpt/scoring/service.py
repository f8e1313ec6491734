"""A reward behind a URL: batches by HTTP, several at a time, each tried again before the run stops.

    POST {"prompts": [[{"role": "user", "content": "..."}], ...], "replies": ["...", ...]}
    ->   {"scores": [0.5, ...]}

What fails is never scored: a made-up 0 would teach the policy that it had earned it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from instructgpt.errors import ConfigError, DataError, ServiceError
from instructgpt.scoring.post import Address, Failure, Line
from instructgpt.text.chat import Message

TOKEN = "INSTRUCTGPT_REWARD_TOKEN"
_LONGEST_WAIT = 30.0
_FLOAT32 = 3.4e38
"""Largest size of a score: rewards are float32."""


@dataclass(frozen=True)
class Patience:
    """How a service is asked. It changes no score, so it is no part of a run's settings but comes from the
    environment, and a stopped run may go on with more of it."""

    batch: int = 64
    """Replies in a request: INSTRUCTGPT_REWARD_BATCH."""
    parallel: int = 4
    """Requests at a time: INSTRUCTGPT_REWARD_PARALLEL."""
    timeout: float = 60.0
    """Seconds that one request may take from end to end: INSTRUCTGPT_REWARD_TIMEOUT."""
    retries: int = 4
    """Tries after the first: INSTRUCTGPT_REWARD_RETRIES."""
    backoff: float = 1.0
    """Seconds before the second try, twice as long before each further one, 30 at most:
    INSTRUCTGPT_REWARD_BACKOFF."""

    @classmethod
    def from_environment(cls) -> Patience:
        """
        Raises:
            ConfigError: a variable is not a number that makes sense.
        """
        return cls(
            batch=int(_number("BATCH", cls.batch, least=1)),
            parallel=int(_number("PARALLEL", cls.parallel, least=1)),
            timeout=_number("TIMEOUT", cls.timeout, least=0.001),
            retries=int(_number("RETRIES", cls.retries, least=0)),
            backoff=_number("BACKOFF", cls.backoff, least=0),
        )


def _number(name: str, default: float, least: float) -> float:
    variable = f"INSTRUCTGPT_REWARD_{name}"
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    try:
        value = float(text) if isinstance(default, float) else int(text)
    except ValueError:
        value = math.nan
    if not least <= value <= threading.TIMEOUT_MAX:
        kind = "a number" if isinstance(default, float) else "a whole number"
        raise ConfigError(f"{variable} is {text!r}", "the environment", f"give {kind} of at least {least:g}")
    return value


def _token() -> str:
    token = os.environ.get(TOKEN, "").strip()
    if not all("!" <= c <= "~" for c in token):
        raise ConfigError(
            f"{TOKEN} holds a space or a character that no header can carry",
            "the environment",
            "set it to the bare token, without 'Bearer'",
        )
    return token


class ServiceReward:
    """Scores from a URL."""

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        """
        Raises:
            ConfigError: it is no http or https URL, or a variable of the environment makes no sense.
        """
        self.address = Address.parse(url)
        self.name = self.address.shown
        self.patience = patience or Patience.from_environment()
        self.failures = 0
        """Requests that failed so far, whether or not another try mended it."""
        self._token = _token()
        self._lock = threading.Lock()

    def connect(self) -> None:
        """Find out whether anybody is there, before any long work; asks for no score.

        Raises:
            ConfigError: nobody answers, after all tries.
        """
        stop = threading.Event()
        try:
            self._try(lambda line: line.connect(), stop, [])
        except Failure as failure:
            raise ConfigError(
                f"no reward service answers at {self.name}: {failure.reason}",
                "--reward",
                "start it, or look at host and port",
            ) from failure

    def score(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
        """Scores of replies, in their order.

        Raises:
            ServiceError: a batch got no usable scores after all tries. None of the scores is returned then.
        """
        if len(prompts) != len(replies):
            raise DataError(
                f"{len(prompts)} prompts but {len(replies)} replies", cure="give one reply to each prompt"
            )
        if not replies:
            return []
        size = self.patience.batch
        starts = range(0, len(replies), size)
        stop, lines = threading.Event(), list[Line]()
        pool = ThreadPoolExecutor(min(self.patience.parallel, len(starts)), "reward")
        try:
            tasks = [
                pool.submit(
                    self._batch, prompts, replies, range(start, min(start + size, len(replies))), stop, lines
                )
                for start in starts
            ]
            wait(tasks, return_when=FIRST_EXCEPTION)
            failed = [task for task in tasks if task.done() and task.exception() is not None]
            for task in failed:
                task.result()
            return [score for task in tasks for score in task.result()]
        finally:  # after a failure, or Ctrl-C: no batch is worth waiting for
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            with self._lock:
                for line in lines:
                    line.cut()
            pool.shutdown(wait=True)

    def _batch(
        self,
        prompts: Sequence[Sequence[Message]],
        replies: Sequence[str],
        rows: range,
        stop: threading.Event,
        lines: list[Line],
    ) -> list[float]:
        messages = [[{"role": m.role, "content": m.content} for m in prompts[row]] for row in rows]
        body = json.dumps({"prompts": messages, "replies": [replies[row] for row in rows]}).encode()
        limit = 1_000_000 + 100 * len(rows)  # bytes; a score takes 25 at most

        def ask(line: Line) -> list[float]:
            return _read(line.post(body, self._token, limit), replies, rows)

        try:
            return self._try(ask, stop, lines)
        except Failure as failure:
            tries = 1 + (self.patience.retries if failure.again else 0)
            asked = prompts[rows[0]][-1].content if prompts[rows[0]] else ""
            raise ServiceError(
                f"the reward service {self.name} gave no usable scores"
                + (f" in {tries} tries" if tries > 1 else "")
                + f": {failure.reason}",
                f"records {rows[0]} to {rows[-1]} of {len(replies)}; the first prompt ends {asked[-60:]!r}",
                "look at the service, then run the same command again: what was saved is kept. "
                "INSTRUCTGPT_REWARD_TIMEOUT and INSTRUCTGPT_REWARD_RETRIES give it more time",
            ) from failure

    def _try(self, ask: Any, stop: threading.Event, lines: list[Line]) -> Any:
        """What `ask(line)` gives, at the first of all tries that gives something.

        Raises:
            Failure: that of the last try.
        """
        for attempt in range(self.patience.retries + 1):
            line = Line(self.address, self.patience.timeout)
            with self._lock:
                lines.append(line)
                if stop.is_set():
                    raise Failure("stopped", again=False)
            try:
                return ask(line)
            except Failure as failure:
                if stop.is_set():
                    raise
                with self._lock:
                    self.failures += 1
                if not failure.again or attempt == self.patience.retries:
                    raise
                pause = min(self.patience.backoff * 2**attempt, _LONGEST_WAIT)
                print(
                    f"instructgpt: the reward service {self.name} failed: {failure.reason}; "
                    f"try {attempt + 2} of {self.patience.retries + 1} in {pause:g} s",
                    file=sys.stderr,
                )
                stop.wait(pause)
            finally:
                with self._lock:
                    lines.remove(line)
        raise AssertionError("unreachable")


def _read(data: bytes, replies: Sequence[str], rows: range) -> list[float]:
    """The scores of an answer.

    Raises:
        Failure: it is not one finite number for each of the rows.
    """
    wanted = 'not JSON like {"scores": [0.5]}'
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Failure(f"its answer is {wanted}") from error
    scores = found.get("scores") if isinstance(found, dict) else None
    if not isinstance(scores, list):
        raise Failure(f"its answer is {wanted}")
    if len(scores) != len(rows):
        raise Failure(f"it gave {len(scores)} scores for {len(rows)} replies")
    for row, score in zip(rows, scores, strict=True):
        number = isinstance(score, int | float) and not isinstance(score, bool)
        if not number or not -_FLOAT32 <= score <= _FLOAT32:  # NaN fails too
            shown = score if isinstance(score, float) else type(score).__name__
            if isinstance(score, int) and not isinstance(score, bool):
                shown = "a number beyond float32"
            raise Failure(f"its score of record {row}, whose reply starts {replies[row][:40]!r}, is {shown}")
    return [float(score) for score in scores]
