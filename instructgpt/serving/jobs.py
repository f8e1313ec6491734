"""What the worker is asked to do, and what it says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from instructgpt.generation.requests import Request, TokenLogprobs


@dataclass(frozen=True)
class Draw:
    """One reply to draw."""

    request: Request
    stops: tuple[str, ...] = ()
    """Stop strings: the reply ends with the token that completes one."""


@dataclass(frozen=True)
class Score:
    """A text whose tokens' log-probabilities are wanted."""

    ids: tuple[int, ...]
    top: int
    """How many of the most probable ids to report at each place."""


Job = Draw | Score
End = Literal["stop", "length", "scored", "failed"]


class Token(NamedTuple):
    """An id that was drawn, with the model's view of it where that was asked for."""

    id: int
    logprobs: TokenLogprobs | None


@dataclass
class Event:
    """News of one job."""

    job: int
    """Its place among the jobs that were submitted together."""
    tokens: list[Token] = field(default_factory=list)
    scores: list[TokenLogprobs | None] = field(default_factory=list)
    """Of a `Score`, one for each id."""
    end: End | None = None
    """Set in a job's last event; "failed": the engine or the server stopped."""
    sent: bool = field(default=False, compare=False)
    """It is on its way: nothing may be added."""


class Running:
    """Jobs that were submitted together, as the event loop that asked sees them."""

    def __init__(self, jobs: Sequence[Job], cancel: Callable[[Running], None]) -> None:
        """Made inside the event loop, where `events` is to be read."""
        self.jobs = tuple(jobs)
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        self.open = len(self.jobs)
        """Jobs that have not ended; counted by the worker."""
        self.timer: asyncio.TimerHandle | None = None
        """Rings at the request's deadline."""
        self._cancel = cancel

    async def next(self) -> list[Event]:
        """All news since the last call; waits for some."""
        found = [await self.events.get()]
        while not self.events.empty():
            found.append(self.events.get_nowait())
        return found

    def cancel(self) -> None:
        """Nobody waits any more: what has not ended leaves its slot before the next step."""
        if self.timer is not None:
            self.timer.cancel()
        self._cancel(self)
