"""One model's engine with those who wait for it: admission, fair turns, stop strings. Lives in the worker's
thread and knows nothing of threads, clocks or HTTP."""

from __future__ import annotations

from typing import Protocol

from instructgpt.generation.engine import PREFILL_TOKENS, Engine, rows_for_memory
from instructgpt.generation.prompt_logprobs import prompt_logprobs
from instructgpt.generation.stream import TextStream
from instructgpt.serving.catalog import Loaded
from instructgpt.serving.jobs import Draw, End, Event, Job, Score, Token
from instructgpt.serving.queueing import FairQueue, Share

QUANTUM = 128
"""Tokens that a row draws at least before it may have to make room for those who had less."""
PATIENCE = 1
"""Steps that a request may wait for others to be read together with it, while the engine is busy: a pass that
reads one prompt costs almost as much as one that reads many."""
READ_SHARE = 1 / 8
"""Service that reading a token counts for, in drawn tokens."""


class Owner(Protocol):
    """Jobs that were submitted together; hashed by identity."""

    @property
    def jobs(self) -> tuple[Job, ...]: ...

    open: int
    """Jobs that have not ended; the lane counts down."""


class Entry:
    """A job in the lane."""

    def __init__(self, running: Owner, index: int, share: Share, watch: TextStream | None) -> None:
        job = running.jobs[index]
        self.running, self.index, self.share, self.watch = running, index, share, watch
        self.job = job
        self.request = job.request if isinstance(job, Draw) else None
        self.turn = 0
        """Tokens drawn since it got its slot."""
        self.charged = 0
        """Those of them that its share has been charged for."""
        self.event: Event | None = None
        """The news of it that the next step may add to, unless it was sent."""


class Outbox(Protocol):
    """Where news goes."""

    def event(self, running: Owner, index: int) -> Event:
        """The event of this job that is not sent yet; it is sent in its own time."""
        ...

    def end(self, running: Owner, index: int, end: End) -> None:
        """This job has ended; that is sent at once."""
        ...


class Lane:
    """One model's engine and queue."""

    def __init__(
        self, loaded: Loaded, slots: int, cache_bytes: int, quantum: int = QUANTUM, lookup: int = 0
    ) -> None:
        """`lookup`: see `Engine`."""
        config = loaded.model.config
        self.loaded, self.quantum, self._lookup = loaded, quantum, lookup
        self.slots = min(slots, rows_for_memory(loaded.model, config.context, cache_bytes))
        self.active: dict[int, Entry] = {}  # by the engine's number
        self.draws: FairQueue[Entry] = FairQueue()
        self.scores: FairQueue[Entry] = FairQueue()
        self.drawn = self.read = self.preempted = self.ended = 0
        """Totals for the metrics: tokens drawn and read, rows paused, jobs ended."""
        self._patience = 0
        self._owed = False  # whether anything was drawn since the shares were charged
        self._hand: list[Entry] = []  # on their way from a queue to a result or a slot
        self._start_engine()

    def _start_engine(self) -> None:
        capacity = self.loaded.model.config.context
        self._engine = Engine(
            self.loaded.model,
            self.slots,
            capacity,
            want_tokens=True,
            few_shapes=True,
            lookup=self._lookup,
        )

    @property
    def busy(self) -> bool:
        """Whether a round has anything to do."""
        return bool(self.active or self.draws or self.scores)

    def add(self, running: Owner, caller: str) -> None:
        """Queue the jobs of a request."""
        self._settle()  # who comes starts level with the least served
        shares: dict[int, Share] = {}
        for index, job in enumerate(running.jobs):
            queue = self.draws if isinstance(job, Draw) else self.scores
            if id(queue) not in shares:
                shares[id(queue)] = queue.enter(caller)
            stops = job.stops if isinstance(job, Draw) else ()
            watch = TextStream(self.loaded.tokenizer, stops) if stops else None
            share = shares[id(queue)]
            queue.push(share, Entry(running, index, share, watch))

    def cancel(self, running: Owner) -> int:
        """Drop what is left of a request; returns how many jobs that were."""
        numbers = [number for number, entry in self.active.items() if entry.running is running]
        for number in numbers:
            self._engine.cancel(number)
            self._leave(number)

        def unwanted(entry: Entry) -> bool:
            return entry.running is running

        return len(numbers) + len(self.draws.drop(unwanted)) + len(self.scores.drop(unwanted))

    def round(self, out: Outbox) -> None:
        """Let requests in, score a portion of texts, draw one token for every active row."""
        if self.draws:
            self._settle()
            self._make_way()
            self._admit()
        if self.scores:
            self._score(out)
        if self.active:
            self._step(out)

    def fail(self, out: Outbox) -> None:
        """End every job without a result, and start with a fresh engine."""
        for entry in [
            *self._hand,
            *self.active.values(),
            *(entry for _, entry in (*self.draws, *self.scores)),
        ]:
            self._end(entry, out, "failed")
        self.active, self._hand = {}, []
        self.draws, self.scores = FairQueue(), FairQueue()
        self._start_engine()

    def _make_way(self) -> None:
        """Where no slot is free, the row that has had most makes room for one that has had much less."""
        if self._engine.free:
            return
        first = self.draws.peek()
        assert first is not None
        over = [
            number
            for number, entry in self.active.items()
            if entry.turn >= self.quantum and self._lead(entry.share, first) >= self.quantum
        ]
        if not over:
            return
        number = max(over, key=lambda number: self.draws.rank(self.active[number].share))
        entry = self.active.pop(number)
        entry.request = self._engine.pause(number)
        self.draws.push(entry.share, entry, front=True)
        self.preempted += 1
        self._patience = PATIENCE

    def _lead(self, share: Share, other: Share) -> float:
        """Tokens of service that one share has had more than another."""
        mine, its = self.draws.rank(share), self.draws.rank(other)
        return mine[1] - its[1] if share.caller == other.caller else mine[0] - its[0]

    def _admit(self) -> None:
        free, waiting = self._engine.free, len(self.draws)
        if not free:
            return
        many = max(1, self.slots // 8)
        crowded = 4 * len(self.active) >= self.slots
        if crowded and min(free, waiting) < many and self._patience < PATIENCE:
            self._patience += 1
            return
        self._patience = 0
        budget = PREFILL_TOKENS
        while free and self.draws and budget > 0:
            share, entry = self.draws.pop()
            self._hand = [entry]
            assert entry.request is not None
            length = len(entry.request.read)
            budget, free = budget - length, free - 1
            self.read += length
            self.draws.charge(share, READ_SHARE * length)
            entry.turn = entry.charged = 0
            self.active[self._engine.submit(entry.request)] = entry
            self._hand = []

    def _score(self, out: Outbox) -> None:
        entries: list[tuple[Entry, Score]] = []
        budget = PREFILL_TOKENS
        while self.scores and budget > 0:
            share, entry = self.scores.pop()
            self._hand.append(entry)
            assert isinstance(entry.job, Score)
            entries.append((entry, entry.job))
            budget -= len(entry.job.ids)
            self.read += len(entry.job.ids)
            self.scores.charge(share, READ_SHARE * len(entry.job.ids))
        jobs = [job for _, job in entries]
        found = prompt_logprobs(self.loaded.model, [job.ids for job in jobs], [job.top for job in jobs])
        self._hand = []
        for (entry, _), scores in zip(entries, found, strict=True):
            out.event(entry.running, entry.index).scores = scores
            self.scores.leave(entry.share)
            self._end(entry, out, "scored")

    def _step(self, out: Outbox) -> None:
        step = self._engine.step()
        self._owed = True
        self.drawn += len(step.tokens)
        for number, index in step.tokens:
            entry = self.active.get(number)
            if entry is None:  # a stop string ended it at an id before
                continue
            entry.turn += 1
            event = entry.event
            if event is None or event.sent:
                event = entry.event = out.event(entry.running, entry.index)
            event.tokens.append(Token(index, step.logprobs.get(number)))
            if entry.watch is not None:
                entry.watch.push(index)
                if entry.watch.matched is not None:
                    self._engine.cancel(number)
                    self._leave(number)
                    self._end(entry, out, "stop")
        for number, completion in step.finished:
            if (entry := self.active.get(number)) is not None:
                self._leave(number)
                self._end(entry, out, "stop" if completion.stopped else "length")

    def _leave(self, number: int) -> None:
        """A row ends before its next step."""
        entry = self.active.pop(number)
        self._charge(entry)
        self.draws.leave(entry.share)

    def _settle(self) -> None:
        """Charge what was drawn: service is counted when somebody waits for it, not at every token."""
        if self._owed:
            for entry in self.active.values():
                self._charge(entry)
        self._owed = False

    def _charge(self, entry: Entry) -> None:
        self.draws.charge(entry.share, entry.turn - entry.charged)
        entry.charged = entry.turn

    def _end(self, entry: Entry, out: Outbox, end: End) -> None:
        out.end(entry.running, entry.index, end)
        entry.running.open -= 1
        self.ended += 1
