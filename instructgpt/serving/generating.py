"""From a body to the engine and back: what /v1/completions and /v1/chat/completions share."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive

from instructgpt.generation.requests import Request, TokenLogprobs
from instructgpt.runtime.seeds import derive_seed
from instructgpt.serving.access import Caller
from instructgpt.serving.catalog import Served
from instructgpt.serving.choices import Choice, Piece
from instructgpt.serving.fields import Sampling
from instructgpt.serving.jobs import Draw, Event, Running, Score
from instructgpt.serving.problems import Problem, failed, late
from instructgpt.serving.profiles import Profile
from instructgpt.serving.sse import while_there
from instructgpt.serving.state import ServerState


@dataclass(frozen=True)
class Asked:
    """Who asks what of which model."""

    state: ServerState
    caller: Caller
    served: Served
    profile: Profile | None
    kind: str
    """Prefix of the reply's id: "cmpl" or "chatcmpl"."""

    @property
    def head(self) -> dict[str, Any]:
        """Fields that every chunk of one reply shares."""
        return {
            "id": f"{self.kind}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
        }


def ask(state: ServerState, caller: Caller, body: Sampling, kind: str) -> Asked:
    """Find the caller's profile and the model.

    Raises:
        Problem: no such model; stream options without a stream.
    """
    if body.stream_options is not None and not body.stream:
        raise Problem(
            "stream_options without stream", "set stream to true, or leave it out", param="stream_options"
        )
    profile = state.profiles.of(caller.key, body.user)
    models = state.catalog.models
    name = body.model
    if name in ("", "default") and name not in models:
        name = (profile.model if profile else "") or next(iter(models), "")
    if name not in models:
        raise Problem(
            f"there is no model {body.model!r} here",
            f"use one of {', '.join(models)}" if models else "serve a language model, too",
            status=404,
            param="model",
            code="model_not_found",
        )
    return Asked(state, caller, models[name], profile, kind)


def room(asked: Asked, prompt: int, wanted: int | None, default: int | None, param: str) -> int:
    """How long a reply to a prompt of so many tokens may become.

    Args:
        wanted: what the request says; must fit. default: else that, cut to what fits (None: all that does).
        param: name of the field that `wanted` is.

    Raises:
        Problem: there is no room.
    """
    context = asked.served.loaded.model.config.context
    limit = asked.state.config.max_new or context
    left = context - prompt
    if left < 1 or (wanted is not None and wanted > left):
        cure = f"set {param} to {left} or less, or shorten the prompt" if left > 0 else "shorten the prompt"
        raise Problem(
            f"a prompt of {prompt} tokens and a reply of {wanted or 1} exceed the context of {context}",
            cure,
            param=param if left > 0 else "prompt" if asked.kind == "cmpl" else "messages",
            code="context_length_exceeded",
        )
    if wanted is not None and wanted > limit:
        raise Problem(
            f"{param} is {wanted}; this server draws {limit} at most", f"use {limit} or less", param=param
        )
    return (
        min(left, limit) if wanted is None and default is None else min(left, limit, wanted or default or 0)
    )


def draws(
    asked: Asked,
    body: Sampling,
    prompt: Sequence[int],
    count: int,
    max_new: int,
    top_logprobs: int | None,
    seed: int,
) -> list[Draw]:
    """`count` replies to one prompt; reply i depends on (seed, i), the prompt and the settings alone."""
    tokenizer = asked.served.loaded.tokenizer
    bias = _bias(body, asked.served.loaded.model.config.vocab_size)
    return [
        Draw(
            Request(
                prompt_ids=tuple(prompt),
                key=derive_seed("serve", seed, choice),
                max_new=max_new,
                temperature=1.0 if body.temperature is None else body.temperature,
                top_k=max(0, body.top_k or 0),
                top_p=1.0 if body.top_p is None else body.top_p,
                stop_ids=tokenizer.stop_ids,
                min_p=body.min_p or 0.0,
                presence_penalty=body.presence_penalty or 0.0,
                frequency_penalty=body.frequency_penalty or 0.0,
                logit_bias=bias,
                top_logprobs=top_logprobs,
            ),
            body.stops,
        )
        for choice in range(count)
    ]


def seed_of(body: Sampling) -> int:
    """The request's seed, or a random one."""
    return secrets.randbits(63) if body.seed is None else body.seed


def _bias(body: Sampling, vocabulary: int) -> tuple[tuple[int, float], ...]:
    found = {}
    for key, value in (body.logit_bias or {}).items():
        index = int(key) if key.isascii() and key.isdigit() and len(key) < 10 else -1
        if not 0 <= index < vocabulary:
            raise Problem(
                f"logit_bias names the token {key[:50]!r}",
                f"use token ids, 0 to {vocabulary - 1}, written as text",
                param="logit_bias",
            )
        found[index] = float(value)
    return tuple(found.items())


def count_choices(asked: Asked, body: Sampling, best_of: int | None = None) -> tuple[int, int]:
    """(n, replies to draw) of one prompt.

    Raises:
        Problem: more than the server allows, or fewer drawn than wanted.
    """
    n = body.n or 1
    drawn = n if best_of is None else best_of
    most = asked.state.config.max_choices
    for name, value in (("n", n), ("best_of", drawn)):
        if value > most:
            raise Problem(f"{name} is {value}", f"use {most} or less on this server", param=name)
    if drawn < n:
        raise Problem(f"best_of is {drawn} and n is {n}", f"set best_of to {n} or more", param="best_of")
    if body.stream and drawn > n:
        raise Problem(
            "a stream can't wait for the best of several replies",
            "leave out best_of, or stream",
            param="best_of",
        )
    return n, drawn


class Replies:
    """Replies being drawn: news in pieces, until all have ended, the deadline is over or the client gone."""

    def __init__(self, asked: Asked, jobs: Sequence[Draw]) -> None:
        """Submit the jobs; call it inside the event loop.

        Raises:
            Problem: see `Worker.submit`.
        """
        self.asked = asked
        tokenizer = asked.served.loaded.tokenizer
        self.choices = [Choice(tokenizer, job.stops) for job in jobs]
        self._running = submit(asked, jobs) if jobs else None
        self._began = time.monotonic()

    @property
    def drawn(self) -> int:
        """Tokens drawn so far, of all choices."""
        return sum(choice.drawn for choice in self.choices)

    async def news(self) -> AsyncIterator[list[tuple[int, Piece]]]:
        """(choice, piece) of all that have news, in portions.

        Raises:
            Problem: the deadline has passed (504), or the engine failed (500).
        """
        first = True
        left = len(self.choices)
        while left and self._running is not None:
            portion = []
            for event in await self._running.next():
                raise_end(self.asked, event)
                portion.append((event.job, self.choices[event.job].push(event.tokens, event.end)))
                left -= event.end is not None
            if first:
                self.asked.state.metrics.first_token(self.asked.served.name, time.monotonic() - self._began)
                first = False
            yield portion

    async def all(self, receive: Receive) -> None:
        """Wait until every reply is done; `receive` tells whether the client is still there.

        Raises:
            ClientGone, Problem: see `news`.
        """

        async def collect() -> None:
            async for _ in self.news():
                pass

        try:
            await while_there(receive, collect())
        finally:
            self.close()

    def close(self) -> None:
        """Free the slots of what is not done."""
        if self._running is not None:
            self._running.cancel()


def submit(asked: Asked, jobs: Sequence[Draw | Score]) -> Running:
    """Hand jobs to the worker, with the request's deadline."""
    running = asked.state.worker.submit(asked.served, jobs, asked.caller.share)
    over = Event(-1, end="failed")
    running.timer = asyncio.get_running_loop().call_later(
        asked.state.config.deadline, running.events.put_nowait, over
    )
    return running


def raise_end(asked: Asked, event: Event) -> None:
    """
    Raises:
        Problem: the event says that there will be no result.
    """
    if event.end == "failed":
        raise late(asked.state.config.deadline) if event.job < 0 else failed()


async def score(
    asked: Asked, prompts: Sequence[Sequence[int]], top: int, receive: Receive
) -> list[list[TokenLogprobs | None]]:
    """Log-probabilities of the prompts' tokens.

    Raises:
        ClientGone, Problem: see `Replies.news`.
    """
    running = submit(asked, [Score(tuple(prompt), top) for prompt in prompts])
    found: dict[int, list[TokenLogprobs | None]] = {}

    async def collect() -> None:
        while len(found) < len(prompts):
            for event in await running.next():
                raise_end(asked, event)
                found[event.job] = event.scores

    try:
        await while_there(receive, collect())
    finally:
        running.cancel()
    return [found[index] for index in range(len(prompts))]


def usage(prompt: int, drawn: int) -> dict[str, int]:
    """`usage` of a reply."""
    return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn}
