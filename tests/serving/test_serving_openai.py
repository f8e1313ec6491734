"""The official `openai` client against a real server: every field that is supported, in its own shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

if TYPE_CHECKING:
    from conftest import RunningServer, StartServer

SHAPES = Path(__file__).parent / "shapes"


@pytest.fixture
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


CHAT: list[Any] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "name a river"}]


def shape(value: Any) -> Any:
    """Names and types of a JSON value; lists by their first element, text and numbers by type."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def chunks(server: RunningServer, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with server.client.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith(
            "text/event-stream"
        )
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("completion", "/v1/completions", {"prompt": "name a", "logprobs": 2, "max_tokens": 3, "seed": 1}),
        (
            "chat",
            "/v1/chat/completions",
            {"messages": CHAT, "logprobs": True, "top_logprobs": 2, "max_tokens": 3},
        ),
    ],
)
def test_shapes_are_those_on_record(
    server: RunningServer, name: str, path: str, body: dict[str, Any]
) -> None:
    """Field fault 42: the two endpoints differ, whole and in a stream. The files were written by hand after
    OpenAI's reference."""
    golden = json.loads((SHAPES / f"{name}.json").read_text(encoding="utf-8"))
    whole = server.post(path, {**body, "temperature": 0}).json()
    for top in (whole["choices"][0]["logprobs"] or {}).get("top_logprobs", []):
        assert set(map(type, top.values())) == {float}
    if name == "completion":
        whole["choices"][0]["logprobs"]["top_logprobs"] = [{"TOKEN": 0.0}]
    assert shape(whole) == golden["whole"]
    streamed = chunks(server, path, {**body, "temperature": 0, "stream_options": {"include_usage": True}})
    seen = []
    for chunk in streamed:
        for choice in chunk["choices"]:
            if choice["logprobs"] and name == "completion":
                choice["logprobs"]["top_logprobs"] = [{"TOKEN": 0.0}][: len(choice["logprobs"]["tokens"])]
        if shape(chunk) not in seen:
            seen.append(shape(chunk))
    assert all(found in golden["chunks"] for found in seen), seen
    assert seen[-1] == golden["chunks"][-1]


def test_completions(client: openai.OpenAI) -> None:
    found = client.completions.create(model="tiny", prompt="name a river", max_tokens=5, seed=7)
    assert isinstance(found, Completion) and found.object == "text_completion" and found.model == "tiny"
    assert found.usage is not None and found.usage.completion_tokens <= 5
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.system_fingerprint is not None and found.system_fingerprint.startswith("fp_")
    default = client.completions.create(model="tiny", prompt="name", temperature=0)
    assert default.usage is not None and default.usage.completion_tokens <= 16


def test_chat(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model="tiny", messages=CHAT, max_completion_tokens=6, n=2, seed=1)
    assert isinstance(found, ChatCompletion) and [choice.index for choice in found.choices] == [0, 1]
    assert found.choices[0].message.role == "assistant"
    assert {choice.finish_reason for choice in found.choices} <= {"stop", "length"}
    parts: Any = [
        {"role": "user", "content": [{"type": "text", "text": "name a "}, {"type": "text", "text": "river"}]}
    ]
    joined: Any = [{"role": "user", "content": "name a river"}]
    one, other = (
        client.chat.completions.create(model="tiny", messages=messages, max_tokens=6, temperature=0)
        for messages in (parts, joined)
    )
    assert one.choices[0].message.content == other.choices[0].message.content


def test_a_stream_is_the_whole_reply(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {
        "model": "tiny",
        "messages": CHAT,
        "max_tokens": 20,
        "seed": 5,
        "n": 3,
        "logprobs": True,
    }
    whole = client.chat.completions.create(**settings)
    texts, finish, tokens = ["", "", ""], [None] * 3, [0, 0, 0]
    usage = None
    for chunk in client.chat.completions.create(
        **settings, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finish[choice.index] = choice.finish_reason or finish[choice.index]
            tokens[choice.index] += len((choice.logprobs.content or []) if choice.logprobs else [])
    assert texts == [choice.message.content for choice in whole.choices]
    assert finish == [choice.finish_reason for choice in whole.choices]
    assert tokens == [len(choice.logprobs.content or []) for choice in whole.choices if choice.logprobs]
    assert usage == whole.usage


def test_completions_stream(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {
        "model": "tiny",
        "prompt": ["name a", "count"],
        "max_tokens": 9,
        "seed": 5,
        "echo": True,
    }
    settings["logprobs"] = 1
    whole = client.completions.create(**settings)
    texts, tokens = ["", ""], [[], []]  # type: ignore[var-annotated]
    for chunk in client.completions.create(**settings, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            assert choice.logprobs is not None
            tokens[choice.index] += choice.logprobs.tokens or []
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices if choice.logprobs]


def test_batches_of_texts_and_ids(server: RunningServer, client: openai.OpenAI) -> None:
    tokenizer = server.state.catalog.models["tiny"].loaded.tokenizer
    texts = ["name a river", "count to", "早上好"]
    ids = [tokenizer.encode(text) for text in texts]
    settings: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "seed": 3}
    alone = [client.completions.create(prompt=text, **settings).choices[0].text for text in texts]
    for prompt in (texts, ids):
        found = client.completions.create(prompt=prompt, **settings)
        assert [choice.text for choice in found.choices] == alone
        assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert client.completions.create(prompt=ids[0], **settings).choices[0].text == alone[0]


def test_n_choices_of_one_seed(client: openai.OpenAI) -> None:
    """Choice i is the same whatever n is; another seed gives others."""
    settings: dict[str, Any] = {"model": "tiny", "prompt": "name", "max_tokens": 12}
    three = [c.text for c in client.completions.create(n=3, seed=1, **settings).choices]
    assert len(set(three)) == 3
    assert [c.text for c in client.completions.create(n=2, seed=1, **settings).choices] == three[:2]
    assert [c.text for c in client.completions.create(n=3, seed=2, **settings).choices] != three
    unseeded = {client.completions.create(**settings).choices[0].text for _ in range(3)}
    assert len(unseeded) > 1


def test_best_of_returns_the_likeliest(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "tiny", "prompt": "name", "max_tokens": 6, "seed": 4, "logprobs": 0}
    drawn = client.completions.create(n=5, **settings)

    def mean(choice: Any) -> float:
        numbers = choice.logprobs.token_logprobs
        return sum(numbers) / len(numbers)

    best = sorted(drawn.choices, key=mean, reverse=True)
    found = client.completions.create(n=2, best_of=5, **settings)
    assert [choice.text for choice in found.choices] == [choice.text for choice in best[:2]]
    assert found.usage == drawn.usage


def test_sampling_fields_reach_the_draw(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "tiny", "prompt": "name", "max_tokens": 24, "seed": 1}
    plain = client.completions.create(**settings).choices[0].text
    greedy = client.completions.create(temperature=0, **settings).choices[0].text
    for extra in ({"top_k": 1}, {"min_p": 1.0}):
        assert client.completions.create(extra_body=extra, **settings).choices[0].text == greedy != plain
    assert client.completions.create(top_p=1e-6, **settings).choices[0].text == greedy
    for field in ("presence_penalty", "frequency_penalty"):
        assert client.completions.create(**settings, **{field: 2.0}).choices[0].text != plain


def test_logit_bias_forces_a_token(server: RunningServer, client: openai.OpenAI) -> None:
    tokenizer = server.state.catalog.models["tiny"].loaded.tokenizer
    (index,) = tokenizer.encode("e")
    found = client.completions.create(model="tiny", prompt="a", max_tokens=5, logit_bias={str(index): 100})
    assert found.choices[0].text == "eeeee"


@pytest.mark.parametrize("streamed", [False, True])
def test_stop_strings(client: openai.OpenAI, streamed: bool) -> None:
    settings: dict[str, Any] = {"model": "tiny", "prompt": "name", "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**settings).choices[0]
    for start, length in ((3, 1), (5, 3), (9, 2)):
        stop = whole.text[start : start + length]
        expected = whole.text[: whole.text.index(stop)]
        found = client.completions.create(stop=[stop, "never there"], stream=streamed, **settings)
        pieces = [c for part in found for c in part.choices] if streamed else found.choices
        assert "".join(choice.text for choice in pieces) == expected
        assert pieces[-1].finish_reason == "stop"
    single = client.completions.create(stop=whole.text[4], **settings)
    assert single.choices[0].text == whole.text[: whole.text.index(whole.text[4])]
    assert single.usage is not None and single.usage.completion_tokens < 40


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "instructgpt"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as found:
        client.completions.create(model="gpt-9", prompt="a")
    assert found.value.code == "model_not_found" and found.value.param == "model"
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt="a", suffix="b")
    assert refused.value.param == "suffix" and "To mend it" in str(refused.value)


def test_the_default_model_and_response_format(
    start_server: StartServer, other_checkpoint: Path, tiny_checkpoint: Path
) -> None:
    running = start_server(models=(f"a={tiny_checkpoint}", f"b={other_checkpoint}"))
    body = {"messages": CHAT, "max_tokens": 8, "temperature": 0, "response_format": {"type": "text"}}
    by_name = {name: running.post("/v1/chat/completions", {**body, "model": name}).json() for name in "ab"}
    texts = {name: found["choices"][0]["message"]["content"] for name, found in by_name.items()}
    assert texts["a"] != texts["b"]
    for default in ({}, {"model": ""}, {"model": "default"}):
        assert running.post("/v1/chat/completions", {**body, **default}).json()["model"] == "a"
