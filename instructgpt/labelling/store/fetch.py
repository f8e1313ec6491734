"""Replies to rank, asked of any server that speaks the OpenAI protocol of chat completions.

Each reply is stored when it arrives, so that nothing is lost when the server or this program stops; asking
again goes on where it ended.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select

from instructgpt.errors import ConfigError, DataError, ServiceError
from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import require
from instructgpt.labelling.store.database import Store, get
from instructgpt.labelling.store.form import check_text
from instructgpt.labelling.store.leases import replies_needed
from instructgpt.labelling.store.new_tasks import NewReply
from instructgpt.labelling.store.refusals import Invalid
from instructgpt.labelling.store.shown import messages_of
from instructgpt.labelling.store.tables import ProjectRow, TaskRow
from instructgpt.labelling.store.tasks import add_replies
from instructgpt.scoring.post import Address, Failure, Line
from instructgpt.text.chat import Message

MAX_ANSWER = 8 * 1024 * 1024
FAILURES_ON_END = 5
SHOWN_FAILURES = 100
PAGE = 500


@dataclass(frozen=True)
class ReplyServer:
    """Where replies come from.

    Attributes:
        url: the base, such as "http://localhost:8000/v1"; `/chat/completions` is put behind it.
        model: sent along, and kept with each reply.
        token: sent as a bearer token; never stored and never shown.
        temperature, top_p, max_tokens: of the sampling.
        timeout: seconds for one reply.
        retries: further tries after a failure that may pass.
        parallel: requests at a time.
    """

    url: str
    model: str
    token: str | None = field(default=None, repr=False)
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    timeout: float = 120.0
    retries: int = 3
    parallel: int = 4


@dataclass(frozen=True)
class Fetched:
    """What was fetched: replies, tasks that have all they need now, and (task key, why) of the first
    failures."""

    replies: int
    tasks: int
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Wish:
    """One reply to ask for."""

    task_id: int
    key: str
    messages: tuple[Message, ...]
    server: ReplyServer
    seed: int


def fetch_replies(
    store: Store,
    project_id: int,
    servers: Sequence[ReplyServer],
    *,
    by: int | None,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Fetched:
    """Ask for the replies that tasks lack to be shown, of the servers in turn.

    Args:
        store: the database.
        project_id: a project in which replies are judged.
        servers: one or more; a task's replies come from as many of them as can be.
        by: an admin.
        limit: tasks at most.
        on_progress: told (replies so far, replies in all).
        stop: asked now and then; True ends the fetching after the requests that are under way.

    Raises:
        ConfigError: a server's URL can't be used, or there is none.
        ServiceError: five requests on end have failed; the replies that came are kept.
        DataError: nothing is judged in this project.
        NotFound, Forbidden: there is no such project; `by` is not an admin.
    """
    if not servers:
        raise ConfigError("no server was named", cure="give one, such as http://localhost:8000/v1")
    addresses = {server: _address(server.url) for server in servers}
    wishes = list(_wishes(store, project_id, servers, by, limit))
    done: set[int] = set()
    failed: list[tuple[str, str]] = []
    replies = on_end = 0

    def go_on() -> bool:
        return on_end < FAILURES_ON_END and not (stop and stop())

    for wish, answer in _answers(wishes, addresses, go_on):
        try:
            full = _keep(store, project_id, wish, answer.result())
        except (Failure, Invalid) as error:
            on_end += 1
            failed.append((wish.key, error.reason if isinstance(error, Failure) else error.what))
            continue
        replies, on_end = replies + 1, 0
        done |= {wish.task_id} if full else set()
        if on_progress:
            on_progress(replies, len(wishes))
    with store.write() as session:
        counts = {"added": replies, "failed": len(failed)}
        audit.record(
            session, store.clock(), by, "fetch-replies", f"project {project_id}", project_id, **counts
        )
    if on_end >= FAILURES_ON_END:
        cure = "look at the server; what came so far is kept, and the same command goes on from there"
        raise ServiceError(f"the server gave no replies: {failed[-1][1]}", wish.server.url, cure)
    return Fetched(replies, len(done), tuple(failed[:SHOWN_FAILURES]))


def _answers(
    wishes: Sequence[_Wish], addresses: Mapping[ReplyServer, Address], go_on: Callable[[], bool]
) -> Iterator[tuple[_Wish, Future[str]]]:
    """Each wish with its answer, as they come; as many under way at once as the servers take. Once `go_on`
    says no, no more are begun."""
    parallel = sum(server.parallel for server in addresses)
    queue = iter(wishes)
    running: dict[Future[str], _Wish] = {}
    with ThreadPoolExecutor(parallel) as pool:
        while True:
            if go_on():
                for wish in islice(queue, parallel - len(running)):
                    running[pool.submit(_ask, addresses[wish.server], wish)] = wish
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future


def _address(url: str) -> Address:
    example = "give one such as http://localhost:8000/v1"
    try:
        parts = urlsplit(url.rstrip("/"))
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"not a URL: {error}", cure=example) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or parts.query:
        raise ConfigError(f"not the base URL of a server: {url[:200]!r}", cure=example)
    if parts.username is not None or parts.password is not None:
        raise ConfigError("the URL holds a user name or a password", cure="leave it out and give a token")
    if not all("!" <= letter <= "~" for letter in url):
        raise ConfigError("the URL holds a space or a letter beyond ASCII", cure=example)
    secure = parts.scheme == "https"
    target = f"{parts.path}/chat/completions"
    return Address(secure, parts.hostname, port or (443 if secure else 80), target, url)


def _wishes(
    store: Store, project_id: int, servers: Sequence[ReplyServer], by: int | None, limit: int | None
) -> Iterator[_Wish]:
    """One wish for each reply that a task lacks, task after task."""
    with store.read() as session:
        require(session, by, "admin")
        project = get(session, ProjectRow, project_id, "project")
        needed = replies_needed(project)
        if not needed:
            raise DataError("nothing is judged in this project, so that it takes no replies")
        query = select(TaskRow).where(
            TaskRow.project_id == project_id,
            TaskRow.purpose == "work",
            TaskRow.state == "waiting",
            TaskRow.reply_count < needed,
        )
        for task in session.scalars(
            query.order_by(TaskRow.position).limit(limit).execution_options(yield_per=PAGE)
        ):
            for place in range(task.reply_count, needed):
                server = servers[(task.position + place) % len(servers)]
                seed = random.Random(f"{project.seed}:{task.key}:{place}").getrandbits(31)
                yield _Wish(task.id, task.key, messages_of(task), server, seed)


def _keep(store: Store, project_id: int, wish: _Wish, text: str) -> bool:
    """Store one reply; whether its task has all it needs."""
    check_text(text, "the reply", empty=True)
    with store.write() as session:
        project = get(session, ProjectRow, project_id, "project")
        needed = replies_needed(project)
        add_replies(session, wish.task_id, project, [NewReply(text, wish.server.model)], again=True)
        return get(session, TaskRow, wish.task_id, "task").reply_count >= needed


def _ask(address: Address, wish: _Wish) -> str:
    """One reply.

    Raises:
        Failure: none came, after all retries.
    """
    server = wish.server
    body = {
        "model": server.model,
        "messages": [{"role": message.role, "content": message.content} for message in wish.messages],
        "temperature": server.temperature,
        "top_p": server.top_p,
        "max_tokens": server.max_tokens,
        "seed": wish.seed,
    }
    sent = json.dumps(body, ensure_ascii=True).encode()
    for left in range(server.retries, -1, -1):
        try:
            return _content(Line(address, server.timeout).post(sent, server.token or "", MAX_ANSWER))
        except Failure as error:
            if not error.again or not left:
                raise
            time.sleep(min(8.0, 0.25 * 2.0 ** (server.retries - left)))
    raise AssertionError("the last try returns or raises")


def _content(answer: bytes) -> str:
    try:
        value: Any = json.loads(answer)
        content = value["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise Failure("its answer is not a chat completion", again=False) from error
    if not isinstance(content, str):
        raise Failure("its answer holds no text", again=False)
    return content
