"""The process that owns the models, from inside: it reads requests from a pipe and writes news to it.

Messages to it are `Add`, `Drop` or None (stop); from it a `Ready` or an error, then `News` portions. The
server waits in its event loop while this process computes: in one process they would take Python's lock from
each other at every tensor operation.
"""

from __future__ import annotations

import gc
import logging
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from instructgpt.errors import InstructGPTError
from instructgpt.generation.requests import TokenLogprobs
from instructgpt.runtime.device import pick_device, pick_dtype, tune_malloc
from instructgpt.serving.catalog import Loaded, open_catalog
from instructgpt.serving.engines import Engines, Figures
from instructgpt.serving.jobs import End, Event, Job, Token
from instructgpt.serving.lane import Owner
from instructgpt.serving.settings import ServeConfig


class Start(NamedTuple):
    """The first message: what to load, and on how many threads to compute."""

    config: ServeConfig
    threads: int


class Add(NamedTuple):
    """Jobs of one request, for the lane of this number."""

    number: int
    lane: int
    jobs: tuple[Job, ...]
    caller: str


class Drop(NamedTuple):
    """Nobody waits for this request any more."""

    number: int


class Ready(NamedTuple):
    """All models are in memory; slots of each."""

    slots: list[int]


class Wire(NamedTuple):
    """An `Event`, small on the pipe."""

    number: int
    job: int
    ids: list[int]
    logprobs: list[TokenLogprobs | None] | None
    """None where no token has any."""
    scores: list[TokenLogprobs | None]
    end: End | None

    def event(self) -> Event:
        """What it stands for."""
        logprobs = self.logprobs or [None] * len(self.ids)
        return Event(self.job, list(map(Token, self.ids, logprobs)), self.scores, self.end)


def wire(number: int, event: Event) -> Wire:
    """An event of request `number`, for the pipe."""
    logprobs = [token.logprobs for token in event.tokens]
    return Wire(
        number,
        event.job,
        [token.id for token in event.tokens],
        logprobs if any(found is not None for found in logprobs) else None,
        event.scores,
        event.end,
    )


class _Request:
    """See `lane.Owner`."""

    def __init__(self, number: int, jobs: tuple[Job, ...]) -> None:
        self.number, self.jobs, self.open = number, jobs, len(jobs)


class _PipeEngines(Engines):
    """Engines whose news goes into a pipe."""

    def __init__(self, models: list[Loaded], config: ServeConfig, pipe: Connection) -> None:
        super().__init__(models, config.slots, config.cache_mib << 20, lookup=config.lookup)
        self._pipe = pipe
        self._lanes = list(self.lanes.values())
        self._told: list[Figures] = []
        self._requests: dict[int, _Request] = {}

    def send(self, news: list[tuple[Owner, Event]]) -> None:
        """See `Engines`."""
        figures = self.figures()
        if not news and figures == self._told:
            return
        self._told = figures
        wires = []
        for running, event in news:
            assert isinstance(running, _Request)
            wires.append(wire(running.number, event))
            if not running.open:
                self._requests.pop(running.number, None)
        try:
            self._pipe.send((figures, wires))
        except OSError:  # the server is gone
            self.end()

    def listen(self) -> None:
        """Empty the pipe until the server is gone, so that it never waits for a step to end; in a thread of
        its own, which leaves reading the messages to the loop: it would take Python's lock from it."""
        while True:
            try:
                self.post(self._pipe.recv_bytes())
            except (EOFError, OSError):
                self.end()
                return

    def open(self, message: bytes) -> None:
        """See `Engines`."""
        found: Any = pickle.loads(message)
        if isinstance(found, Add):
            asked = self._requests[found.number] = _Request(found.number, found.jobs)
            self.add(self._lanes[found.lane], asked, found.caller)
        elif isinstance(found, Drop):
            if (dropped := self._requests.pop(found.number, None)) is not None:
                self.drop(dropped)
        else:
            self.end()


def keep_for_good() -> None:
    """Take what is in memory now out of the garbage collector's rounds: some hundred thousand objects of
    libraries, which stay, and need not be looked at again and again."""
    gc.collect()
    gc.freeze()


def main() -> None:
    """Serve the pipe whose file number is the argument; returns when the server stops or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the server hears them, too, and says when to stop
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with Connection(int(sys.argv[1])) as pipe:
        start: Start = pipe.recv()
        config = start.config
        tune_malloc()
        torch.set_num_threads(start.threads)
        try:
            device, dtype = pick_device(config.device), pick_dtype(config.dtype)
            models = open_catalog(config.models, (), device, dtype, weights=config.weights).loaded
            engines = _PipeEngines(models, config, pipe)
        except InstructGPTError as error:
            pipe.send(error)
            return
        keep_for_good()
        pipe.send(Ready([lane.slots for lane in engines.lanes.values()]))
        threading.Thread(target=engines.listen, name="requests", daemon=True).start()
        engines.run()
