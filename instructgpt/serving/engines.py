"""The loop that owns the models: requests come in by a lock, news goes out in portions.

All tensors are touched by this one loop, in a thread of the server (`worker`) or in a process of its own
(`engine_child`). News is handed over every `FLUSH_SECONDS` while there is work, so that an event loop does
not write to every client at every step; and at once where a job has ended, or when nothing is left to do.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from instructgpt.serving.catalog import Loaded
from instructgpt.serving.jobs import End, Event
from instructgpt.serving.lane import QUANTUM, Lane, Owner

FLUSH_SECONDS = 0.04
_log = logging.getLogger("instructgpt.serving")


class Figures(NamedTuple):
    """One lane's numbers, for the metrics."""

    active: int
    waiting: int
    slots: int
    drawn: int
    read: int
    paused: int
    ended: int


class Engines(ABC):
    """Engines of all models. A subclass says where news goes (`send`, `left`)."""

    def __init__(
        self,
        models: Sequence[Loaded],
        slots: int,
        cache_bytes: int,
        quantum: int = QUANTUM,
        lookup: int = 0,
    ) -> None:
        """Args:
        slots: rows in one step of a model; fewer where `cache_bytes` would not hold them.
        quantum, lookup: see `lane.QUANTUM`, `Engine`.
        """
        self.lanes = {loaded: Lane(loaded, slots, cache_bytes, quantum, lookup) for loaded in models}
        self._wake = threading.Condition()
        self._posted: list[bytes] = []
        self._arrived: list[tuple[Lane, Owner, str]] = []
        self._cancelled: list[Owner] = []
        self._lane_of: dict[Owner, Lane] = {}
        self._news = News()
        self._stop = False

    def add(self, lane: Lane, running: Owner, caller: str) -> bool:
        """Hand over the jobs of one request, from any thread; False: the loop stops."""
        with self._wake:
            if not self._stop:
                self._arrived.append((lane, running, caller))
                self._wake.notify()
            return not self._stop

    def drop(self, running: Owner) -> None:
        """Nobody waits for this request any more; from any thread."""
        with self._wake:
            self._cancelled.append(running)
            self._wake.notify()

    def end(self) -> None:
        """Let the loop end; jobs that are not done fail. From any thread."""
        with self._wake:
            self._stop = True
            self._wake.notify()

    def figures(self) -> list[Figures]:
        """The lanes' numbers, in the order of the models."""
        return [
            Figures(
                len(lane.active),
                len(lane.draws) + len(lane.scores),
                lane.slots,
                lane.drawn,
                lane.read,
                lane.preempted,
                lane.ended,
            )
            for lane in self.lanes.values()
        ]

    def post(self, message: bytes) -> None:
        """Hand over a message that the loop is to `open`, from any thread."""
        with self._wake:
            self._posted.append(message)
            self._wake.notify()

    # -- what a subclass decides ---------------------------------------------------------------------------

    def open(self, message: bytes) -> None:  # noqa: B027  # not all have messages
        """Do what a posted message says; called by the loop."""

    @abstractmethod
    def send(self, news: list[tuple[Owner, Event]]) -> None:
        """Hand over a portion of news, perhaps an empty one; called by the loop."""

    def left(self, lane: Lane, count: int) -> None:  # noqa: B027  # not all have something to do then
        """So many jobs have ended or were dropped; called by the loop."""

    # -- the loop ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until `end`."""
        flushed = 0.0
        while self._take():
            for lane in self.lanes.values():
                if lane.busy:
                    self._round(lane)
            now = time.monotonic()
            everything = now - flushed >= FLUSH_SECONDS or not self._busy
            self._flush(everything)
            flushed = now if everything else flushed
        for lane in self.lanes.values():
            lane.fail(self._news)
        self._flush(True)

    @property
    def _busy(self) -> bool:
        return any(lane.busy for lane in self.lanes.values())

    def _take(self) -> bool:
        """Take in what has arrived; waits while there is nothing to do. False: stop."""
        with self._wake:
            while not (self._posted or self._arrived or self._cancelled or self._stop or self._busy):
                self._wake.wait()
            posted, self._posted = self._posted, []
        for message in posted:
            self.open(message)
        with self._wake:
            arrived, self._arrived = self._arrived, []
            cancelled, self._cancelled = self._cancelled, []
            stop = self._stop
        for lane, running, caller in arrived:
            self._lane_of[running] = lane
            lane.add(running, caller)
        for running in cancelled:
            found = self._lane_of.pop(running, None)
            if found is not None:
                running.open = 0
                self.left(found, found.cancel(running))
                self._news.drop(running)
        return not stop

    def _round(self, lane: Lane) -> None:
        ended = lane.ended
        try:
            lane.round(self._news)
        except Exception:
            _log.exception("the engine of %s failed; its requests end with an error", lane.loaded.folder)
            lane.fail(self._news)
        if finished := lane.ended - ended:
            self.left(lane, finished)

    def _flush(self, everything: bool) -> None:
        news = self._news.take(everything)
        for running, _ in news:
            if not running.open:
                self._lane_of.pop(running, None)
        if news or everything:
            self.send(news)


class News:
    """Events that are not sent yet, one for each job that has any."""

    def __init__(self) -> None:
        self._events: dict[Owner, dict[int, Event]] = {}
        self._due: set[Owner] = set()  # whose news is to go out at once

    def event(self, running: Owner, index: int) -> Event:
        """The unsent event of job `index`."""
        events = self._events.setdefault(running, {})
        if index not in events:
            events[index] = Event(index)
        return events[index]

    def end(self, running: Owner, index: int, end: End) -> None:
        """Job `index` has ended: the last that is said of it."""
        self.event(running, index).end = end
        self._due.add(running)

    def drop(self, running: Owner) -> None:
        """Forget what nobody waits for."""
        self._events.pop(running, None)
        self._due.discard(running)

    def take(self, everything: bool) -> list[tuple[Owner, Event]]:
        """All of it, or of requests with a job that has ended."""
        chosen = [running for running in self._events if everything or running in self._due]
        self._due.clear()
        found = [(running, event) for running in chosen for event in self._events.pop(running).values()]
        for _, event in found:
            event.sent = True
        return found
