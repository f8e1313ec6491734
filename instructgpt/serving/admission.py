"""How many jobs each model holds, and how soon one that was refused may come again."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping

from instructgpt.serving.catalog import Loaded
from instructgpt.serving.problems import Problem, busy

_LONGEST_RETRY = 60


class Admission:
    """Counts jobs; used by all threads."""

    def __init__(self, limits: Mapping[Loaded, int]) -> None:
        """`limits`: jobs that a model's slots and queue hold together."""
        self._limits = dict(limits)
        self._outstanding = dict.fromkeys(limits, 0)
        self._lock = threading.Lock()
        self._interval = 0.1  # moving average of seconds between the ends of two jobs
        self._last_end = 0.0

    def outstanding(self, loaded: Loaded) -> int:
        """Jobs of a model that wait or are in a slot."""
        with self._lock:
            return self._outstanding[loaded]

    def enter(self, loaded: Loaded, jobs: int) -> None:
        """The jobs of one request come, all or none.

        Raises:
            Problem: they would never fit (400), or too many wait already (429).
        """
        limit = self._limits[loaded]
        if jobs > limit:
            raise Problem(
                f"the request asks for {jobs} replies and scores; the server holds {limit} at a time",
                "ask for fewer: a smaller n, or fewer prompts",
                param="n",
            )
        with self._lock:
            over = self._outstanding[loaded] + jobs - limit
            if over > 0:
                raise busy(max(1, min(_LONGEST_RETRY, math.ceil(over * self._interval))))
            if not any(self._outstanding.values()):  # idle time is nobody's waiting time
                self._last_end = time.monotonic()
            self._outstanding[loaded] += jobs

    def leave(self, loaded: Loaded, jobs: int) -> None:
        """So many jobs have ended or were dropped."""
        if not jobs:
            return
        now = time.monotonic()
        with self._lock:
            self._outstanding[loaded] -= jobs
            self._interval += 0.1 * ((now - self._last_end) / jobs - self._interval)
            self._last_end = now
