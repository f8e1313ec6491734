"""Keys, rates, queue, deadline, clients that go away, draining."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from instructgpt.errors import ConfigError
from instructgpt.serving.access import Bucket
from instructgpt.serving.keys import KeysConfig, create_key, read_keys, revoke_key
from instructgpt.serving.keys import run as keys_verb
from instructgpt.serving.settings import ServeConfig
from instructgpt.serving.state import open_state

if TYPE_CHECKING:
    from conftest import RunningServer, StartServer

LONG = {"prompt": "name a", "max_tokens": 150, "logit_bias": {"2": -100, "3": -100}, "temperature": 0}
"""As many tokens as fit: the ids that would end it are banned."""
SHORT = {"prompt": "name a", "max_tokens": 2}


class Gate:
    """Lets an engine make as many rounds as it is told to, so that tests decide what waits."""

    def __init__(self, running: RunningServer, monkeypatch: pytest.MonkeyPatch, rounds: int = 0) -> None:
        self.open = threading.Event()
        permits = threading.Semaphore(rounds)
        (lane,) = running.state.worker.lanes.values()
        original = lane.round

        def held(out: Any) -> None:
            while not permits.acquire(timeout=0.01) and not self.open.is_set():
                pass
            original(out)

        monkeypatch.setattr(lane, "round", held)


def wait_until(ready: Callable[[], bool]) -> None:
    """Look again and again; pytest's own time limit ends what never comes."""
    pause = threading.Event()
    while not ready():
        pause.wait(0.002)


def auth(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_keys_are_hashed_checked_and_revoked(start_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = keys_verb(KeysConfig(file=str(path), create="anna"))
    assert made["key"] not in path.read_text() and made["key"].split("-", 2)[2] not in path.read_text()
    if os.name == "posix":
        assert path.stat().st_mode & 0o077 == 0
    running = start_server(keys=str(path))
    assert running.client.get("/health").json()["keys"] is True
    for path_, method in (("/v1/models", "GET"), ("/metrics", "GET"), ("/v1/completions", "POST")):
        body = SHORT if method == "POST" else None
        answer = running.client.request(method, path_, json=body)
        assert answer.status_code == 401 and answer.json()["error"]["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert running.post("/v1/completions", SHORT, **auth(made["key"])).status_code == 200
    wrong = made["key"][:-1] + ("a" if made["key"][-1] != "a" else "b")
    for bad in (wrong, "x", "ig-00000000-" + "x" * 43, "\u00e9" * 5):
        header = {"Authorization": f"Bearer {bad}".encode("latin-1")}
        assert running.client.post("/v1/completions", json=SHORT, headers=header).status_code == 401
    second = create_key(path, "ben")[1]
    assert running.client.get("/v1/models", headers=auth(second)).status_code == 200
    keys_verb(KeysConfig(file=str(path), revoke=made["id"]))
    assert running.post("/v1/completions", SHORT, **auth(made["key"])).status_code == 401
    assert running.client.get("/v1/models", headers=auth(second)).status_code == 200
    assert [bool(key.revoked) for key in read_keys(path)] == [True, False]


def test_the_keys_verb_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(ConfigError, match="--file"):
        keys_verb(KeysConfig())
    with pytest.raises(ConfigError, match="no key with the id"):
        revoke_key(path, "12345678")
    with pytest.raises(ConfigError, match="one after the other"):
        keys_verb(KeysConfig(file=str(path), create="a", revoke="b"))
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no file of keys"):
        read_keys(path)
    assert keys_verb(KeysConfig(file=str(tmp_path / "none.json")))["table"] == "no keys"


def test_an_open_address_needs_keys_or_a_word(tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="instructgpt keys"):
        open_state(ServeConfig(models=(str(tiny_checkpoint),), host="0.0.0.0"))


def test_a_bucket_fills_by_the_minute() -> None:
    """Hand arithmetic: 60 a minute lets 6 through at once, then one a second."""
    bucket = Bucket(60, 0.0)
    assert [bucket.wait(0.0) for _ in range(6)] == [0.0] * 6
    assert bucket.wait(0.0) == pytest.approx(1.0)
    assert bucket.wait(0.75) == pytest.approx(0.25)
    assert bucket.wait(1.0) == 0.0 and bucket.wait(1.0) > 0
    assert not bucket.idle(2.0) and bucket.idle(8.0)
    slow = Bucket(2, 0.0)
    assert slow.wait(0.0) == 0.0 and slow.wait(0.0) == pytest.approx(30.0)


def test_the_rate_is_of_a_key(start_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    one, other = create_key(path, "one")[1], create_key(path, "other", rate=600.0)[1]
    running = start_server(keys=str(path), rate=1.0)
    assert running.post("/v1/completions", SHORT, **auth(one)).status_code == 200
    refused = running.post("/v1/completions", SHORT, **auth(one))
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert [running.post("/v1/completions", SHORT, **auth(other)).status_code for _ in range(3)] == [200] * 3
    assert running.client.get("/v1/models", headers=auth(one)).status_code == 200  # costs nothing


def test_a_full_queue_is_429(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start_server(slots=2, max_queue=3)
    gate = Gate(running, monkeypatch)
    loaded = running.state.catalog.loaded[0]
    with ThreadPoolExecutor(8) as pool:
        held = [pool.submit(running.post, "/v1/completions", {**SHORT, "n": 2}) for _ in range(2)]
        wait_until(lambda: running.state.worker.outstanding(loaded) == 4)
        refused = running.post("/v1/completions", {**SHORT, "n": 2})
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        last = pool.submit(running.post, "/v1/completions", SHORT)  # exactly full is not over
        gate.open.set()
        assert [f.result().status_code for f in [*held, last]] == [200] * 3
    too_many = running.post("/v1/completions", {**SHORT, "n": 6})
    assert too_many.status_code == 400 and too_many.json()["error"]["param"] == "n"
    running.wait_idle()


@pytest.mark.parametrize("streamed", [False, True])
def test_the_deadline_ends_a_request(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    running = start_server(deadline=0.05)
    gate = Gate(running, monkeypatch)
    answer = running.post("/v1/completions", {**LONG, "stream": streamed})
    if streamed:
        (line,) = [line[6:] for line in answer.text.splitlines() if line]
        error = json.loads(line)["error"]
    else:
        assert answer.status_code == 504
        error = answer.json()["error"]
    assert error["code"] == "deadline_exceeded" and "--deadline" in error["message"]
    gate.open.set()
    running.wait_idle()


def abandon(running: RunningServer, body: dict[str, Any]) -> None:
    """Send a request, read the first bytes of the answer where there are any, and close the connection."""
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), 30) as connection:
        connection.sendall(head.encode() + content)
        if body.get("stream"):
            connection.recv(100)


@pytest.mark.parametrize("streamed", [False, True])
def test_clients_that_go_away_leave_no_slot(start_server: StartServer, streamed: bool) -> None:
    running = start_server(slots=4, max_queue=100)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: abandon(running, {**LONG, "n": 4, "stream": streamed}), range(24)))
    running.wait_idle()
    (lane,) = running.state.worker.lanes.values()
    assert not lane.active and not lane.draws and not running.state.worker._lane_of
    assert lane.draws._callers == {}
    assert running.post("/v1/completions", SHORT).status_code == 200


def test_a_slot_is_free_at_once(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply of 150 tokens whose client leaves after three: the others are not drawn."""
    running = start_server(slots=1)
    gate = Gate(running, monkeypatch, rounds=3)
    with running.client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as response:
        next(response.iter_lines())
    worker = running.state.worker
    wait_until(lambda: bool(worker._cancelled))
    gate.open.set()
    running.wait_idle()
    (lane,) = worker.lanes.values()
    assert 1 <= lane.drawn <= 4


def test_a_failing_engine_is_told_and_replaced(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start_server()
    (lane,) = running.state.worker.lanes.values()
    with monkeypatch.context() as broken:
        broken.setattr(lane, "_step", lambda out: 1 / 0)
        answer = running.post("/v1/completions", SHORT)
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "engine_failed"
        streamed = running.post("/v1/completions", {**SHORT, "stream": True})
        assert json.loads(streamed.text.splitlines()[0][6:])["error"]["type"] == "server_error"
    assert running.post("/v1/completions", SHORT).status_code == 200
    running.wait_idle()


def test_metrics(start_server: StartServer) -> None:
    running = start_server(slots=3)
    used = running.post("/v1/completions", SHORT).json()["usage"]
    running.post("/v1/completions", {})
    running.client.get("/made/up/path")
    text = running.client.get("/metrics").text
    assert 'instructgpt_requests_total{path="/v1/completions",status="200"} 1.0' in text
    assert 'instructgpt_requests_total{path="/v1/completions",status="400"} 1.0' in text
    assert 'instructgpt_requests_total{path="other",status="404"} 1.0' in text and "/made" not in text
    assert f'instructgpt_drawn_tokens_total{{model="tiny"}} {used["completion_tokens"]}.0' in text
    assert f'instructgpt_read_tokens_total{{model="tiny"}} {used["prompt_tokens"]}.0' in text
    assert 'instructgpt_slots{model="tiny"} 3.0' in text and 'instructgpt_active{model="tiny"} 0.0' in text


def serve(checkpoint: Path, folder: Path, *flags: str) -> tuple[subprocess.Popen[str], str]:
    """The verb itself in a process of its own, and its URL."""
    command = [sys.executable, "-m", "instructgpt", "serve", f"tiny={checkpoint}", "--port", "0", "--json"]
    command += ["--feedback", str(folder / "feedback.jsonl"), *flags]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"http://[\d.:]+", line)
    assert found, line + process.stderr.read()
    return process, found[0]


def test_sigterm_lets_replies_in_hand_end(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A stream that has begun ends whole; new connections are refused; the process leaves with 0."""
    process, url = serve(tiny_checkpoint, tmp_path)
    try:
        with httpx.Client(timeout=60) as client:
            body = {**LONG, "n": 40, "stream": True}
            with client.stream("POST", f"{url}/v1/completions", json=body) as response:
                lines = response.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                rest = [line for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            ends = [json.loads(line[6:])["choices"][0]["finish_reason"] for line in rest[:-1]]
            assert sum(end == "length" for end in ends) == 40
        out, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert json.loads(out)["replies"] == 40
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health")


def test_while_draining_nothing_new_is_taken(start_server: StartServer) -> None:
    running = start_server()
    running.state.draining = True
    answer = running.post("/v1/completions", SHORT)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert running.client.get("/health").status_code == 503
    assert running.client.get("/health").json()["status"] == "draining"


def test_a_taken_port_is_told(tiny_checkpoint: Path, server: RunningServer) -> None:
    from instructgpt.serving.run import run

    with pytest.raises(ConfigError, match="can't listen at"):
        run(ServeConfig(models=(str(tiny_checkpoint),), port=server.port))
