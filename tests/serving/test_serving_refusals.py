"""Whatever comes in, an answer of OpenAI's error shape goes out: 4xx, the field's name, the cure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from instructgpt.serving.problems import UNSUPPORTED

if TYPE_CHECKING:
    import httpx
    from conftest import RunningServer

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
TEXT = {"prompt": "hi", "max_tokens": 2}
BASE = {"/v1/completions": TEXT, "/v1/chat/completions": CHAT}


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert "To mend it: " in body["error"]["message"]
    return body["error"]


@pytest.mark.parametrize("path", BASE)
@pytest.mark.parametrize(
    "field", [*UNSUPPORTED, "temprature", "ignore_eos", "guided_json", "Prompt", "a.b", "早"]
)
def test_no_field_is_ignored(server: RunningServer, path: str, field: str) -> None:
    """Field fault 43: what is not supported is an error that names it, even with an empty value."""
    for value in (None, [], "x"):
        content = json.dumps({**BASE[path], field: value})
        response = server.client.post(path, content=content, headers={"Content-Type": "application/json"})
        error = refused(response)
        assert error["param"] == field and repr(field) in error["message"]


def test_a_near_miss_is_named(server: RunningServer) -> None:
    assert "temperature?" in refused(server.post("/v1/completions", {**TEXT, "temprature": 1}))["message"]


WRONG: list[tuple[str, Any]] = [
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", "1"),
    ("temperature", True),
    ("top_p", 0),
    ("top_p", 1.5),
    ("top_k", -2),
    ("top_k", 1.5),
    ("min_p", -1),
    ("n", 0),
    ("n", 65),
    ("n", 1 << 70),
    ("seed", 1 << 63),
    ("seed", 1.5),
    ("stop", ""),
    ("stop", [""]),
    ("stop", ["a"] * 17),
    ("stop", 5),
    ("stream", "yes"),
    ("stream_options", {"include_usage": True}),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -2.1),
    ("logit_bias", {"a": 1}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"999999": 1}),
    ("logit_bias", {"٣": 1}),
    ("logit_bias", {"1": 101}),
    ("logit_bias", [1]),
    ("user", 5),
    ("model", 5),
    ("max_tokens", -1),
    ("max_tokens", 100_000),
    ("max_tokens", 1.5),
]


@pytest.mark.parametrize("path", BASE)
@pytest.mark.parametrize(("field", "value"), WRONG)
def test_wrong_values(server: RunningServer, path: str, field: str, value: Any) -> None:
    assert refused(server.post(path, {**BASE[path], field: value}))["param"] == field


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {**TEXT, "logprobs": True}, "logprobs"),
        ("/v1/completions", {**TEXT, "logprobs": 21}, "logprobs"),
        ("/v1/completions", {**TEXT, "best_of": 1, "n": 2}, "best_of"),
        ("/v1/completions", {**TEXT, "best_of": 3, "stream": True}, "best_of"),
        ("/v1/completions", {**TEXT, "best_of": 100}, "best_of"),
        ("/v1/completions", {**TEXT, "prompt": []}, "prompt"),
        ("/v1/completions", {**TEXT, "prompt": ["a"] * 65}, "prompt"),
        ("/v1/completions", {**TEXT, "prompt": [-1]}, "prompt"),
        ("/v1/completions", {**TEXT, "prompt": [10**9]}, "prompt"),
        ("/v1/completions", {**TEXT, "prompt": [1, "a"]}, "prompt"),
        ("/v1/completions", {**TEXT, "prompt": [1.0]}, "prompt"),
        ("/v1/completions", {**TEXT, "prompt": "a" * 500}, "prompt"),
        ("/v1/completions", {"max_tokens": 2}, "prompt"),
        ("/v1/chat/completions", {**CHAT, "logprobs": 2}, "logprobs"),
        ("/v1/chat/completions", {**CHAT, "top_logprobs": 2}, "top_logprobs"),
        ("/v1/chat/completions", {**CHAT, "max_completion_tokens": 2}, "max_tokens"),
        ("/v1/chat/completions", {**CHAT, "best_of": 2}, "best_of"),
        ("/v1/chat/completions", {**CHAT, "echo": True}, "echo"),
        ("/v1/chat/completions", {**CHAT, "response_format": {"type": "json_object"}}, "response_format"),
        ("/v1/chat/completions", {**CHAT, "messages": []}, "messages"),
        ("/v1/chat/completions", {**CHAT, "messages": "hi"}, "messages"),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": None}]}, "messages"),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "a" * 900}]}, "messages"),
        (
            "/v1/chat/completions",
            {**CHAT, "messages": [{"role": "user", "content": "x", "name": "bob"}]},
            "messages.0.name",
        ),
        (
            "/v1/chat/completions",
            {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages",
        ),
    ],
)
def test_wrong_for_one_endpoint(server: RunningServer, path: str, body: dict[str, Any], param: str) -> None:
    assert refused(server.post(path, body))["param"] == param


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"[" * 100_000,
        b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"prompt": "hi", "temperature": NaN}',
        b'{"prompt": "hi", "temperature": Infinity}',
        b'{"prompt": "hi", "temperature": -1e999}',
        b'{"prompt": "hi", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "hi", "stop": "\\udfff"}',
        b'{"prompt": "hi", "\\ud800": 1}',
        b'{"prompt": "hi", "logit_bias": {"\\ud800": 1}}',
        b'{"prompt": "hi", "model": "\\ud800"}',
        b"\xff\xfe\x00",
        b'{"prompt": "\xff"}',
        '{"prompt": "hi"'.encode("utf-16"),
    ],
)
def test_hostile_bodies(server: RunningServer, content: bytes) -> None:
    """Deep JSON, broken JSON, NaN, numbers without end, half surrogates, other encodings: none is a 500."""
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/rewards", "/v1/feedback"):
        response = server.client.post(path, content=content, headers={"Content-Type": "application/json"})
        refused(response)


def test_a_nul_is_text(server: RunningServer) -> None:
    found = server.post("/v1/completions", {**TEXT, "prompt": "a\x00b", "echo": True})
    assert found.status_code == 200 and found.json()["choices"][0]["text"].startswith("a\x00b")


def test_no_json_header(server: RunningServer) -> None:
    response = server.client.post(
        "/v1/completions", content=json.dumps(TEXT), headers={"Content-Type": "text/plain"}
    )
    assert "Content-Type: application/json" in refused(response)["message"]


def test_paths_and_methods_that_are_not(server: RunningServer) -> None:
    refused(server.client.get("/v1/nothing"), 404)
    refused(server.client.get("/v1/completions"), 405)
    refused(
        server.post("/v1/rewards", {"prompts": [[{"role": "user", "content": "a"}]], "replies": ["b"]}), 404
    )


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit(start_server: Any, announced: bool) -> None:
    """Refused by its header, and in chunks as soon as it is too long."""
    running = start_server(max_body_kib=4)
    body = json.dumps({"prompt": "a" * 8000}).encode()
    content: Any = body if announced else (body[start : start + 1000] for start in range(0, len(body), 1000))
    response = running.client.post(
        "/v1/completions", content=content, headers={"Content-Type": "application/json"}
    )
    assert "--max-body-kib" in refused(response, 413)["message"]
    assert running.post("/v1/completions", TEXT).status_code == 200


def test_special_tokens_in_a_text_stay_text(server: RunningServer) -> None:
    tokenizer = server.state.catalog.models["tiny"].loaded.tokenizer
    found = server.post("/v1/completions", {**TEXT, "prompt": "<|end|>", "echo": True, "logprobs": 0}).json()
    listed = found["choices"][0]["logprobs"]["tokens"]
    assert len(listed) - 2 == len(tokenizer.encode("<|end|>")) > 1
    assert "".join(listed[: len(listed) - 2]) == "<|end|>"
