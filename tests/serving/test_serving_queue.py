"""Fair turns, without threads and without HTTP."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from instructgpt.generation.engine import generate
from instructgpt.generation.requests import Request
from instructgpt.serving import lane as lane_module
from instructgpt.serving.catalog import Loaded, open_catalog
from instructgpt.serving.engines import News
from instructgpt.serving.jobs import Draw, Event, Job, Running, Score, Token
from instructgpt.serving.lane import Lane
from instructgpt.serving.queueing import FairQueue
from instructgpt.serving.worker import deliver


def test_shares_take_turns_by_service() -> None:
    """Hand arithmetic: a has had 5 tokens when b comes; b starts at 5 too, and who is new goes first."""
    queue: FairQueue[str] = FairQueue()
    a = queue.enter("a")
    for item in ("a1", "a2", "a3"):
        queue.push(a, item)
    assert queue.pop()[1] == "a1"
    queue.charge(a, 5)
    b = queue.enter("b")
    queue.push(b, "b1")
    queue.push(b, "b2")
    assert queue.rank(b) == (5.0, 0.0)
    assert queue.pop()[1] == "b1"
    queue.charge(b, 1)  # a 5, b 6
    assert queue.pop()[1] == "a2"
    queue.charge(a, 3)  # a 8, b 6
    assert [queue.pop()[1], queue.pop()[1]] == ["b2", "a3"]
    assert len(queue) == 0 and queue.peek() is None


def test_requests_of_one_caller_take_turns_too() -> None:
    queue: FairQueue[str] = FairQueue()
    long = queue.enter("me")
    for number in range(5):
        queue.push(long, f"long{number}")
    for _ in range(2):
        queue.charge(queue.pop()[0], 10)
    short = queue.enter("me")
    queue.push(short, "short")
    queue.charge(long, 1)
    assert queue.pop()[1] == "short"


def test_what_is_over_is_forgotten() -> None:
    queue: FairQueue[int] = FairQueue()
    for _ in range(100):
        share = queue.enter("someone")
        queue.push(share, 1)
        queue.push(share, 2)
        assert queue.drop(lambda item: item == 2) == [(share, 2)]
        queue.pop()
        queue.charge(share, 7)
        queue.leave(share)
    assert queue._callers == {} and queue._waiting == {}


class Counted:
    """`Running` without an event loop."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs, self.open, self.loop = tuple(jobs), len(jobs), None


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> Loaded:
    return open_catalog([str(tiny_checkpoint)]).loaded[0]


def make_lane(loaded: Loaded, slots: int, quantum: int) -> Lane:
    return Lane(loaded, slots, 1 << 26, quantum)


def jobs(count: int, max_new: int, key: int = 0) -> list[Job]:
    return [Draw(Request((7, 8, 9 + index), key + index, max_new)) for index in range(count)]


def run(lane: Lane, arrivals: dict[int, tuple[Any, str]], out: News) -> dict[int, int]:
    """Round in which each arrival ended; {round: (running, caller)} says when they come."""
    ended: dict[int, int] = {}
    number = 0
    while len(ended) < len(arrivals) or lane.busy:
        if number in arrivals:
            lane.add(*arrivals[number])
        lane.round(out)
        for start, (running, _) in arrivals.items():
            if running.open == 0:
                ended.setdefault(start, number)
        number += 1
    return ended


@pytest.mark.parametrize("callers", [("a", "b"), ("same", "same")])
def test_a_long_job_does_not_starve_a_short_one(loaded: Loaded, callers: tuple[str, str]) -> None:
    """Both slots are taken for 140 steps when the short one comes at step 10; it must not wait for their end,
    only for a quantum of 8 tokens, a lead of the other of as much, company, and its own 5 tokens."""
    lane, out = make_lane(loaded, 2, 8), News()
    long, short = Counted(jobs(6, 140)), Counted(jobs(1, 5, 500))
    ended = run(lane, {0: (long, callers[0]), 10: (short, callers[1])}, out)
    assert ended[10] < 10 + 8 + 5 + lane_module.PATIENCE + 8
    assert ended[0] >= 3 * 140
    assert lane.preempted > 0


def test_whom_nobody_waits_behind_is_not_paused(loaded: Loaded) -> None:
    lane = make_lane(loaded, 4, 8)
    run(lane, {0: (Counted(jobs(4, 60)), "a")}, News())
    assert lane.preempted == 0


def test_pauses_do_not_change_a_reply(loaded: Loaded) -> None:
    lane, out = make_lane(loaded, 2, 4), News()
    asked = [Counted(jobs(4, 50, 100 * caller)) for caller in range(3)]
    run(lane, {3 * place: (running, f"c{place}") for place, running in enumerate(asked)}, out)
    assert lane.preempted > 4
    for running in asked:
        events = out._events[running]  # type: ignore[index]
        expected = generate(loaded.model, [job.request for job in running.jobs if isinstance(job, Draw)])
        assert [[token.id for token in events[i].tokens] for i in range(4)] == [c.ids for c in expected]


def test_few_are_read_together_while_the_engine_is_busy(loaded: Loaded) -> None:
    """A request waits `PATIENCE` steps at most for company."""
    lane, out = make_lane(loaded, 16, 1000), News()
    lane.add(Counted(jobs(8, 100)), "a")  # type: ignore[arg-type]
    lane.round(out)
    late = Counted(jobs(1, 3))
    lane.add(late, "b")  # type: ignore[arg-type]
    rounds = 0
    while late.open:
        lane.round(out)
        rounds += 1
    assert rounds == lane_module.PATIENCE + 3


def test_a_failing_engine_ends_its_jobs_and_starts_anew(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, out = make_lane(loaded, 2, 8), News()
    running = Counted([*jobs(5, 20), Score((1, 2, 3), 0)])
    lane.add(running, "a")  # type: ignore[arg-type]
    monkeypatch.setattr(lane_module, "prompt_logprobs", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lane.round(out)
    lane.fail(out)
    assert running.open == 0 and not lane.busy
    assert {event.end for event in out._events[running].values()} == {"failed"}  # type: ignore[index]
    monkeypatch.undo()
    again = Counted(jobs(2, 4))
    run(lane, {0: (again, "a")}, out)
    assert {event.end for event in out._events[again].values()} <= {"stop", "length"}  # type: ignore[index]


def test_news_of_what_has_ended_goes_first() -> None:
    async def main() -> None:
        news, jobs = News(), [Draw(Request((1,), 0, 1))]
        ended, drawing = Running(jobs, lambda _: None), Running(jobs, lambda _: None)
        news.end(ended, 0, "stop")
        news.event(drawing, 0).tokens.append(Token(5, None))
        assert news.take(False) == [(ended, Event(0, end="stop"))]
        assert news.take(False) == []
        assert news.take(True) == [(drawing, Event(0, [Token(5, None)]))]
        assert news.take(True) == []

    asyncio.run(main())


def test_news_goes_to_the_loop_that_asked() -> None:
    """Two event loops, one after the other; a loop that is closed is passed over."""
    jobs = [Draw(Request((1,), 0, 1))]

    async def ask() -> Running:
        return Running(jobs, lambda _: None)

    async def hear(running: Running) -> list[Event]:
        threading.Thread(target=deliver, args=([(gone, Event(0)), (running, Event(0, end="stop"))],)).start()
        return await running.next()

    gone = asyncio.run(ask())

    async def main() -> list[Event]:
        return await hear(await ask())

    assert asyncio.run(main()) == [Event(0, end="stop")]
