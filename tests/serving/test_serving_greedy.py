"""The same text however it is asked for: streaming, batches, offline engine, `transformers`."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch
import transformers

from instructgpt.generation.engine import Request, generate
from instructgpt.text.chat import Message, render_prompt

if TYPE_CHECKING:
    from conftest import RunningServer

LENGTH = 40
PROMPT = "name a river 早"


def others(count: int) -> list[dict[str, Any]]:
    """Requests of all kinds to stand beside the one that is looked at."""
    rng = random.Random(1)
    made = []
    for number in range(count):
        body: dict[str, Any] = {
            "prompt": "count to three please"[: rng.randint(1, 20)],
            "max_tokens": rng.randint(5, 70),
            "temperature": rng.choice([0, 0.7, 1, 1.6]),
            "seed": number,
            "stream": number % 2 == 0,
            "n": 1 + number % 3,
        }
        body |= rng.choice(
            [{}, {"top_p": 0.6}, {"min_p": 0.1}, {"presence_penalty": 1}, {"logprobs": 2}, {"stop": "a"}]
        )
        made.append(body)
    return made


async def text_of(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    if not body.get("stream"):
        return (await client.post("/v1/completions", json=body)).json()["choices"][0]["text"]
    text = ""
    async with client.stream("POST", "/v1/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                text += "".join(c["text"] for c in json.loads(line[6:])["choices"] if c["index"] == 0)
    return text


def beside_others(server: RunningServer, body: dict[str, Any], count: int = 16) -> str:
    """The reply to `body` while `count` other requests are being answered."""

    async def main() -> str:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            crowd = others(count)
            found = await asyncio.gather(
                *(text_of(client, other) for other in crowd[: count // 2]),
                text_of(client, body),
                *(text_of(client, other) for other in crowd[count // 2 :]),
            )
            return found[count // 2]

    return asyncio.run(main())


@pytest.fixture(scope="module")
def greedy_body() -> dict[str, Any]:
    return {"prompt": PROMPT, "max_tokens": LENGTH, "temperature": 0}


def test_greedy_text_is_one(
    server: RunningServer, tiny_checkpoint: Path, greedy_body: dict[str, Any]
) -> None:
    """float32: the server's text with and without a stream and beside 16 others is that of the offline
    engine, of a loop without cache, and of `transformers` on the same checkpoint."""
    loaded = server.state.catalog.models["tiny"].loaded
    ids = loaded.tokenizer.encode(PROMPT)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    with torch.no_grad():
        made = reference.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            do_sample=False,
            max_new_tokens=LENGTH,
            eos_token_id=sorted(loaded.tokenizer.stop_ids),
            pad_token_id=0,
        )[0, len(ids) :].tolist()
    uncached = list(ids)
    with torch.no_grad():
        while len(uncached) < len(ids) + LENGTH and uncached[-1] not in loaded.tokenizer.stop_ids:
            hidden = loaded.model(torch.tensor(uncached), torch.arange(len(uncached)), [len(uncached)])
            uncached.append(int(loaded.model.logits(hidden[-1:]).argmax()))
    request = Request(tuple(ids), 0, LENGTH, 0.0, stop_ids=loaded.tokenizer.stop_ids)
    assert made == uncached[len(ids) :] == generate(loaded.model, [request])[0].ids
    expected = loaded.tokenizer.decode(made)
    assert server.post("/v1/completions", greedy_body).json()["choices"][0]["text"] == expected
    for streamed in (False, True):
        assert beside_others(server, {**greedy_body, "stream": streamed}) == expected


def test_a_chat_is_the_template_and_the_engine(server: RunningServer) -> None:
    """The one encoder: a conversation's ids are those of training."""
    loaded = server.state.catalog.models["tiny"].loaded
    turns = [
        ("system", "be brief"),
        ("user", "hi <|end|> 早"),
        ("assistant", "yes"),
        ("user", "name a river"),
    ]
    ids = render_prompt(loaded.tokenizer, [Message(*turn) for turn in turns])
    request = Request(tuple(ids), 0, 30, 0.0, stop_ids=loaded.tokenizer.stop_ids)
    completion = generate(loaded.model, [request])[0]
    body = {"messages": [{"role": r, "content": c} for r, c in turns], "max_tokens": 30, "temperature": 0}
    found = server.post("/v1/chat/completions", body).json()
    shown = completion.ids[:-1] if completion.stopped else completion.ids
    assert found["choices"][0]["message"]["content"] == loaded.tokenizer.decode(shown)
    assert found["usage"] == {
        "prompt_tokens": len(ids),
        "completion_tokens": len(completion.ids),
        "total_tokens": len(ids) + len(completion.ids),
    }


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.8}, {"top_p": 0.7, "temperature": 1.3}, {"min_p": 0.07, "top_k": 20}]
)
def test_a_seeded_sample_does_not_depend_on_the_batch(
    server: RunningServer, settings: dict[str, Any]
) -> None:
    body = {"prompt": PROMPT, "max_tokens": LENGTH, "seed": 99, **settings}
    alone = server.post("/v1/completions", body).json()["choices"][0]["text"]
    for streamed in (False, True):
        assert beside_others(server, {**body, "stream": streamed}) == alone


def test_many_at_once_never_mix_up_tokens(server: RunningServer) -> None:
    """48 streams in 8 slots: each gets its own greedy text."""
    loaded = server.state.catalog.models["tiny"].loaded
    prompts = ["count to three please"[: 1 + number % 20] + str(number) for number in range(48)]
    asked = [
        Request(tuple(loaded.tokenizer.encode(p)), 0, 20, 0.0, stop_ids=loaded.tokenizer.stop_ids)
        for p in prompts
    ]
    expected = []
    for completion in generate(loaded.model, asked):
        expected.append(
            loaded.tokenizer.decode(completion.ids[:-1] if completion.stopped else completion.ids)
        )

    async def main() -> list[str]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            bodies = [{"prompt": p, "max_tokens": 20, "temperature": 0, "stream": True} for p in prompts]
            return await asyncio.gather(*(text_of(client, body) for body in bodies))

    assert asyncio.run(main()) == expected
