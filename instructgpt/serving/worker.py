"""Who answers jobs, as the event loops see it; here with the models in a thread of the server.

The other way, with the models in a process of their own, is `engine_process`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Protocol

from instructgpt.serving.admission import Admission
from instructgpt.serving.catalog import Loaded, Served
from instructgpt.serving.engines import Engines, Figures
from instructgpt.serving.jobs import Event, Job, Running
from instructgpt.serving.lane import QUANTUM, Lane, Owner
from instructgpt.serving.problems import stopping


class Worker(Protocol):
    """Draws replies and scores texts."""

    @property
    def alive(self) -> bool:
        """Whether it works."""
        ...

    def start(self) -> None:
        """Start to work."""
        ...

    def stop(self) -> None:
        """Stop; jobs that are not done fail."""
        ...

    def outstanding(self, loaded: Loaded) -> int:
        """Jobs of a model that wait or are in a slot."""
        ...

    def figures(self) -> list[Figures]:
        """Numbers of each model, in the order of the catalog's checkpoints."""
        ...

    def submit(self, served: Served, jobs: Sequence[Job], caller: str) -> Running:
        """Hand over the jobs of one request, all or none; call it inside the event loop that reads the news.

        Raises:
            Problem: too many jobs wait already (429), or the worker stops (503).
        """
        ...


class ThreadWorker(Engines):
    """Engines of all models in one thread."""

    def __init__(
        self,
        models: Sequence[Loaded],
        slots: int,
        max_queue: int,
        cache_bytes: int,
        quantum: int = QUANTUM,
        lookup: int = 0,
    ) -> None:
        """Args:
        slots, cache_bytes, quantum, lookup: see `Engines`.
        max_queue: jobs that may wait for a slot of a model.
        """
        super().__init__(models, slots, cache_bytes, quantum, lookup)
        self._admission = Admission({loaded: lane.slots + max_queue for loaded, lane in self.lanes.items()})
        self._thread = threading.Thread(target=self.run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; jobs that are not done fail."""
        self.end()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive() and not self._stop

    def outstanding(self, loaded: Loaded) -> int:
        """See `Worker`."""
        return self._admission.outstanding(loaded)

    def submit(self, served: Served, jobs: Sequence[Job], caller: str) -> Running:
        """See `Worker`."""
        self._admission.enter(served.loaded, len(jobs))
        running = Running(jobs, self._cancel)
        if not self.add(self.lanes[served.loaded], running, caller):
            self._admission.leave(served.loaded, len(jobs))
            raise stopping()
        return running

    def _cancel(self, running: Running) -> None:
        if running.open:
            self.drop(running)

    def left(self, lane: Lane, count: int) -> None:
        """See `Engines`."""
        self._admission.leave(lane.loaded, count)

    def send(self, news: list[tuple[Owner, Event]]) -> None:
        """See `Engines`."""
        deliver([(running, event) for running, event in news if isinstance(running, Running)])


def deliver(news: Sequence[tuple[Running, Event]]) -> None:
    """Put events where their event loops read them; from any other thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Running, Event]]] = {}
    for running, event in news:
        by_loop.setdefault(running.loop, []).append((running, event))
    for loop, portion in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put, portion)
        except RuntimeError:  # the loop is closed: nobody listens any more
            continue


def _put(news: list[tuple[Running, Event]]) -> None:
    for running, event in news:
        running.events.put_nowait(event)
