"""The server under load: many streaming clients, clients that leave, and the offline engine beside it.

Starts `instructgpt serve` as a process, and measures in this order:

1. The offline engine, with as many rows as there will be clients: tokens per second, and the greedy text of
   every prompt. Its speed is measured again at the end, and the mean of both counts: machines drift.
2. Streaming clients for some minutes, each asking again as soon as it has its answer. Every text is compared
   with the offline engine's; the server's memory is read every second.
3. Clients that disconnect in the middle of a stream; then no slot may be taken and nothing may wait.

All for each model that is named. Writes docs/results/serve-load.md. Exit code 1 if a bound is missed: no
error, no wrong text, at least 0.8 of the offline engine's tokens per second, memory within 5 % of its level
after a fifth of the time, and no slot left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch

from instructgpt.generation.engine import Request, generate
from instructgpt.generation.loading import open_model

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "serve-load.md"
SHARE, GROWTH = 0.8, 1.05
WORDS = ("name", "three", "rivers", "and", "say", "which", "is", "longest", "please", "thank", "you")


@dataclass
class Load:
    """What the clients saw."""

    texts: int = 0
    tokens: int = 0
    chunks: int = 0
    wrong: int = 0
    errors: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """Seconds to the first token."""
    seconds: float = 0.0


def prompts(count: int) -> list[str]:
    """Prompts of several lengths, no two alike."""
    return [f"{number} " + " ".join(WORDS[: 1 + number % len(WORDS)]) for number in range(count)]


def offline(
    folder: str, texts: Sequence[str], max_new: int, rows: int, seconds: float
) -> tuple[float, list[str]]:
    """Tokens per second of the offline engine with `rows` at a time, and the greedy text of each prompt.

    The prompts are asked over and over, as the clients will, for about `seconds` and three times at least;
    the median counts.
    """
    model, tokenizer = open_model(folder)
    asked = [Request(tuple(tokenizer.encode(t)), 0, max_new, 0.0, stop_ids=tokenizer.stop_ids) for t in texts]
    rates: list[float] = []
    began = time.monotonic()
    while True:
        start = time.monotonic()
        found = generate(model, asked, max_active=rows)
        rates.append(sum(len(c.ids) for c in found) / (time.monotonic() - start))
        if len(rates) > 2 and time.monotonic() - began > seconds:
            texts = [tokenizer.decode(c.ids[:-1] if c.stopped else c.ids) for c in found]
            return statistics.median(rates), texts


def start(folder: str, slots: int, cache_mib: int) -> tuple[subprocess.Popen[str], int]:
    """The server's process and its port."""
    command = [sys.executable, "-m", "instructgpt", "serve", f"model={folder}", "--port", "0"]
    command += ["--slots", str(slots), "--cache-mib", str(cache_mib)]
    command += ["--chat", "False", "--feedback", os.devnull]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"http://[\d.]+:(\d+)", line)
    if found is None:
        raise SystemExit(line + process.stderr.read())
    return process, int(found[1])


END = b"\r\n0\r\n\r\n"
"""Of a body in parts."""


class Client(asyncio.Protocol):
    """A client that keeps its connection, and reads an answer's events when all have come: a library, or more
    care, would take the processor that the server writes with."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._lost = True
        self._got = bytearray()
        self._begun = 0.0
        self._enough: Callable[[bytearray], bool] = bool
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._lost = transport, False

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if not self._begun and b"data: " in data:
            self._begun = time.monotonic()
        self._got += data
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._lost = True
        self._look()

    def _look(self) -> None:
        if self._waiter is not None and not self._waiter.done() and (self._lost or self._enough(self._got)):
            self._waiter.set_result(None)

    async def send(self, body: dict[str, Any], enough: Callable[[bytearray], bool]) -> bytes:
        """Send a request and wait until `enough` of the answer has come, or the connection is lost."""
        loop = asyncio.get_running_loop()
        if self._lost:
            await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        assert self._transport is not None
        self._got, self._begun, self._enough = bytearray(), 0.0, enough
        content = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
        self._transport.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)
        self._waiter = loop.create_future()
        self._look()
        await self._waiter
        return bytes(self._got)

    def leave(self) -> None:
        """Break the connection off."""
        if self._transport is not None:
            self._transport.abort()
            self._transport, self._lost = None, True

    async def ask(self, body: dict[str, Any], load: Load) -> str:
        """One streamed answer."""
        began = time.monotonic()
        answer = await self.send(body, _whole)
        if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(END):
            raise ValueError(f"the answer is {answer[:500]!r}")
        load.first.append(self._begun - began)
        text, done = "", False
        for line in answer.splitlines():
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise ValueError(str(chunk))
                load.chunks += 1
                if chunk["choices"]:
                    text += chunk["choices"][0]["text"]
                else:
                    load.tokens += chunk["usage"]["completion_tokens"]
            done = done or line == b"data: [DONE]"
        if not done:
            raise ValueError("the stream ended early")
        return text


def _whole(answer: bytearray) -> bool:
    """Whether all of a stream has come, or a refusal's beginning."""
    return answer.endswith(END) or (len(answer) > 12 and not answer.startswith(b"HTTP/1.1 200"))


async def press(
    port: int, texts: Sequence[str], expected: Sequence[str], clients: int, max_new: int, seconds: float
) -> Load:
    """`clients` streams at a time for `seconds`; what is in hand then is finished and counted."""
    load, began = Load(), time.monotonic()

    async def client(number: int) -> None:
        place, mine = number, Client(port)
        while time.monotonic() - began < seconds:
            body = {
                "prompt": texts[place],
                "max_tokens": max_new,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            try:
                found = await mine.ask(body, load)
                load.wrong += found != expected[place]
            except (OSError, ValueError) as error:
                load.errors.append(repr(error)[:300])
                mine.leave()
            load.texts += 1
            place = (place + clients) % len(texts)
        mine.leave()

    await asyncio.gather(*(client(number) for number in range(clients)))
    load.seconds = time.monotonic() - began
    return load


async def leave(port: int, count: int, at_once: int, max_new: int) -> None:
    """`count` clients that read the beginning of a stream and are gone."""
    turns = asyncio.Semaphore(at_once)

    async def client(number: int) -> None:
        async with turns:
            body = {"prompt": f"{number} name", "max_tokens": max_new, "stream": True, "n": 1 + number % 3}
            mine, least = Client(port), 1 + 100 * (number % 7)
            await mine.send(body, lambda answer: len(answer) >= least)
            mine.leave()

    await asyncio.gather(*(client(number) for number in range(count)))


def numbers(port: int) -> dict[str, float]:
    """The server's own gauges."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        name: float(value) for name, value in re.findall(r"^instructgpt_(\w+)\{[^}]*\} (\S+)$", text, re.M)
    }


def memory_mib(process: subprocess.Popen[str]) -> float:
    """Resident memory of the server's processes together (Linux); pages that they share count in each."""
    return sum(map(_resident_mib, [process.pid, *_children(process.pid)]))


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name before it stands in brackets and may hold anything.
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


def _resident_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return sum(int(size) for size in re.findall(r"VmRSS:\s+(\d+)", status)) / 1024


async def watched(process: subprocess.Popen[str], work: Any) -> tuple[Load, list[float]]:
    """The load's result, and the server's memory every second meanwhile."""
    task, levels = asyncio.ensure_future(work), [memory_mib(process)]
    while not (await asyncio.wait({task}, timeout=1.0))[0]:
        levels.append(memory_mib(process))
    return task.result(), levels


def measure(arguments: argparse.Namespace, model: str) -> dict[str, Any]:
    """All three parts for one model."""
    texts = prompts(4 * arguments.clients)
    torch.set_num_threads(arguments.threads)
    alone, expected = offline(model, texts, arguments.max_new, arguments.clients, arguments.offline)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    process, port = start(model, arguments.clients, arguments.cache_mib)
    try:
        asyncio.run(press(port, texts, expected, arguments.clients, arguments.max_new, 2.0))  # warm
        pressed = press(port, texts, expected, arguments.clients, arguments.max_new, arguments.seconds)
        load, levels = asyncio.run(watched(process, pressed))
        asyncio.run(leave(port, arguments.leaving, arguments.clients, arguments.max_new))
        until = time.monotonic() + 30
        while (left := numbers(port))["active"] + left["waiting"] and time.monotonic() < until:
            time.sleep(0.05)
        after = memory_mib(process)
    finally:
        process.terminate()
        process.communicate(timeout=60)
    again, _ = offline(model, texts, arguments.max_new, arguments.clients, arguments.offline)
    alone = (alone + again) / 2
    settled = levels[len(levels) // 5]
    served = load.tokens / load.seconds
    return {
        "offline": alone,
        "served": served,
        "share": served / alone,
        "load": load,
        "settled": settled,
        "peak": max(levels[len(levels) // 5 :]),
        "after": after,
        "left": left["active"] + left["waiting"],
        "code": process.returncode,
    }


Row = tuple[str, str, bool | None]
"""What was measured, the figure, and whether its bound holds (None: it has none)."""


def rows_of(arguments: argparse.Namespace, found: dict[str, Any]) -> list[Row]:
    """One model's figures."""
    load: Load = found["load"]
    first = sorted(load.first)
    growth = found["peak"] / found["settled"]
    return [
        ("answers", f"{load.texts} ({load.chunks / max(1, load.texts):.1f} events each)", None),
        ("errors", f"{len(load.errors)}", not load.errors),
        ("texts that are not the offline engine's", f"{load.wrong}", not load.wrong),
        ("tokens per second, offline engine", f"{found['offline']:.0f}", None),
        ("tokens per second, server", f"{found['served']:.0f}", None),
        (f"share (at least {SHARE:g})", f"{found['share']:.3f}", found["share"] >= SHARE),
        (
            "first event after, median and 99th percentile",
            f"{first[len(first) // 2]:.3f} s, {first[int(0.99 * (len(first) - 1))]:.3f} s",
            None,
        ),
        (
            f"memory, settled and peak (at most x {GROWTH:g})",
            f"{found['settled']:.0f} MiB, {found['peak']:.0f} MiB (x {growth:.3f})",
            growth <= GROWTH,
        ),
        (f"slots taken after {arguments.leaving} clients left", f"{found['left']:.0f}", not found["left"]),
        ("memory after that", f"{found['after']:.0f} MiB", None),
        ("exit code after SIGTERM", f"{found['code']}", found["code"] == 0),
    ]


def page(arguments: argparse.Namespace, found: dict[str, dict[str, Any]]) -> tuple[str, int]:
    """docs/results/serve-load.md, and how many bounds are missed."""
    columns = [rows_of(arguments, one) for one in found.values()]
    words = {True: " (holds)", False: " (**missed**)", None: ""}
    errors = [error for one in found.values() for error in one["load"].errors]
    lines = [
        "# The server under load, measured",
        "",
        f"`python -m benchmarks.serve_load` on {date.today().isoformat()}: {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{arguments.threads} thread(s) for the model. {arguments.clients} streaming clients for "
        f"{arguments.seconds:g} s, greedy replies of up to {arguments.max_new} tokens. The clients run on "
        "the same machine. This page is written by `benchmarks/serve_load.py`.",
        "",
        "| | " + " | ".join(found) + " |",
        "|---|" + "---|" * len(found),
        *(
            f"| {same[0][0]} | " + " | ".join(value + words[holds] for _, value, holds in same) + " |"
            for same in zip(*columns, strict=True)
        ),
        "",
        *(f"    {error}" for error in errors[:10]),
    ]
    missed = sum(holds is False for rows in columns for _, _, holds in rows)
    return "\n".join(lines).rstrip() + "\n", missed


def main() -> int:
    """Measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models",
        default="demo=runs/demo/ppo_ptx",
        help="name=folder of checkpoints or finished stages, commas between",
    )
    parser.add_argument("--clients", type=int, default=64, help="streams at a time, and slots")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long they press")
    parser.add_argument("--max-new", type=int, default=48, help="tokens of a reply")
    parser.add_argument("--leaving", type=int, default=1000, help="clients that disconnect in mid-stream")
    parser.add_argument("--offline", type=float, default=20.0, help="seconds for the offline engine")
    parser.add_argument("--threads", type=int, default=1, help="threads of the model, offline and served")
    parser.add_argument(
        "--cache-mib", type=int, default=4096, help="as of `serve`: all slots at the model's full context"
    )
    parser.add_argument("--out", default=str(RESULTS), help="page to write")
    arguments = parser.parse_args()
    models = dict(model.split("=", 1) for model in arguments.models.split(","))
    found = {name: measure(arguments, folder) for name, folder in models.items()}
    text, missed = page(arguments, found)
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.out).write_text(text, encoding="utf-8")
    print(text)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
