"""Rewards from a URL, against a real local server that is slow, wrong, down or hostile."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructgpt.errors import ConfigError, DataError, ServiceError
from instructgpt.scoring.post import Failure
from instructgpt.scoring.reward import load_reward
from instructgpt.scoring.service import Patience, ServiceReward, _read
from instructgpt.text.chat import Message

Behaviour = Callable[[socket.socket, dict[str, Any]], None]
PATIENT = Patience(batch=64, parallel=4, timeout=60.0, retries=1, backoff=0.0)
HASTY = replace(PATIENT, timeout=0.5)
PROMPTS = [(Message("user", f"question {i}"),) for i in range(5)]
REPLIES = ["", "a", "bb", "ccc", "dddd"]


def http(body: bytes | str, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(data) if length is None else length}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + data


def says(answer: bytes) -> Behaviour:
    return lambda connection, request: connection.sendall(answer)


def scores(values: str) -> Behaviour:
    return says(http(f'{{"scores": {values}}}'))


def good(connection: socket.socket, request: dict[str, Any]) -> None:
    """The score of a reply is its length."""
    connection.sendall(http(json.dumps({"scores": [len(reply) for reply in request["json"]["replies"]]})))


def slow(connection: socket.socket, request: dict[str, Any]) -> None:
    connection.settimeout(60)
    connection.recv(1)  # until the other side hangs up


def drip(start: bytes, piece: bytes) -> Behaviour:
    """Always something new before a socket's timeout, and never an end."""

    def behave(connection: socket.socket, request: dict[str, Any]) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)
            time.sleep(0.02)

    return behave


def endless(connection: socket.socket, request: dict[str, Any]) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\n\r\n{"scores": [')
    while True:
        connection.sendall(b"1," * 50_000)


def reset(connection: socket.socket, request: dict[str, Any]) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Service:
    """A raw server: each request gets the next behaviour, the last one for all that follow."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)
        self.requests: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/score"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                received = connection.recv(65536)
                if not received:
                    return  # connected and hung up
                data += received
                if data.startswith(b"\x16\x03"):  # TLS, which it does not speak
                    return connection.sendall(http("", "400 No"))
            head, _, body = data.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            while len(body) < int(headers["content-length"]):
                body += connection.recv(65536)
            request = {"line": lines[0], "headers": headers, "json": json.loads(body)}
            with self._lock:
                behaviour = self.behaviours[min(len(self.requests), len(self.behaviours) - 1)]
                self.requests.append(request)
            behaviour(connection, request)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Service]]:
    monkeypatch.delenv("INSTRUCTGPT_REWARD_TOKEN", raising=False)
    started: list[Service] = []

    def start(*behaviours: Behaviour) -> Service:
        started.append(Service(*behaviours))
        return started[-1]

    yield start
    for service in started:
        service.close()


def test_batches_come_back_in_order(serve) -> None:
    service = serve(good)
    reward = ServiceReward(service.url, replace(PATIENT, batch=2))
    assert reward.score(PROMPTS, REPLIES) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert sorted(len(request["json"]["replies"]) for request in service.requests) == [1, 2, 2]
    last = next(r for r in service.requests if r["json"]["replies"] == ["dddd"])
    assert last["json"] == {"prompts": [[{"role": "user", "content": "question 4"}]], "replies": ["dddd"]}
    assert last["line"] == "POST /score HTTP/1.1" and last["headers"]["content-type"] == "application/json"
    assert "authorization" not in last["headers"] and reward.failures == 0


def test_text_of_every_kind_arrives_whole(serve) -> None:
    service = serve(good)
    reply = 'a "quote" \\ \x00 \u2028 龍 🚀 \ud800'
    ServiceReward(service.url, PATIENT).score([(Message("system", "s"), Message("user", "说"))], [reply])
    sent = service.requests[0]["json"]
    assert sent["replies"] == [reply] and [m["role"] for m in sent["prompts"][0]] == ["system", "user"]


def test_nothing_is_asked_for_nothing(serve) -> None:
    service = serve(good)
    assert ServiceReward(service.url, PATIENT).score([], []) == []
    assert service.requests == []
    with pytest.raises(DataError, match="1 prompts but 2 replies"):
        ServiceReward(service.url, PATIENT).score(PROMPTS[:1], REPLIES[:2])


FIVE = "[1, 2, 3, 4, 5]"
WRONG: dict[str, tuple[Behaviour, str]] = {
    "too few": (scores("[1, 2]"), "2 scores for 5 replies"),
    "too many": (scores("[1, 2, 3, 4, 5, 6]"), "6 scores for 5 replies"),
    "nan": (scores("[1, 2, 3, NaN, 5]"), "record 3, whose reply starts 'ccc', is nan"),
    "infinite": (scores("[1, -Infinity, 3, 4, 5]"), "record 1, whose reply starts 'a', is -inf"),
    "overflow": (scores("[1, 2, 1e999, 4, 5]"), "record 2.* is inf"),
    "beyond float32": (scores("[1, 2, 3e39, 4, 5]"), "record 2.* is 3e"),
    "a long integer": (scores(f"[1, 2, 3, 4, {10**400}]"), "record 4.* beyond float32"),
    "too long to convert": (scores(f"[1, 2, 3, 4, {'9' * 5000}]"), "not JSON"),
    "strings": (scores('["1", 2, 3, 4, 5]'), "record 0.* is str"),
    "null": (scores("[1, 2, 3, 4, null]"), "record 4.* is NoneType"),
    "true": (scores("[true, 2, 3, 4, 5]"), "record 0.* is bool"),
    "nested": (scores("[[1], [2], [3], [4], [5]]"), "record 0.* is list"),
    "nested once more": (scores(f"[{FIVE}]"), "1 scores for 5 replies"),
    "a dictionary": (scores('{"0": 1}'), "not JSON like"),
    "a bare list": (says(http(FIVE)), "not JSON like"),
    "a bare number": (says(http("0")), "not JSON like"),
    "another key": (says(http(f'{{"score": {FIVE}}}')), "not JSON like"),
    "not JSON": (says(http("<html>sorry</html>")), "not JSON like"),
    "not UTF-8": (says(http(b'{"scores": [\xff\xfe]}')), "not JSON like"),
    "empty": (says(http("")), "not JSON like"),
    "deep": (says(http("[" * 200_000)), "not JSON like"),
    "truncated JSON": (says(http('{"scores": [1, 2, 3')), "not JSON like"),
    "ends early": (says(http('{"scores": [1', length=100)), "ended 87 bytes early"),
    "a chunk short": (
        says(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{"scores"'), "connection failed",
    ),
    "hangs up": (says(b""), "connection failed"),
    "resets": (reset, "connection failed"),
    "not HTTP": (says(b"\x16\x03\x01 hello\r\n\r\n"), "connection failed"),
    "a long header": (says(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000), "connection failed"),
    "huge": (says(http('{"scores": [' + "1," * 600_000)), "longer than 1000500 bytes"),
    "endless": (endless, "longer than 1000500 bytes"),
    "status 500": (says(http("out of memory", "500 No")), "HTTP status 500, saying 'out of memory'"),
    "status 429": (says(http("", "429 Slow down")), "HTTP status 429"),
}  # fmt: skip
LATE: dict[str, Behaviour] = {
    "silent": slow,
    "drips its body": drip(b'HTTP/1.1 200 OK\r\n\r\n{"scores": [', b"1"),
    "drips its headers": drip(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "goes on for ever": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}
REFUSED: dict[str, tuple[Behaviour, str]] = {
    "redirects": (says(http("", "302 There", "Location: /score?key=k")), "it redirects to '/score'"),
    "redirects for good": (says(http("", "308 There")), "HTTP status 308: it redirects"),
    "not found": (says(http("no such path", "404 No")), "HTTP status 404, saying 'no such path'"),
    "forbidden": (says(http("", "401 No")), "HTTP status 401"),
}


def refused(service: Service, patience: Patience, tries: int, message: str) -> str:
    """The error's text, after the tries that it took; none of the scores came back."""
    reward = ServiceReward(service.url, patience)
    with pytest.raises(ServiceError, match=message) as caught:
        reward.score(PROMPTS, REPLIES)
    assert reward.failures == tries == len(service.requests)
    text = str(caught.value)
    assert service.url in text and "records 0 to 4 of 5" in text and "'question 0'" in text
    assert "run the same command again" in text and caught.value.exit_code == 2
    return text


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_asked_for_again_and_never_scored(serve, kind) -> None:
    behaviour, message = WRONG[kind]
    assert "in 2 tries" in refused(serve(behaviour), PATIENT, 2, message)


@pytest.mark.parametrize("kind", LATE)
def test_a_late_answer_is_cut_off(serve, kind) -> None:
    begin = time.monotonic()
    refused(serve(LATE[kind]), replace(HASTY, retries=0), 1, r"no whole answer within 0\.5 s")
    assert time.monotonic() - begin < 20  # half a second, on a machine with much else to do


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_is_not_repeated(serve, kind) -> None:
    behaviour, message = REFUSED[kind]
    refused(serve(behaviour), PATIENT, 1, message)


@pytest.mark.parametrize("kind", ["status 500", "nan", "hangs up", "truncated JSON", "endless", "silent"])
def test_another_try_mends_it(serve, kind, capsys) -> None:
    first = LATE[kind] if kind in LATE else WRONG[kind][0]
    service = serve(first, good)
    reward = ServiceReward(service.url, replace(PATIENT, timeout=2.0 if kind in LATE else 60.0, retries=5))
    assert reward.score(PROMPTS, REPLIES) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert reward.failures >= 1 and "try 2 of 6" in capsys.readouterr().err


def test_the_pause_doubles(serve, monkeypatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", _recorded(threading.Event.wait, pauses))
    service = serve(says(http("", "503 No")))
    reward = ServiceReward(service.url, replace(PATIENT, retries=8, backoff=0.25))
    with pytest.raises(ServiceError, match="in 9 tries"):
        reward.score(PROMPTS, REPLIES)
    # 0.25 * 2^k, of which 32 is cut to 30
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]


def _recorded(real: Callable[..., bool], pauses: list[float]) -> Callable[..., bool]:
    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        if timeout is None or not threading.current_thread().name.startswith("reward"):
            return real(self, timeout)
        pauses.append(timeout)
        return False

    return wait


def test_the_record_of_a_later_batch_is_named(serve) -> None:
    def bad_for_four(connection: socket.socket, request: dict[str, Any]) -> None:
        if request["json"]["replies"] == ["dddd"]:
            scores("[NaN]")(connection, request)
        else:
            good(connection, request)

    reward = ServiceReward(serve(bad_for_four).url, replace(PATIENT, batch=2, retries=0))
    with pytest.raises(
        ServiceError, match=r"record 4, whose reply starts 'dddd', is nan \(records 4 to 4 of 5"
    ):
        reward.score(PROMPTS, REPLIES)


def test_a_failure_does_not_wait_for_the_other_batches(serve) -> None:
    def one_refused(connection: socket.socket, request: dict[str, Any]) -> None:
        (says(http("", "400 No")) if "dddd" in request["json"]["replies"] else slow)(connection, request)

    reward = ServiceReward(serve(one_refused).url, replace(PATIENT, batch=1, parallel=5))
    begin = time.monotonic()
    with pytest.raises(ServiceError, match="HTTP status 400"):
        reward.score(PROMPTS, REPLIES)
    assert time.monotonic() - begin < 30  # the others would take 60 s, twice
    assert reward.failures == 1


def test_nobody_there(serve, monkeypatch) -> None:
    service = serve(good)
    service.close()
    with pytest.raises(ServiceError, match="the connection failed: Connection refused"):
        ServiceReward(service.url, PATIENT).score(PROMPTS, REPLIES)
    monkeypatch.setenv("INSTRUCTGPT_REWARD_RETRIES", "1")
    monkeypatch.setenv("INSTRUCTGPT_REWARD_BACKOFF", "0")
    with pytest.raises(ConfigError, match=r"no reward service answers at http://127\.0\.0\.1.*--reward"):
        load_reward(service.url)


def test_loading_asks_for_no_score(serve) -> None:
    service = serve(good)
    reward = load_reward(service.url + "?model=a")
    assert isinstance(reward, ServiceReward) and reward.name == service.url + "?..."
    assert service.requests == []
    reward.score(PROMPTS[:1], REPLIES[:1])
    assert service.requests[0]["line"] == "POST /score?model=a HTTP/1.1"


def test_a_plain_server_is_no_https(serve) -> None:
    reward = ServiceReward(serve(good).url.replace("http:", "https:"), replace(PATIENT, retries=0))
    with pytest.raises(ServiceError, match="the connection failed"):
        reward.score(PROMPTS, REPLIES)


def test_the_token_goes_to_the_service_and_nowhere_else(serve, monkeypatch, capsys) -> None:
    token = "sEcReT-tOkEn/1"
    monkeypatch.setenv("INSTRUCTGPT_REWARD_TOKEN", token)
    other = serve(good)

    def echo(status: str) -> Behaviour:
        def behave(connection: socket.socket, request: dict[str, Any]) -> None:
            said = request["headers"]["authorization"]
            connection.sendall(http(said, status, f"Location: {other.url}/{said[7:]}"))

        return behave

    for status, tries in (("500 No", 2), ("302 There", 1), ("403 No", 1), ("200 OK", 2)):
        service = serve(echo(status))
        reward = ServiceReward(service.url, PATIENT)
        with pytest.raises(ServiceError) as caught:
            reward.score(PROMPTS, REPLIES)
        assert [r["headers"]["authorization"] for r in service.requests] == [f"Bearer {token}"] * tries
        assert token not in str(caught.value) + repr(caught.value.__cause__) + capsys.readouterr().err
        assert token not in reward.name
    assert other.requests == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "asked by file://"),
        ("ftp://host/score", "asked by ftp://"),
        ("http://user:word@host/score", "user name or a password"),
        ("http://user@host/score", "user name or a password"),
        ("http:///score", "has no host"),
        ("http://host:99999/", "not a URL"),
        ("http://host/a b", "a space"),
        ("http://host/a\r\nX-Y: z", "a space"),
        ("http://host/龍", "beyond ASCII"),
        ("http://host/score#part", "a '#'"),
    ],
)
def test_urls_that_are_not_taken(url, message) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_reward(url)
    assert "To mend it" in str(caught.value) and "word" not in str(caught.value).replace("password", "")


def test_patience_comes_from_the_environment(monkeypatch) -> None:
    values = {"BATCH": "3", "PARALLEL": "2", "TIMEOUT": "1.5", "RETRIES": "0", "BACKOFF": "0.5"}
    for name, value in values.items():
        monkeypatch.setenv(f"INSTRUCTGPT_REWARD_{name}", value)
    assert Patience.from_environment() == Patience(3, 2, 1.5, 0, 0.5)
    for name, wrong in [
        ("BATCH", "0"),
        ("RETRIES", "1.5"),
        ("TIMEOUT", "nan"),
        ("TIMEOUT", "inf"),
        ("BACKOFF", "-1"),
    ]:
        with monkeypatch.context() as one:
            one.setenv(f"INSTRUCTGPT_REWARD_{name}", wrong)
            with pytest.raises(ConfigError, match=f"INSTRUCTGPT_REWARD_{name} is '{wrong}'"):
                Patience.from_environment()
    monkeypatch.setenv("INSTRUCTGPT_REWARD_TOKEN", "two words\r\nX: y")
    with pytest.raises(ConfigError, match="INSTRUCTGPT_REWARD_TOKEN holds a space") as caught:
        ServiceReward("http://localhost/")
    assert "two words" not in str(caught.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=60) | _JSON.map(json.dumps) | _JSON.map(lambda v: json.dumps({"scores": v})))
def test_whatever_it_says_is_one_finite_number_each_or_a_failure(answer: bytes | str) -> None:
    data = answer.encode() if isinstance(answer, str) else answer
    try:
        found = _read(data, ["x", "y"], range(2))
    except Failure:
        return
    assert found == json.loads(data)["scores"]
    assert len(found) == 2 and all(type(score) is float and math.isfinite(score) for score in found)


def test_a_handshake_that_never_ends_is_cut_off() -> None:
    """A server that sends TLS records without end, each too soon for a socket's own timeout."""
    listener = socket.create_server(("127.0.0.1", 0))

    def shake() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")  # a ServerHello of 16 KiB, it says
            while True:
                connection.sendall(b"\x00")
                time.sleep(0.05)

    threading.Thread(target=shake, daemon=True).start()
    reward = ServiceReward(f"https://127.0.0.1:{listener.getsockname()[1]}/", replace(HASTY, retries=0))
    begin = time.monotonic()
    with pytest.raises(ServiceError, match=r"no whole answer within 0\.5 s"):
        reward.score(PROMPTS, REPLIES)
    assert time.monotonic() - begin < 20
    listener.close()
