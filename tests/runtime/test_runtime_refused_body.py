"""How far a refused body is read on."""

import asyncio
import subprocess
import sys

import pytest

from instructgpt.runtime.refused_body import drain


def reader(messages: list[dict]) -> tuple[list[dict], object]:
    left = list(messages)

    async def receive() -> dict:
        if not left:
            await asyncio.Event().wait()  # nothing comes any more
        return left.pop(0)

    return left, receive


def chunk(size: int, more: bool) -> dict:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


@pytest.mark.parametrize(
    ("messages", "left"),
    [
        ([chunk(3, True), chunk(3, False), chunk(3, True)], 1),  # to the end, no further
        ([chunk(6, True), chunk(6, True), chunk(6, True)], 1),  # 12 bytes are more than 10
        ([chunk(3, True), {"type": "http.disconnect"}, chunk(3, True)], 1),
        ([chunk(3, True)], 0),  # then only the clock ends it
    ],
)
def test_it_ends_where_it_should(messages: list[dict], left: int) -> None:
    remaining, receive = reader(messages)
    asyncio.run(drain(receive, [(b"host", b"here")], most=10, seconds=0.05))
    assert len(remaining) == left


def test_a_client_that_waits_for_a_word_is_not_read() -> None:
    remaining, receive = reader([chunk(3, False)])
    asyncio.run(drain(receive, [(b"expect", b"100-continue")]))
    assert len(remaining) == 1


def test_it_brings_no_torch() -> None:
    code = "import sys, instructgpt.runtime.refused_body; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
