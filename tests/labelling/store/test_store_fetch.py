"""Replies from a server that speaks the OpenAI protocol, and from servers that don't."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from instructgpt.data.records import Prompt
from instructgpt.errors import ConfigError, DataError, ServiceError
from instructgpt.labelling.store import fetch, tasks
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.fetch import ReplyServer, fetch_replies
from instructgpt.labelling.store.projects import Project

Make = Callable[..., Project]


class Served:
    """A server whose `answer(body, count)` gives (status, object) for each request."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.answer: Callable[[dict[str, Any], int], tuple[int, Any]] = lambda body, count: (
            200,
            completion(body),
        )
        lock = threading.Lock()
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    served.asked.append(body | {"path": self.path})
                    served.tokens.append(self.headers["Authorization"])
                    count = len(served.asked)
                status, value = served.answer(body, count)
                raw = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def completion(body: dict[str, Any]) -> dict[str, Any]:
    text = f"{body['model']} on {body['messages'][-1]['content']} by {body['seed']}"
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    yield server
    server.stop()


@pytest.fixture
def project(store: Store, make_project: Make) -> Project:
    """Three prompts that have no replies yet, and want four."""
    made = make_project(0, replies=4)
    given = [tasks.NewTask(prompt) for prompt in map(Prompt.of, ("a", "b", "c"))]
    tasks.add_tasks(store, made.id, given, by=None)
    return made


def test_tasks_are_filled_by_the_servers_in_turn(store: Store, project: Project, served: Served) -> None:
    servers = [ReplyServer(served.url, "m1", "secret"), ReplyServer(served.url + "/", "m2", temperature=0.5)]
    told: list[tuple[int, int]] = []
    done = fetch_replies(
        store, project.id, servers, by=None, on_progress=lambda now, all_: told.append((now, all_))
    )
    assert done == fetch.Fetched(12, 3, ())
    assert told[-1] == (12, 12)
    for task in tasks.tasks(store, project.id, by=None):
        assert task.state == "open" and len(task.replies) == 4
        assert sorted(str(reply.model) for reply in task.replies) == ["m1", "m1", "m2", "m2"]
        assert all(
            f"{reply.model} on {task.key and task.prompt.text}" in reply.text for reply in task.replies
        )  # type: ignore[union-attr]
    assert {body["path"] for body in served.asked} == {"/v1/chat/completions"}
    assert len({body["seed"] for body in served.asked}) == 12
    assert {(body["model"], body["temperature"]) for body in served.asked} == {("m1", 1.0), ("m2", 0.5)}
    assert set(served.tokens) == {"Bearer secret", None}
    assert fetch_replies(store, project.id, servers, by=None) == fetch.Fetched(0, 0, ())


def test_failures_that_may_pass_are_tried_again(
    store: Store, project: Project, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(fetch.time, "sleep", waited.append)
    served.answer = lambda body, count: (
        (200, completion(body)) if count % 2 == 0 else (503, {"error": "busy"})
    )
    server = ReplyServer(served.url, "m", parallel=1)
    assert fetch_replies(store, project.id, [server], by=None).replies == 12
    assert waited == [0.25] * 12


@pytest.mark.parametrize(
    ("status", "value", "told"),
    [
        (401, {"error": "no key"}, "HTTP status 401"),
        (200, b"<html>", "not a chat completion"),
        (200, {"choices": []}, "not a chat completion"),
        (200, {"choices": [{"message": {"content": None}}]}, "holds no text"),
        (302, {}, "redirects"),
    ],
)
def test_a_server_that_gives_nothing_is_given_up_after_five(
    store: Store, project: Project, served: Served, status: int, value: Any, told: str
) -> None:
    served.answer = lambda body, count: (status, value)
    with pytest.raises(ServiceError, match=told):
        fetch_replies(store, project.id, [ReplyServer(served.url, "m", parallel=1)], by=None)
    assert len(served.asked) == 5
    assert all(task.replies == () for task in tasks.tasks(store, project.id, by=None))


def test_what_came_is_kept_and_the_rest_comes_later(store: Store, project: Project, served: Served) -> None:
    served.answer = lambda body, count: (200, completion(body)) if count <= 6 else (400, {})
    server = ReplyServer(served.url, "m", parallel=1)
    with pytest.raises(ServiceError):
        fetch_replies(store, project.id, [server], by=None)
    assert [len(task.replies) for task in tasks.tasks(store, project.id, by=None)] == [4, 2, 0]
    served.answer = lambda body, count: (200, completion(body))
    assert fetch_replies(store, project.id, [server], by=None) == fetch.Fetched(6, 2, ())


def test_single_failures_are_told_and_passed_over(store: Store, project: Project, served: Served) -> None:
    served.answer = lambda body, count: (
        (200, completion(body)) if body["messages"][-1]["content"] != "b" else (400, {"error": "too long"})
    )
    done = fetch_replies(store, project.id, [ReplyServer(served.url, "m", parallel=1)], by=None)
    assert (done.replies, done.tasks, len(done.failed)) == (8, 2, 4)
    assert {key for key, _ in done.failed} == {Prompt.of("b").id} and "400" in done.failed[0][1]


def test_a_reply_with_a_nul_is_a_failure_not_a_fault(store: Store, project: Project, served: Served) -> None:
    served.answer = lambda body, count: (200, {"choices": [{"message": {"content": "\x00"}}]})
    with pytest.raises(ServiceError, match="NUL"):
        fetch_replies(store, project.id, [ReplyServer(served.url, "m", parallel=1)], by=None)


def test_stopping_and_limits(store: Store, project: Project, served: Served) -> None:
    server = ReplyServer(served.url, "m", parallel=1)
    assert fetch_replies(store, project.id, [server], by=None, limit=1).replies == 4
    calls = iter([False, False, True, True, True, True])
    assert fetch_replies(store, project.id, [server], by=None, stop=lambda: next(calls)).replies == 2


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://x/v1",
        "http://a:b@x/v1",
        "http://x/v1?key=1",
        "http://x y/",
        "http://[::1",
    ],
)
def test_urls_that_cannot_be_used(store: Store, project: Project, url: str) -> None:
    with pytest.raises(ConfigError):
        fetch_replies(store, project.id, [ReplyServer(url, "m")], by=None)


def test_tokens_are_not_shown_and_written_projects_need_no_replies(store: Store, make_project: Make) -> None:
    assert "secret" not in repr(ReplyServer("http://x/v1", "m", "secret"))
    project = make_project(1, kind="demonstration")
    with pytest.raises(DataError):
        fetch_replies(store, project.id, [ReplyServer("http://x/v1", "m")], by=None)
    with pytest.raises(ConfigError):
        fetch_replies(store, project.id, [], by=None)
