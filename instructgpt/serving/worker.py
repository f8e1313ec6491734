"""The thread that owns the models: requests come in by a lock, tokens go out to the event loops that asked.

All tensors are touched by this one thread. News is handed over in portions: every `FLUSH_SECONDS` while
there is work, so that an event loop does not write to every client at every step; and at once where a job has
ended, or when nothing is left to do.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Sequence

from instructgpt.serving.catalog import Loaded, Served
from instructgpt.serving.jobs import Event, Job, Running
from instructgpt.serving.lane import QUANTUM, Lane
from instructgpt.serving.problems import Problem, busy, stopping

FLUSH_SECONDS = 0.04
_LONGEST_RETRY = 60
_log = logging.getLogger("instructgpt.serving")


class Worker:
    """Engines of all models in one thread."""

    def __init__(
        self, models: Sequence[Loaded], slots: int, max_queue: int, cache_bytes: int, quantum: int = QUANTUM
    ) -> None:
        """Args:
        slots: rows in one step of a model; fewer where `cache_bytes` would not hold them.
        max_queue: jobs that may wait for a slot of a model.
        quantum: see `lane.QUANTUM`.
        """
        self.lanes = {loaded: Lane(loaded, slots, cache_bytes, quantum) for loaded in models}
        self.max_queue = max_queue
        self._outstanding = dict.fromkeys(self.lanes, 0)
        self._wake = threading.Condition()
        self._arrived: list[tuple[Lane, Running, str]] = []
        self._cancelled: list[Running] = []
        self._lane_of: dict[Running, Lane] = {}
        self._news = News()
        self._stop = False
        self._interval = 0.1  # moving average of seconds between the ends of two jobs
        self._last_end = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; jobs that are not done fail."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive() and not self._stop

    def outstanding(self, loaded: Loaded) -> int:
        """Jobs of a model that wait or are in a slot."""
        with self._wake:
            return self._outstanding[loaded]

    def submit(self, served: Served, jobs: Sequence[Job], caller: str) -> Running:
        """Hand over the jobs of one request, all or none; call it inside the event loop that reads the news.

        Raises:
            Problem: too many jobs wait already (429), or the worker stops (503).
        """
        lane = self.lanes[served.loaded]
        limit = lane.slots + self.max_queue
        if len(jobs) > limit:
            raise Problem(
                f"the request asks for {len(jobs)} replies and scores; the server holds {limit} at a time",
                "ask for fewer: a smaller n, or fewer prompts",
                param="n",
            )
        running = Running(jobs, self._cancel)
        with self._wake:
            if self._stop:
                raise stopping()
            waiting = self._outstanding[served.loaded]
            over = waiting + len(jobs) - limit
            if over > 0:
                raise busy(max(1, min(_LONGEST_RETRY, math.ceil(over * self._interval))))
            self._outstanding[served.loaded] += len(jobs)
            self._arrived.append((lane, running, caller))
            self._wake.notify()
        return running

    def _cancel(self, running: Running) -> None:
        if running.open:
            with self._wake:
                self._cancelled.append(running)
                self._wake.notify()

    # -- inside the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        flushed = 0.0
        while self._take():
            for lane in self.lanes.values():
                if lane.busy:
                    self._round(lane)
            now = time.monotonic()
            everything = now - flushed >= FLUSH_SECONDS or not any(map(_busy, self.lanes.values()))
            self._flush(everything)
            flushed = now if everything else flushed
        for lane in self.lanes.values():
            lane.fail(self._news)
        self._flush(True)

    def _take(self) -> bool:
        """Take in what has arrived; waits while there is nothing to do. False: stop."""
        with self._wake:
            while not (
                self._arrived or self._cancelled or self._stop or any(map(_busy, self.lanes.values()))
            ):
                self._wake.wait()
                self._last_end = time.monotonic()
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
                self._done(found, found.cancel(running))
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
            self._done(lane, finished)
            now = time.monotonic()
            self._interval += 0.1 * ((now - self._last_end) / finished - self._interval)
            self._last_end = now

    def _done(self, lane: Lane, count: int) -> None:
        with self._wake:
            self._outstanding[lane.loaded] -= count

    def _flush(self, everything: bool) -> None:
        for loop, news in self._news.take(everything).items():
            for running, _ in news:
                if not running.open:
                    self._lane_of.pop(running, None)
            try:
                loop.call_soon_threadsafe(_deliver, news)
            except RuntimeError:  # the loop is closed: nobody listens any more
                continue


def _busy(lane: Lane) -> bool:
    return lane.busy


def _deliver(news: list[tuple[Running, Event]]) -> None:
    for running, event in news:
        running.events.put_nowait(event)


class News:
    """Events that are not sent yet, one for each job that has any."""

    def __init__(self) -> None:
        self._events: dict[Running, dict[int, Event]] = {}

    def event(self, running: Running, index: int) -> Event:
        """The unsent event of job `index`."""
        events = self._events.setdefault(running, {})
        if index not in events:
            events[index] = Event(index)
        return events[index]

    def drop(self, running: Running) -> None:
        """Forget what nobody waits for."""
        self._events.pop(running, None)

    def take(self, everything: bool) -> dict[asyncio.AbstractEventLoop, list[tuple[Running, Event]]]:
        """All of it, or of requests with a job that has ended, by event loop."""
        chosen = {
            running: events
            for running, events in self._events.items()
            if everything or any(event.end is not None for event in events.values())
        }
        found: dict[asyncio.AbstractEventLoop, list[tuple[Running, Event]]] = {}
        for running, events in chosen.items():
            found.setdefault(running.loop, []).extend((running, event) for event in events.values())
            del self._events[running]
        return found
